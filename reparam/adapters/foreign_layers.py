"""A Layer of the user's own: loaded strictly, and converted by its own methods, on a copy.

The methods are taken at their word nowhere: :mod:`reparam.equivalence.layer_blocks` compares each
converted block with the block it was made of.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reparam.adapters.foreign_import import first_line, stdout_as_stderr
from reparam.adapters.paddle_models import import_paddle, load_arrays
from reparam.errors import NotFusibleError, ReparamError, UnsupportedModelError

METHODS = ("convert_to_deploy", "re_parameterize")
"""Of PaddleDetection (and this package), and of PaddleClas' RepVGG; both change the Layer in
place, take nothing and return nothing. A block that has both is converted by the first."""

_COLOURS = 3

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Converted:
    """A block that its own method converted.

    Attributes:
        where: its path in the network, ``"(root)"`` for the network itself.
        kind: the name of its class.
        method: the method that was called.
        replaced: keys of the network's state dict that went away.
        added: keys that came instead.
        parameters_before: values that are learned, before.
        parameters_after: and after.
    """

    where: str
    kind: str
    method: str
    replaced: tuple[str, ...]
    added: tuple[str, ...]
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Conversion:
    """A converted copy of a Layer, and what was done to which block."""

    layer: Any
    converted: tuple[Converted, ...]
    already: tuple[str, ...]


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


def block_paths(layer: Any) -> list[str]:
    """Return the paths of all blocks with a method in :data:`METHODS`, outermost first."""
    parts = layer.named_sublayers(include_self=True)
    return [path for path, part in parts if method_of(part) is not None]


def method_of(block: Any) -> str | None:
    """Return the name of the method that brings ``block`` to deploy form, None if it has none."""
    return next((name for name in METHODS if callable(getattr(block, name, None))), None)


def sublayer(layer: Any, path: str) -> Any:
    """Return the sublayer at a dotted path, the Layer itself for the empty one; None if absent."""
    if not path:
        return layer
    return next((part for name, part in layer.named_sublayers() if name == path), None)


def convert(layer: Any, skip: Sequence[str] = ()) -> Conversion:
    """Return a converted copy of a Layer; the Layer itself is not changed.

    Every block is converted once, outermost first. One that an outer block has converted on its
    way is not converted again, since such methods need not be idempotent; one whose method does
    nothing, or fails where there is no BatchNorm to fold, is in deploy form already.

    Args:
        layer: in evaluation mode, its weights loaded.
        skip: paths of blocks that stay as they are, with everything in them.

    Raises:
        NotFusibleError: a method raised.
    """
    result = copy_of(layer)
    result.eval()
    before = shapes_of(layer)
    converted: list[Converted] = []
    already: list[str] = []
    for path in block_paths(layer):
        block = sublayer(result, path)
        touched = block is None or _keys(before, path) != _keys(shapes_of(result), path)
        if touched or _is_inside(path, skip):
            continue
        result, done = _convert_one(result, path, block)
        if done is None:
            already.append(path or "(root)")
        else:
            converted.append(done)
    result.eval()
    return Conversion(result, tuple(converted), tuple(already))


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


def _convert_one(network: Any, path: str, block: Any) -> tuple[Any, Converted | None]:
    """Convert the block at ``path``; return the network, and None if there was nothing to do."""
    method = str(method_of(block))
    before, learned = shapes_of(network), _learned(block)
    untouched = copy_of(block)
    where, kind = path or "(root)", f"{type(block).__module__}.{type(block).__name__}"
    try:
        with stdout_as_stderr():
            getattr(block, method)()
    except (Exception, SystemExit) as error:
        if not any(key.endswith("_variance") for key in shapes_of(untouched)):
            return _with(network, path, untouched), None
        raise NotFusibleError(
            f"cannot convert block '{where}': its {method}() failed",
            found=error.what if isinstance(error, ReparamError) else first_line(error),
            why=f"the method is that of {kind}",
        ) from error
    after = shapes_of(network)
    if after == before:
        return _with(network, path, untouched), None
    replaced = tuple(key for key in before if key not in after)
    added = tuple(key for key in after if key not in before)
    return network, Converted(where, kind, method, replaced, added, learned, _learned(block))


def _with(network: Any, path: str, block: Any) -> Any:
    """Put an untouched copy where a method left its block half done, or did something unasked."""
    if not path:
        return block
    parent, _, name = path.rpartition(".")
    sublayer(network, parent).add_sublayer(name, block)
    return network


def _learned(block: Any) -> int:
    statistics = ("_mean", "_variance")  # Paddle counts these among the parameters
    return sum(int(t.size) for key, t in block.state_dict().items() if not key.endswith(statistics))


def _keys(shapes: Shapes, path: str) -> dict[str, tuple[int, ...]]:
    prefix = f"{path}." if path else ""
    return {key: shape for key, shape in shapes.items() if key.startswith(prefix)}


def _fits(needed: Shapes, found: Shapes, path: str) -> bool:
    return _keys(needed, path).keys() == _keys(found, path).keys()


def _is_inside(path: str, outer: Sequence[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in outer)
