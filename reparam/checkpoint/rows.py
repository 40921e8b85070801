"""One block to one stored convolution, some output channels at a time.

An output channel of a fused weight depends on that channel of every branch and on nothing else.
So a block is fused in parts whose float64 intermediates stay in a core's cache, which is several
times faster than the whole at once and needs no memory to speak of. The laws are the same, and so
is every bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from reparam.checkpoint.blocks import BlockMatch, block_tree
from reparam.checkpoint.families.terms import TORCH
from reparam.conv import fuse
from reparam.conv.certificate import Certificate, ChannelBounds, certificate_of, channel_bounds
from reparam.conv.rounding import round_once

Array = np.ndarray[Any, Any]

_PART = 1 << 18  # elements of the fused weight: 2 MiB in float64


class FusedArrays(NamedTuple):
    """What a block becomes."""

    weight: Array
    bias: Array
    certificate: Certificate


def fuse_rows(match: BlockMatch, arrays: Mapping[str, Array], epsilon: float) -> FusedArrays:
    """Return the convolution that ``match`` is, rounded once to the dtype of its widest kernel.

    Raises:
        NotFusibleError: a fused value does not fit that dtype.
    """
    dtype = arrays[match.wide_key].dtype.newbyteorder("=")
    weight = np.empty(match.geometry.weight, dtype)
    bias = np.empty(match.geometry.outputs, dtype)

    def part(rows: slice) -> ChannelBounds:
        tree = block_tree(match, arrays, epsilon, rows if match.by_rows else None)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
            exact = fuse(tree)
        weight[rows], _ = round_once(exact.weight, dtype)
        bias[rows], _ = round_once(exact.bias, dtype)
        return channel_bounds(tree, exact, weight[rows], bias[rows])

    certificate = certificate_of(map(part, parts_of(match)), dtype.name)
    return FusedArrays(stored_form(match, weight), bias, certificate)


def parts_of(match: BlockMatch) -> Iterator[slice]:
    """Yield the output channels of each part in which a block is fused."""
    outputs, *channel = match.geometry.weight
    rows = max(1, _PART // max(1, prod(channel))) if match.by_rows else outputs
    return (slice(start, start + rows) for start in range(0, outputs, rows))


def stored_form(match: BlockMatch, weight: Array) -> Array:
    """Return a fused weight (O, I/G, KH, KW) as the checkpoint's own network stores it."""
    if not match.linear:
        return weight
    matrix = weight.reshape(weight.shape[:2])
    return np.ascontiguousarray(matrix if match.spelling == TORCH else matrix.T)


def as_convolution(match: BlockMatch, weight: Array) -> Array:
    """Return a stored weight of the deploy form as that of a convolution: (O, I/G, KH, KW)."""
    if not match.linear:
        return weight
    matrix = weight if match.spelling == TORCH else weight.T
    return matrix.reshape(*matrix.shape, 1, 1)
