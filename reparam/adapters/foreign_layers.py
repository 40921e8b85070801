"""A Layer of the user's own: loaded strictly, and converted by its own methods, on a copy.

The methods are taken at their word nowhere: :mod:`reparam.equivalence.layer_proving` compares what
each of them made with the block it was made of, while the network is converted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reparam.adapters.foreign_fusing import Form, structure_of
from reparam.adapters.foreign_import import first_line, stdout_as_stderr
from reparam.adapters.foreign_methods import (
    block_paths,
    fingerprint,
    method_of,
    places_of,
    put,
    sublayer,
)
from reparam.adapters.paddle_models import Array, import_paddle, load_arrays, state_of
from reparam.errors import NotFusibleError, ReparamError, UnsupportedModelError

_COLOURS = 3

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Converted:
    """A block that is in deploy form now.

    Attributes:
        where: its path in the network, ``"(root)"`` for the network itself.
        kind: the name of its class.
        method: the method that was called.
        replaced: keys of the network's state dict that went away.
        added: keys that came instead.
        parameters_before: values that are learned, before.
        parameters_after: and after.
        by: ``"method"``, or ``"reparam"`` where what the method made was not used.
        problem: what is wrong with the method; empty if nothing is.
        runs: whether the user's own deploy form is the block, with the arrays that come of this.
    """

    where: str
    kind: str
    method: str
    replaced: tuple[str, ...]
    added: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    by: str = "method"
    problem: str = ""
    runs: bool = True


@dataclass(frozen=True)
class Trial:
    """What a method made of a block, before anybody believes it.

    Attributes:
        path: of the block in the network.
        kind: the name of its class.
        method: that was called.
        untouched: the block as it was.
        made: Layers that may be meant to stand in its place, likeliest first.
        failure: why there are none.
    """

    path: str
    kind: str
    method: str
    untouched: Any
    made: tuple[Any, ...]
    failure: str = ""

    @property
    def where(self) -> str:
        return self.path or "(root)"


@dataclass(frozen=True)
class Chosen:
    """What is to stand in the place of a block, and how that came about; see Converted."""

    form: Form
    by: str = "method"
    problem: str = ""


Judge = Callable[[Trial], "Chosen | None"]


@dataclass(frozen=True)
class Conversion:
    """A converted copy of a Layer, and what was done to which block.

    Attributes:
        layer: can be run; it is the function that ``arrays`` stand for.
        converted: blocks that are in deploy form now.
        already: blocks that were.
        stored: what a file holds of a block where that is not what ``layer`` holds, by its path.
    """

    layer: Any
    converted: tuple[Converted, ...]
    already: tuple[str, ...]
    stored: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The state dict of the deploy form, as a file holds it."""
        return _arrays(self.layer, self.stored)


