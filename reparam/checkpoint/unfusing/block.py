"""One block back in train-time form, and the proof that it is the convolution that it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reparam.checkpoint.blocks import BlockMatch, block_tree
from reparam.checkpoint.families.terms import Chain, Scale, Sum, Term
from reparam.checkpoint.rows import as_convolution, parts_of
from reparam.checkpoint.unfusing.filling import LARGEST_EPSILON, Filling
from reparam.conv import fuse
from reparam.conv.certificate import (
    Certificate,
    ChannelBounds,
    certificate_of,
    channel_bounds,
    worst_element,
)
from reparam.conv.rounding import round_once
from reparam.errors import CheckpointError, NotEquivalentError

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UnfusedArrays:
    """The train-time arrays of a block, and how far they are from the convolution.

    ``same`` says that fusing them gives the convolution back, value for value.
    """

    arrays: dict[str, Array]
    carrier: str
    same: bool
    certificate: Certificate


def unfuse_block(
    match: BlockMatch,
    shapes: Shapes,
    weight: Array,
    bias: Array,
    epsilon: float,
    fixed: Mapping[str, Array],
) -> UnfusedArrays:
    """Return arrays for ``match``, a block in train-time form, that compute a convolution.

    Args:
        shapes: of every array of the block.
        weight, bias: of the convolution, as its file stores them.
        epsilon: of the BatchNorms.
        fixed: arrays of the block that no training changes.

    Raises:
        NoRoomError: no branch can hold the convolution.
        NotEquivalentError: the arrays are further from it than one rounding.
        CheckpointError: the epsilon is too large for a neutral BatchNorm.
    """
    if epsilon > LARGEST_EPSILON:
        raise CheckpointError(
            f"cannot unfuse block '{match.where}' with an epsilon of {epsilon:g}",
            found=f"needed: {LARGEST_EPSILON:g} or less",
            why="a BatchNorm with a larger one cannot be neutral to the last bit",
        )
    conv_weight = as_convolution(match, weight)
    filling = Filling(match, shapes, fixed, weight.dtype.newbyteorder("="), epsilon)
    filling.fill(conv_weight, bias)
    arrays = filling.arrays
    certificate, same = _proved(match, arrays, conv_weight, bias, epsilon)
    return UnfusedArrays(arrays, filling.carrier.weight, same, certificate)


def without_neutral(match: BlockMatch) -> BlockMatch:
    """Return the block without what stays in the deploy form and goes on being applied there."""
    return replace(match, term=_stripped(match.term))


def _stripped(term: Term) -> Term:
    if isinstance(term, Chain):
        kept = [_stripped(p) for p in term.parts if not (isinstance(p, Scale) and p.neutral)]
        return Chain(*kept, label=term.label) if len(kept) > 1 else kept[0]
    if isinstance(term, Sum):
        return Sum(*map(_stripped, term.branches), label=term.label)
    return term


def _proved(
    match: BlockMatch, arrays: Mapping[str, Array], weight: Array, bias: Array, epsilon: float
) -> tuple[Certificate, bool]:
    """Return how far the convolution is from the block, and whether fusing gives it back.

    Raises:
        NotEquivalentError: one value is off by more than one rounding.
    """
    every: list[ChannelBounds] = []
    same = True
    for rows in parts_of(match):
        tree = block_tree(match, arrays, epsilon, rows if match.by_rows else None)
        exact = fuse(tree)
        stored = weight[rows], bias[rows]
        every.append(channel_bounds(tree, exact, *stored))
        worst = worst_element(tree, exact, *stored, roundings=1)
        if not worst.off <= worst.allowed:
            raise NotEquivalentError(
                f"cannot unfuse block '{match.where}' ({match.family.name})",
                found=f"{worst.name} {list(worst.index)} would be off by {worst.off:.3g} "
                f"(allowed: {worst.allowed:.3g})",
            )
        for values, given in zip((exact.weight, exact.bias), stored, strict=True):
            back, _ = round_once(values, given.dtype)
            flushed, _ = round_once(given.astype(np.float64), given.dtype)
            same = same and np.array_equal(back, flushed)
    return certificate_of(every, weight.dtype.name), same
