"""Converting a copy of a Layer of the user's own by the methods of its blocks.

The methods are taken at their word nowhere: :mod:`reparam.equivalence.layer_proving` compares what
each of them made with the block it was made of, while the network is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reparam.adapters.foreign_fusing import Form
from reparam.adapters.foreign_import import first_line, stdout_as_stderr
from reparam.adapters.foreign_methods import block_paths, method_of
from reparam.adapters.foreign_parts import (
    copy_of,
    fingerprint,
    is_inside,
    places_of,
    put,
    sublayer,
)
from reparam.adapters.foreign_stand_ins import INSTALLED
from reparam.adapters.foreign_trials import Chosen, Converted, Judge, Trial, believe
from reparam.adapters.paddle_models import Array, import_paddle, state_of
from reparam.errors import NotFusibleError, ReparamError


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


def convert(
    layer: Any, skip: Sequence[str] = (), new_judge: Callable[[], Judge] = lambda: believe
) -> Conversion:
    """Return a converted copy of a Layer; the Layer itself is not changed.

    Every block is converted once, outermost first. One that an outer block has converted on its
    way is not converted again, since such methods need not be idempotent; one whose method does
    nothing, or fails where there is no BatchNorm to fold, is in deploy form already. A method
    that would change a skipped block on its way is not called.

    Args:
        layer: in evaluation mode, its weights loaded.
        skip: paths of blocks that stay as they are, with everything in them.
        new_judge: returns what says what stands in the place of a block; None leaves it as it was,
            and the blocks inside it are converted one by one. Called again where all has to be
            done a second time, more watchfully.

    Raises:
        NotFusibleError: a method raised, and the judge refuses.
    """
    found = _Walk(layer, skip, new_judge(), watchful=False).conversion()
    if _changed_outside(layer, found):
        return _Walk(layer, skip, new_judge(), watchful=True).conversion()
    return found


def tried_blocks(layer: Any) -> list[str]:
    """Return the paths of the blocks on which a method does something, or fails."""
    found: list[str] = []

    def leave(trial: Trial) -> None:
        found.append(trial.path)

    convert(layer, new_judge=lambda: leave)
    return found


def as_made(trial: Trial) -> Chosen | None:
    """Choose what a method made, without a proof; leave a block whose method failed."""
    return Chosen(Form(trial.made[0])) if trial.made else None


def path_of(where: str) -> str:
    """Return the path of what a report calls ``where``."""
    return "" if where == "(root)" else where


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
            if block is None or method_of(block) is None or self._stays(path, block):
                continue
            self._convert(path, block)
        self.network.eval()
        converted = tuple(self.converted.values())
        return Conversion(self.network, converted, tuple(self.already), self.stored)

    def _stays(self, path: str, block: Any) -> bool:
        """Whether a block is skipped, holds one that is, or was converted by one around it."""
        if is_inside(path, self.skip) or any(is_inside(one, [path]) for one in self.skip):
            return True
        inside = is_inside(path, list(self.converted))
        return inside and fingerprint(block) != fingerprint(sublayer(self.layer, path))

    def _convert(self, path: str, block: Any) -> None:
        before, learned = set(_arrays(self.network, self.stored)), _learned(block)
        trial = None if INSTALLED in vars(block) else self._tried(path, block)
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
        own = [key for key in self.layer.state_dict() if is_inside(key, [path])]
        self.converted[path] = Converted(
            where=trial.where,
            kind=trial.kind,
            method=trial.method,
            replaced=tuple(key for key in own if key not in after),
            added=tuple(key for key in after if key not in before),
            parameters_before=learned,
            parameters_after=_learned(form.layer),
            by=chosen.by,
            problem=chosen.problem,
            runs=not form.flaw,
        )

    def _tried(self, path: str, block: Any) -> Trial | None:
        """Call the method of a block; return None if there was nothing to do."""
        method, untouched = str(method_of(block)), copy_of(block)
        kind = f"{type(block).__module__}.{type(block).__name__}"
        before = fingerprint(block)
        beside = _Beside(self.network, block) if self.watchful else None
        returned, failure, detail = None, "", ""
        try:
            with stdout_as_stderr():
                returned = getattr(block, method)()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything
            failure = "failed"
            detail = error.what if isinstance(error, ReparamError) else first_line(error)
        moved = beside.restored() if beside else []
        if moved and not failure:
            failure = "changes what is outside the block"
            detail = f"{len(moved)} arrays, '{moved[0]}' first"
        if failure:
            if any(key.endswith("_variance") for key in untouched.state_dict()):
                return Trial(path, kind, method, untouched, (), failure, detail)
            self.network = put(self.network, block, untouched)
            return None
        made = [block] if fingerprint(block) != before else []
        if isinstance(returned, import_paddle().nn.Layer) and returned is not block:
            made.append(returned)
        return Trial(path, kind, method, untouched, tuple(made)) if made else None


class _Beside:
    """The arrays of a network outside one block, to be looked at again after a call."""

    def __init__(self, network: Any, block: Any) -> None:
        self.network = network
        self.places = list(places_of(network, block))
        self.before = {key: array.copy() for key, array in self._now().items()}

    def _now(self) -> dict[str, Array]:
        state = state_of(self.network)
        return {key: state[key] for key in state if not is_inside(key, self.places)}

    def restored(self) -> list[str]:
        """Return the keys of arrays that changed, and give them their values back.

        Raises:
            NotFusibleError: keys or shapes changed as well.
        """
        now, before = self._now(), self.before
        if now.keys() != before.keys() or any(now[k].shape != before[k].shape for k in now):
            odd = next(iter(now.keys() ^ before.keys()), "a shape")
            raise NotFusibleError(
                f"the method of block '{self.places[0]}' changes what is outside the block",
                found=f"names or shapes: {odd}",
                hint=f"--skip {self.places[0]} leaves that block as it is",
            )
        moved = [key for key in now if now[key].tobytes() != before[key].tobytes()]
        tensors = self.network.state_dict()
        with import_paddle().no_grad():
            for key in moved:
                tensors[key].set_value(before[key])
        return moved


def _arrays(layer: Any, stored: Mapping[str, Mapping[str, Array]]) -> Mapping[str, Array]:
    state = state_of(layer)
    if not stored:
        return state
    arrays = {key: state[key] for key in state if not is_inside(key, list(stored))}
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
    keys = [key for key in {**before, **after} if not is_inside(key, places)]
    return any(
        key not in before or key not in after or before[key].tobytes() != after[key].tobytes()
        for key in keys
    )


def _learned(block: Any) -> int:
    statistics = ("_mean", "_variance")  # Paddle counts these among the parameters
    return sum(int(t.size) for key, t in block.state_dict().items() if not key.endswith(statistics))
