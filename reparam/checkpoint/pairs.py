"""Convolutions with a BatchNorm of their own, outside blocks: which of them may be folded.

A state dict does not tell what follows what. One convention does: ``X.conv`` and ``X.bn`` under
one prefix, in that order, is a ConvBNLayer of PaddleDetection and PaddleClas, which normalizes
what it convolves. Nothing else is paired, least of all by the order of the file.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from reparam.checkpoint.blocks import BlockMatch, Shapes
from reparam.checkpoint.families import CONV_BN
from reparam.checkpoint.families.terms import COUNTER, STATISTICS
from reparam.checkpoint.geometry import Geometry
from reparam.checkpoint.resolving import resolve

_SPELLING = {mean: spelling for spelling, (mean, _) in STATISTICS.items()}
_BATCH_NORM = ".bn"  # how the convention names it
_LEAST_AXES = 3  # of a convolution's weight: (O, I/G, K)


def find_pairs(
    shapes: Shapes, taken: Collection[str] = ()
) -> tuple[tuple[BlockMatch, ...], tuple[tuple[str, str], ...]]:
    """Return the pairs of the convention, and every other BatchNorm with why it stays.

    Args:
        taken: keys that belong to blocks, which are not looked at.
    """
    order = {key: place for place, key in enumerate(shapes)}
    pairs, left = [], []
    for key in shapes:
        norm, _, statistic = key.rpartition(".")
        spelling = _SPELLING.get(statistic)
        if spelling is None or key in taken or f"{norm}.{STATISTICS[spelling][1]}" not in shapes:
            continue
        problem = _problem(norm, spelling, shapes, order)
        if problem:
            left.append((norm, f"BatchNorm not folded: {problem}"))
        else:
            pairs.append(_pair(norm.removesuffix(_BATCH_NORM[1:]), spelling, shapes))
    return tuple(pairs), tuple(left)


def _problem(norm: str, spelling: str, shapes: Shapes, order: dict[str, int]) -> str:
    """Return why the names do not prove that ``norm`` follows a convolution, or nothing."""
    if not f".{norm}".endswith(_BATCH_NORM):
        return "nothing in the names proves which convolution it follows"
    prefix = norm.removesuffix(_BATCH_NORM[1:])
    conv = f"{prefix}conv.weight"
    if conv not in shapes:
        return f"'{conv}' is not in the file"
    needed = shapes[conv][:1]
    if len(shapes[conv]) < _LEAST_AXES:
        return f"'{conv}' has the shape {shapes[conv]}, which is no convolution"
    parts = [f"{norm}.{part}" for part in ("weight", "bias", *STATISTICS[spelling])]
    for key in (*parts, f"{prefix}conv.bias"):
        if shapes.get(key, needed if key.endswith("conv.bias") else ()) != needed:
            found = f"has the shape {shapes[key]}" if key in shapes else "is missing"
            return f"'{key}' {found}; '{conv}' has {needed[0]} output channels"
    if any(order[part] < order[conv] for part in parts):
        return f"it stands before '{conv}' in the file, so it may come before it in the network"
    return ""


def _pair(prefix: str, spelling: str, shapes: Shapes) -> BlockMatch:
    """Return the match of a pair; the kernel may have any window, so no geometry is asked for."""
    names = [key[len(prefix) :] for key in _under(prefix, shapes)]
    resolved = resolve(CONV_BN, prefix, names)
    assert resolved.term is not None  # the caller has seen its keys
    outputs, per_group, *kernel = shapes[f"{prefix}conv.weight"]
    size = prod(shapes[f"{prefix}conv.weight"])
    geometry = Geometry(outputs, per_group, None, tuple(kernel), {}, size)
    counters = tuple(resolved.counters)
    return BlockMatch(prefix, CONV_BN, resolved.term, geometry, spelling, counters)


def _under(prefix: str, shapes: Shapes) -> list[str]:
    norm = [f"{prefix}bn.{key}" for pair in STATISTICS.values() for key in pair]
    norm += [f"{prefix}bn.{key}" for key in ("weight", "bias", COUNTER)]
    own = (f"{prefix}conv.weight", f"{prefix}conv.bias", *norm)
    return [key for key in own if key in shapes]


def folded_in(pairs: Collection[BlockMatch], candidate: Shapes) -> tuple[BlockMatch, ...]:
    """Return those of ``pairs`` that ``candidate`` holds as one convolution with a bias."""
    return tuple(
        pair
        for pair in pairs
        if pair.bias_key in candidate and not any(key in candidate for key in pair.norms[0].keys)
    )
