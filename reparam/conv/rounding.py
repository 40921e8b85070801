"""The one rounding of a fusion: from float64 to the dtype that the weights are kept in."""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.conv.bounds import SMALLEST_NORMAL
from reparam.conv.operators import Array
from reparam.errors import NotFusibleError


def round_once(values: Array, dtype: str) -> tuple[np.ndarray[Any, Any], int]:
    """Return ``values`` rounded to ``dtype``, and how many were flushed to zero.

    Values that would be subnormal become zero: they change no result that matters and make a CPU
    several times slower.

    Args:
        dtype: ``float16``, ``float32`` or ``float64``.

    Raises:
        NotFusibleError: a value is not finite in that dtype.
    """
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(dtype)
    if not np.isfinite(rounded).all():
        raise NotFusibleError(
            "the one convolution has weights that are not finite",
            found=f"largest magnitude: {np.abs(values).max():g}; "
            f"{dtype} holds {np.finfo(dtype).max:g}",
            hint="look for NaN or Inf in the branches, for variances next to zero, or use float32",
        )
    tiny = (np.abs(rounded) < SMALLEST_NORMAL[dtype]) & (values != 0)
    rounded[tiny] = 0
    return rounded, int(np.count_nonzero(tiny))
