"""No NaN and no infinity in a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.errors import CheckpointError


def need_finite(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse arrays with NaN or infinity in them.

    Raises:
        CheckpointError: names the first such array and position.
    """
    for key, array in arrays.items():
        if not is_finite(array):
            index = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
            where = ", ".join(str(int(i)) for i in index)
            raise CheckpointError(
                f"'{key}' holds a value that is not finite",
                found=f"{array[index]} at [{where}]",
                why="a network with NaN or infinity in its weights computes nothing of use",
                hint="take an earlier checkpoint of the training",
            )


def is_finite(array: np.ndarray[Any, Any]) -> bool:
    """Whether every value is finite; integers are."""
    if array.dtype.kind in "iub" or not array.size:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()  # takes no array of truth values; NaN and infinity stay in it
    return bool(np.isfinite(total)) or bool(np.isfinite(array).all())
