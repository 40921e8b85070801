"""The parts of a Layer of the user's own: finding, comparing and exchanging them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from reparam.adapters.foreign_import import first_line
from reparam.errors import UnsupportedModelError


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


def shapes_of(layer: Any) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the state dict of a Layer."""
    return {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items()}


def sublayer(layer: Any, path: str) -> Any:
    """Return the sublayer at a dotted path, the Layer itself for the empty one; None if absent.

    The name of a part may have dots itself.
    """
    if not path:
        return layer
    for name, child in layer._sub_layers.items():
        rest = path.removeprefix(f"{name}.") if path != name else ""
        found = sublayer(child, rest) if child is not None and rest != path else None
        if found is not None:
            return found
    return None


def put(network: Any, old: Any, new: Any) -> Any:
    """Put one Layer in the place of another, wherever that stands; return the network.

    Code that keeps its parts in a list or a dict of its own besides, and runs those, finds the new
    one there as well.
    """
    if network is old:
        return new
    for part in network.sublayers(include_self=True):
        for name, child in part._sub_layers.items():
            if child is old:
                part._sub_layers[name] = new
        for name, held in vars(part).items():
            if name != "_sub_layers":
                vars(part)[name] = _exchanged(held, old, new)
    return network


def _exchanged(held: Any, old: Any, new: Any) -> Any:
    """Exchange a Layer in a list or a dict, or return another tuple; anything else stays."""
    if type(held) is tuple and any(one is old for one in held):
        return tuple(new if one is old else one for one in held)
    if isinstance(held, (list, dict)):
        for place, one in list(held.items() if isinstance(held, dict) else enumerate(held)):
            if one is old:
                held[place] = new
    return held


def places_of(network: Any, block: Any, path: str = "") -> Iterator[str]:
    """Yield every path at which one Layer stands; a Layer may be used in several places."""
    if network is block:
        yield path
    for name, child in network._sub_layers.items():
        if child is not None:
            yield from places_of(child, block, f"{path}.{name}" if path else name)


def fingerprint(layer: Any) -> dict[tuple[str, ...], Any]:
    """Return what a method can change of a Layer: its arrays, its parts and their plain settings.

    Whether it is in training mode does not count.
    """
    found: dict[tuple[str, ...], Any] = {}
    for key, tensor in layer.state_dict().items():
        values = np.asarray(tensor.numpy())
        found["array", key] = (values.shape, hashlib.blake2b(values.tobytes()).digest())
    for path, part in layer.named_sublayers(include_self=True):
        found["part", path] = type(part)
        for name, value in vars(part).items():
            told = value is None or isinstance(value, (bool, int, float, str))
            if told and not name.startswith("_") and name != "training":
                found["setting", path, name] = value
    return found


def is_inside(path: str, outer: Iterable[str]) -> bool:
    """Whether a path or a key is one of ``outer``, or under one; everything is under ``""``."""
    return any(not other or path == other or path.startswith(f"{other}.") for other in outer)


def outermost(paths: Sequence[str]) -> list[str]:
    """Return the paths that are not under another of them, in their order."""
    return [path for path in paths if not is_inside(path, [o for o in paths if o != path])]
