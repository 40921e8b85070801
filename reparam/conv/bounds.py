"""How far apart two right evaluations can be: bounds derived from float rounding alone.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1: a sum of n
products computed in any order is off by at most gamma_n times the sum of their magnitudes.
"""

from __future__ import annotations

from reparam.conv.block import Block, Parallel, Sequential
from reparam.conv.operators import AvgPool, BatchNorm, Conv

UNIT_ROUNDOFF = {
    "float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8
}  # fmt: skip
SMALLEST_NORMAL = {
    "float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126
}  # fmt: skip

FLUSHED = frozenset({"float32", "bfloat16"})
"""Dtypes in which a value that would be subnormal is stored as zero, since it changes no result
that matters and makes a CPU several times slower. A bfloat16 has the exponents of a float32 and is
computed with as one. In float16 ordinary weights are subnormal: all values from 6e-8 to 6.1e-5."""

UNDERFLOW = {
    "float64": 2.0**-1074, "float32": 2.0**-126, "float16": 2.0**-25, "bfloat16": 2.0**-126
}  # fmt: skip
"""By how much storing one small value can change it: a flushed one by the smallest normal, another
one by half the smallest subnormal (all of it for float64, which has no number for its half)."""

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
