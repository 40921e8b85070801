"""Arrays that belong to no block: each has to be in both files, the same to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.checkpoint.blocks import BlockMatch
from reparam.checkpoint.fusing import listing
from reparam.equivalence.records import DIFFERENT, EQUAL, NOTHING, Stage

Arrays = Mapping[str, np.ndarray[Any, Any]]

WHY = "fusing changes nothing outside blocks, so these are compared bit for bit"


def compare_carried(matches: tuple[BlockMatch, ...], original: Arrays, candidate: Arrays) -> Stage:
    """Compare every array outside ``matches``."""
    of_blocks = {key for match in matches for key in match.branch_keys}
    neutral = {key: value for match in matches for key, value in match.neutral_keys.items()}
    of_blocks |= {key for match in matches for key in (match.weight_key, match.bias_key)}
    ours = [key for key in original if key not in of_blocks]
    missing = tuple(key for key in ours if key not in candidate)
    extra = tuple(key for key in candidate if key not in of_blocks and key not in original)
    changed = tuple(
        key for key in ours if key in candidate and not _identical(original[key], candidate[key])
    )
    if _fused(matches, candidate):
        changed += tuple(
            key
            for key, value in neutral.items()
            if key in candidate and not (candidate[key] == value).all()
        )
    for what, keys in (("missing", missing), ("unexpected", extra), ("changed", changed)):
        if keys:
            return Stage("other arrays", DIFFERENT, f"{len(keys)} {what}: {listing(keys)}", WHY)
    if not ours and not neutral:
        return Stage("other arrays", NOTHING, "every array belongs to a block", WHY)
    return Stage("other arrays", EQUAL, f"{len(ours)} arrays identical", WHY)


def _fused(matches: tuple[BlockMatch, ...], candidate: Arrays) -> bool:
    """Whether ``candidate`` holds the deploy form, in which folded factors have to be neutral."""
    return any(not all(key in candidate for key in match.branch_keys) for match in matches)


def _identical(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    same_kind = first.shape == second.shape and first.dtype.newbyteorder(
        "="
    ) == second.dtype.newbyteorder("=")
    return same_kind and first.tobytes() == second.astype(first.dtype, copy=False).tobytes()
