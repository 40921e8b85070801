"""How far apart two right evaluations can be: bounds derived from float rounding alone.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1: a sum of n
products computed in any order is off by at most gamma_n times the sum of their magnitudes.
"""

from __future__ import annotations

import numpy as np

from reparam.conv.block import Block, Parallel, Sequential
from reparam.conv.operators import Array, AvgPool, BatchNorm, Conv
from reparam.conv.reference import evaluate_magnitude

UNIT_ROUNDOFF = {
    "float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8
}  # fmt: skip
SMALLEST_NORMAL = {
    "float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126
}  # fmt: skip

BATCH_NORM_ROUNDINGS = 6  # add, square root, divide, multiply, multiply, subtract
FUSING_ROUNDINGS = 8
"""Of one weight by who fuses in the dtype of the checkpoint: epsilon, add, square root, divide,
multiply by the kernel or the mean, multiply by a factor, and one for each of two plus signs."""


def gamma(n: int, dtype: str = "float64") -> float:
    """Return n*u / (1 - n*u), the relative error of n roundings with the unit roundoff u."""
    nu = n * UNIT_ROUNDOFF[dtype]
    if nu >= 1:
        raise ValueError(f"{n} roundings in {dtype} leave nothing to bound")
    return nu / (1 - nu)


def rounding_count(block: Block) -> int:
    """Return the roundings on the longest path through ``block``.

    The taps that one output sums, plus six for each BatchNorm, plus the branches of each sum.
    """
    if isinstance(block, Parallel):
        longest = max((rounding_count(part) for part in block.branches.values()), default=0)
        return longest + len(block.branches)
    if isinstance(block, Sequential):
        return sum(rounding_count(part) for part in block.parts)
    if isinstance(block, Conv):
        return int(block.weight[0].size) + 1
    if isinstance(block, AvgPool):
        return block.taps + 1
    return BATCH_NORM_ROUNDINGS if isinstance(block, BatchNorm) else 2


def error_bound(block: Block, x: Array, *, stored: str = "float64", roundings: int = 1) -> Array:
    """Return, for each output, how far the fused convolution may be from ``block``.

        2 * gamma_n * B    both sides are evaluated in float64, each may be off by gamma_n * B
        + k * u * B        the fused weight was rounded k times to the dtype ``stored``
        + taps * tiny      and values below its smallest normal were flushed to zero

    where B is ``block`` evaluated with absolute values. Derived, so it needs no tuning.

    Args:
        x: the probe (N, I, *spatial).
        stored: dtype the fused weight is kept in.
        roundings: k; once is ours, fusing in that dtype takes up to ``FUSING_ROUNDINGS``.
    """
    magnitude = evaluate_magnitude(block, x)
    bound = 2 * gamma(rounding_count(block)) * magnitude
    if stored != "float64":
        taps = rounding_count(block)
        tiny = SMALLEST_NORMAL[stored] * taps * (1 + float(np.abs(x).max(initial=0.0)))
        bound = bound + roundings * UNIT_ROUNDOFF[stored] * magnitude + tiny
    return bound
