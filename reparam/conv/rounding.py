"""The one rounding of a fusion: from float64 to the dtype that the weights are kept in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.conv.bounds import FLUSHED, SMALLEST_NORMAL
from reparam.conv.operators import Array
from reparam.errors import NotFusibleError

BFLOAT16 = "bfloat16"

_LARGEST = {BFLOAT16: (2 - 2.0**-7) * 2.0**127}  # NumPy itself does not know this dtype
_DROPPED = np.uint64(52 - 7)  # bits of a float64 mantissa that bfloat16 has no place for
_BIAS = np.uint64((1023 - 127) << 7)  # between the exponents of the two, where bfloat16 has them
_INFINITY, _QUIET_NAN, _SIGN = np.uint16(0x7F80), np.uint16(0x7FC0), np.uint16(0x8000)


def round_once(values: Array, dtype: npt.DTypeLike) -> tuple[np.ndarray[Any, Any], int]:
    """Return ``values`` rounded to ``dtype``, and how many were flushed to zero.

    Values that would be subnormal in float32 or bfloat16 become zero (``FLUSHED`` says why); in
    float16 and float64 they are kept.

    Args:
        dtype: of float16, float32 or float64, or a dtype object whose name is bfloat16.

    Raises:
        NotFusibleError: a value is not finite in that dtype.
    """
    target = np.dtype(dtype)
    smallest = SMALLEST_NORMAL[target.name] if target.name in FLUSHED else 0.0
    if target.name == BFLOAT16:
        rounded = bfloat16_bits(values).view(target)
    else:
        with np.errstate(over="ignore", under="ignore"):
            rounded = values.astype(target)
    seen = np.abs(rounded.astype(np.float64) if target.name == BFLOAT16 else rounded)
    if not np.isfinite(seen.max(initial=0)):
        largest = _LARGEST.get(target.name) or np.finfo(target.name).max
        raise NotFusibleError(
            "the one convolution has weights that are not finite",
            found=f"largest magnitude: {np.abs(values).max():g}; {target.name} holds {largest:g}",
            hint="look for NaN or Inf in the branches, for variances next to zero, or use float32",
        )
    if seen.min(initial=np.inf) >= smallest:
        return rounded, 0  # the common case, in which nothing more has to be looked at
    tiny = (seen < smallest) & (values != 0)
    rounded[tiny] = 0
    return rounded, int(np.count_nonzero(tiny))


def bfloat16_bits(values: Array) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return the bits of ``values`` rounded to bfloat16, to nearest and ties to even.

    Rounded once, from the bits of float64: a cast by way of float32 rounds twice and is wrong for
    values just beside the middle of two neighbours.
    """
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    sign = (bits >> np.uint64(48)).astype(np.uint16) & _SIGN
    magnitude = np.abs(values)
    with np.errstate(over="ignore", invalid="ignore"):
        # Below the smallest normal the neighbours are 2**-133 apart, and scaling is exact.
        subnormal = np.rint(np.minimum(magnitude, 2.0**-126) * 2.0**133).astype(np.uint16)
    whole = bits & np.uint64(2**63 - 1)
    odd = (whole >> _DROPPED) & np.uint64(1)
    half = np.uint64(2 ** (int(_DROPPED) - 1) - 1)
    normal = (whole + half + odd) >> _DROPPED  # a carry into the exponent is the right one
    normal = np.minimum(np.maximum(normal, _BIAS) - _BIAS, np.uint64(_INFINITY)).astype(np.uint16)
    result = np.where(magnitude < 2.0**-126, subnormal, normal)
    rounded: np.ndarray[Any, np.dtype[np.uint16]]
    rounded = np.where(np.isnan(values), _QUIET_NAN, result | sign).astype(np.uint16)
    return rounded