def copy_of(layer: Any) -> Any:
    """Return a copy of a Layer that shares nothing with it.

    Raises:
        UnsupportedModelError: the Layer holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(layer)
    except Exception as error:
        raise UnsupportedModelError(
            f"cannot copy the network {type(layer).__name__}",
            found=first_line(error),
            why="it is converted on a copy, so that the two can be compared",
        ) from error


def believe(trial: Trial) -> Chosen:
    """Choose what a method made, without a proof; our own fusion where the method failed.

    Raises:
        NotFusibleError: it failed, and nothing is known of the block.
    """
    if trial.made:
        return Chosen(Form(trial.made[0]))
    structure = structure_of(trial.untouched)
    form = next(structure.forms(), None) if structure else None
    if form is None:
        raise failed(trial)
    return Chosen(form, "reparam", trial.failure)


def failed(trial: Trial, why: str = "") -> NotFusibleError:
    """Return the error for a method that failed."""
    return NotFusibleError(
        f"cannot convert block '{trial.where}': its {trial.method}() failed",
        found=trial.failure,
        why=f"the method is that of {trial.kind}" + (f"; {why}" if why else ""),
        hint=f"--skip {trial.where} leaves that block as it is",
    )


def convert(layer: Any, skip: Sequence[str] = (), judge: Judge = believe) -> Conversion:
    """Return a converted copy of a Layer; the Layer itself is not changed.

    Every block is converted once, outermost first. One that an outer block has converted on its
    way is not converted again, since such methods need not be idempotent; one whose method does
    nothing, or fails where there is no BatchNorm to fold, is in deploy form already. A method
    that would change a skipped block on its way is not called.

    Args:
        layer: in evaluation mode, its weights loaded.
        skip: paths of blocks that stay as they are, with everything in them.
        judge: says what stands in the place of a block; None leaves it as it was, and the blocks
            inside it are converted one by one.

    Raises:
        NotFusibleError: a method raised, and ``judge`` refuses.
    """
    found = _Walk(layer, skip, judge, watchful=False).conversion()
    if _changed_outside(layer, found):
        return _Walk(layer, skip, judge, watchful=True).conversion()
    return found


class _Walk:
    """One way through a network, block by block.

    Args:
        watchful: look after each call whether it changed anything outside its block, which takes
            longer.
    """

    def __init__(self, layer: Any, skip: Sequence[str], judge: Judge, watchful: bool) -> None:
        self.layer, self.skip, self.judge, self.watchful = layer, skip, judge, watchful
        self.network = copy_of(layer)
        self.network.eval()
        self.converted: dict[str, Converted] = {}
        self.already: list[str] = []
        self.stored: dict[str, Mapping[str, Array]] = {}

    def conversion(self) -> Conversion:
        for path in block_paths(self.layer):
            block = sublayer(self.network, path)
            inside = _is_inside(path, list(self.converted))
            gone = block is None or method_of(block) is None
            if gone or inside and fingerprint(block) != fingerprint(sublayer(self.layer, path)):
                continue
            if not _is_inside(path, self.skip) and not any(_is_inside(s, [path]) for s in self.skip):
                self._convert(path, block)
        self.network.eval()
        converted = tuple(self.converted.values())
        return Conversion(self.network, converted, tuple(self.already), self.stored)

    def _convert(self, path: str, block: Any) -> None:
        before, learned = set(_arrays(self.network, self.stored)), _learned(block)
        trial = self._tried(path, block)
        if trial is None:
            self.already.append(path or "(root)")
            return
        chosen = self.judge(trial)
        if chosen is None:
            self.network = put(self.network, block, trial.untouched)
            return
        form = chosen.form
        self.network = put(self.network, block, form.layer)
        if form.arrays is not None:
            self.stored[path] = form.arrays
        after = _arrays(self.network, self.stored)
        self.converted[path] = Converted(
            where=trial.where,
            kind=trial.kind,
            method=trial.method,
            replaced=tuple(key for key in _keys_of(self.layer, path) if key not in after),
            added=tuple(key for key in after if key not in before),
            parameters_before=learned,
            parameters_after=_learned(form.layer),
            by=chosen.by,
            problem=chosen.problem,
            runs=not form.flaw,
        )

    def _tried(self, path: str, block: Any) -> Trial | None:
        """Call the method of a block; return None, and all as it was, if there was nothing to do."""
        method, untouched = str(method_of(block)), copy_of(block)
        kind = f"{type(block).__module__}.{type(block).__name__}"
        before = fingerprint(block)
        beside = _Beside(self.network, block) if self.watchful else None
        returned, failure = None, ""
        try:
            with stdout_as_stderr():
                returned = getattr(block, method)()
        except (Exception, SystemExit) as error:
            failure = error.what if isinstance(error, ReparamError) else first_line(error)
        moved = beside.restored() if beside else []
        if moved:
            failure = f"it changes {len(moved)} arrays outside the block, '{moved[0]}' first"
        if failure:
            if any(key.endswith("_variance") for key in untouched.state_dict()):
                return Trial(path, kind, method, untouched, (), failure)
            self.network = put(self.network, block, untouched)
            return None
        made = [block] if fingerprint(block) != before else []
        if isinstance(returned, import_paddle().nn.Layer) and returned is not block:
            made.append(returned)
        return Trial(path, kind, method, untouched, tuple(made)) if made else None


class _Beside:
    """The arrays of a network outside one block, to be looked at again after a method was called."""

    def __init__(self, network: Any, block: Any) -> None:
        self.network = network
        self.places = list(places_of(network, block))
        self.before = {key: array.copy() for key, array in self._now().items()}

    def _now(self) -> dict[str, Array]:
        state = state_of(self.network)
        return {key: state[key] for key in state if not _is_inside(key, self.places)}

    def restored(self) -> list[str]:
        """Return the keys of arrays that changed, and give them their values back.

        Raises:
            NotFusibleError: keys or shapes changed as well.
        """
        now, before = self._now(), self.before
        if now.keys() != before.keys() or any(now[k].shape != before[k].shape for k in now):
            odd = next(iter(now.keys() ^ before.keys()), "a shape")
            raise NotFusibleError(
                f"the method of block '{self.places[0]}' changes what is outside it", found=odd
            )
        moved = [key for key in now if now[key].tobytes() != before[key].tobytes()]
        tensors = self.network.state_dict()
        with import_paddle().no_grad():
            for key in moved:
                tensors[key].set_value(before[key])
        return moved


def load_in_its_form(layer: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """Return ``layer``, or a copy of it, with ``arrays`` loaded, each block in the form they have.

    A block whose keys are not those of the arrays is converted first: a checkpoint may be in
    train-time form, in deploy form, or half-fused.

    Raises:
        CheckpointError: a name, a shape or a dtype is not that of the Layer in either form; the
            message speaks of the train-time form if the arrays have anything of it.
        NotFusibleError: a method raised.
    """
    found = {name: array.shape for name, array in arrays.items()}
    plain = shapes_of(layer)
    if plain.keys() != found.keys():
        fitted = convert(layer).layer
        if shapes_of(fitted).keys() != found.keys():
            kept = [path for path in block_paths(layer) if _fits(plain, found, path)]
            fitted = convert(layer, skip=kept).layer
        needed = shapes_of(fitted)
        branches = plain.keys() - needed.keys()
        if needed.keys() == found.keys() or not branches & found.keys():
            layer = fitted
    load_arrays(layer, arrays)
    return layer


def shapes_of(layer: Any) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the state dict of a Layer."""
    return {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items()}


