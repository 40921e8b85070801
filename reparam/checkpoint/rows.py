"""One block to one stored convolution, some output channels at a time.

An output channel of a fused weight depends on that channel of every branch and on nothing else.
So a block is fused in parts whose float64 intermediates stay in a core's cache, which is several
times faster than the whole at once and needs no memory to speak of. The laws are the same, and so
is every bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from reparam.checkpoint.blocks import BlockMatch, block_tree
from reparam.conv import fuse
from reparam.conv.certificate import Certificate, ChannelBounds, certificate_of, channel_bounds
from reparam.conv.rounding import round_once

Array = np.ndarray[Any, Any]

_PART = 1 << 18  # elements of the fused weight: 2 MiB in float64


class FusedArrays(NamedTuple):
    """What a block becomes; ``flushed`` counts values that would have been subnormal."""

    weight: Array
    bias: Array
    flushed: int
    certificate: Certificate


def fuse_rows(match: BlockMatch, arrays: Mapping[str, Array], epsilon: float) -> FusedArrays:
    """Return the convolution that ``match`` is, rounded once to the dtype of its widest kernel.

    Raises:
        NotFusibleError: a fused value does not fit that dtype.
    """
    wide = arrays[match.wide_key]
    dtype = wide.dtype.newbyteorder("=")
    weight, bias = np.empty(wide.shape, dtype), np.empty(len(wide), dtype)

    def part(rows: slice) -> tuple[int, ChannelBounds]:
        tree = block_tree(match, arrays, epsilon, rows)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
            exact = fuse(tree)
        weight[rows], tiny_weights = round_once(exact.weight, dtype)
        bias[rows], tiny_biases = round_once(exact.bias, dtype)
        bounds = channel_bounds(tree, exact, weight[rows], bias[rows])
        return tiny_weights + tiny_biases, bounds

    flushed, bounds = zip(*map(part, parts_of(wide)), strict=True)
    return FusedArrays(weight, bias, sum(flushed), certificate_of(bounds, dtype.name))


def parts_of(wide: Array) -> Iterator[slice]:
    """Yield the output channels of each part in which a block with the kernel ``wide`` is fused."""
    rows = max(1, _PART // max(1, wide[0].size))
    return (slice(start, start + rows) for start in range(0, len(wide), rows))