def input_channels(layer: Any) -> list[int]:
    """Return what the image may have for channels, likeliest first: I of some convolution.

    Layers are in the order in which they were made, which need not be that in which they run.
    """
    kind = import_paddle().nn.Conv2D
    convs = (part for part in layer.sublayers(include_self=True) if isinstance(part, kind))
    found = list(dict.fromkeys(int(conv._in_channels) for conv in convs))
    return sorted(found, key=lambda channels: channels != _COLOURS)


def _arrays(layer: Any, stored: Mapping[str, Mapping[str, Array]]) -> Mapping[str, Array]:
    state = state_of(layer)
    if not stored:
        return state
    arrays = {key: state[key] for key in state if not _is_inside(key, list(stored))}
    for path, own in stored.items():
        arrays.update({f"{path}.{key}".lstrip("."): own[key] for key in own})
    return arrays


def _changed_outside(layer: Any, found: Conversion) -> bool:
    """Whether an array that is in no converted block changed; no block may change another one."""
    paths = [done.where for done in found.converted]
    if "(root)" in paths or not paths:
        return False
    blocks = [sublayer(found.layer, path) for path in paths]
    places = [place for block in blocks for place in places_of(found.layer, block)] + paths
    before, after = state_of(layer), state_of(found.layer)
    keys = [key for key in {**before, **after} if not _is_inside(key, places)]
    return any(
        key not in before or key not in after or before[key].tobytes() != after[key].tobytes()
        for key in keys
    )


def _learned(block: Any) -> int:
    statistics = ("_mean", "_variance")  # Paddle counts these among the parameters
    return sum(int(t.size) for key, t in block.state_dict().items() if not key.endswith(statistics))


def _keys_of(layer: Any, path: str) -> list[str]:
    return list(_keys(shapes_of(layer), path))


def _keys(shapes: Shapes, path: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if _is_inside(key, [path])}


def _fits(needed: Shapes, found: Shapes, path: str) -> bool:
    return _keys(needed, path).keys() == _keys(found, path).keys()


def _is_inside(path: str, outer: Sequence[str]) -> bool:
    return any(not other or path == other or path.startswith(f"{other}.") for other in outer)
