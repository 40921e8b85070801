"""What a user should know about a fusion, besides the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.checkpoint.blocks import BlockMatch
from reparam.checkpoint.epsilons import GIVEN
from reparam.checkpoint.families.terms import PADDLE
from reparam.checkpoint.plan import Plan
from reparam.detection.known import detector_of

Arrays = Mapping[str, np.ndarray[Any, Any]]

_ALPHA = "alpha"
_LISTED = 5  # how many names a sentence lists before it says "and N more"


def listing(names: tuple[str, ...]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + more


def notices_of(
    plan: Plan,
    arrays: Arrays,
    recognised: Any,
    epsilon: float | None,
    leftovers: Mapping[BlockMatch, bool],
) -> list[str]:
    """Return what a user should know about a fusion, in sentences.

    Args:
        recognised: the architecture, None if unknown.
        epsilon: what the user gave.
        leftovers: blocks whose deploy weight stood beside the branches, and whether it was theirs.
    """
    notices = list(plan.notices)
    if epsilon is not None and not plan.matches:
        notices.append("--epsilon had no effect: nothing was fused")
    detector = None if recognised is not None else detector_of(arrays)
    if detector is not None:
        told = "; blocks were told by their names and shapes" if plan.blocks else ""
        notices.append(
            f"the network is the detector {detector.title}, which is not in the zoo{told}"
        )
    elif recognised is None and plan.blocks:
        notices.append("the network as a whole is not one that reparam knows; blocks were told "
                       "by their names and shapes")  # fmt: skip
    if recognised is None and plan.pairs:
        notices.append("that a BatchNorm follows its convolution was told by the names of "
                       "ConvBNLayer alone: X.conv and X.bn")  # fmt: skip
    if recognised is not None and recognised.unexpected:
        notices.append(f"carried over, but no part of a {recognised.name}: "
                       f"{listing(recognised.unexpected)}")  # fmt: skip
    if recognised is not None and recognised.ignored:
        notices.append(ignored_notice(recognised))
    families = dict.fromkeys(match.family for match in plan.matches)
    notices += [
        family.remark
        for family in families
        if family.remark
        and (GIVEN not in family.remark or (recognised is None and epsilon is None))
    ]
    notices += _factor_notices(plan, arrays)
    notices += _leftover_notices(leftovers)
    kept = sorted(key for match in plan.matches for key in match.neutral_keys)
    if kept:
        notices.append(f"folded, and left in the file as ones and zeros: {listing(tuple(kept))}")
    fresh = [match.where for match in plan.matches if _fresh(match, arrays)]
    if fresh:
        notices.append(
            f"BatchNorm statistics as in a network never trained: {listing(tuple(fresh))}"
        )
    return notices


def _leftover_notices(leftovers: Mapping[BlockMatch, bool]) -> list[str]:
    notices = []
    for of_them, what in (
        (True, "left from an earlier fusion"),
        (False, "not what the branches make: a placeholder, or fused by other rules"),
    ):
        keys = tuple(match.weight_key for match, same in leftovers.items() if same is of_them)
        if keys:
            notices.append(f"beside branches, which decide, and {what}: {listing(keys)}")
    return notices


def _factor_notices(plan: Plan, arrays: Arrays) -> list[str]:
    """Say where a project's own code does not multiply by a factor that its block has.

    PaddleDetection asks ``if self.alpha:``, and a tensor of Paddle is true if it is above 0.
    """
    scalars = {
        key: float(arrays[key].item())
        for match in plan.blocks
        for key in match.factors
        if arrays[key].size == 1
    }
    zero = tuple(key for key, value in scalars.items() if value == 0)
    paddle = {key for match in plan.blocks if match.spelling == PADDLE for key in match.factors}
    below = tuple(
        key
        for key, value in scalars.items()
        if value < 0 and key in paddle and key.endswith(_ALPHA)
    )
    notices = []
    if zero:
        said = f"exactly 0, so what it multiplies is gone: {listing(zero)}"
        if any(key.endswith(_ALPHA) for key in zero):
            said += (". PaddleDetection takes an alpha of 0 for 'no factor' and would add the "
                     "branch with factor 1")  # fmt: skip
        notices.append(said)
    if below:
        notices.append(
            f"below 0: {listing(below)}. The branch is multiplied by it here, as its formula says; "
            "PaddleDetection's own code takes it for 'no factor' and adds the branch with factor 1"
        )
    return notices


def _fresh(match: BlockMatch, arrays: Arrays) -> bool:
    means = [arrays[norm.keys[2]] for norm in match.norms]
    variances = [arrays[norm.keys[3]] for norm in match.norms]
    never_trained = not any(mean.any() for mean in means) and all((v == 1).all() for v in variances)
    return bool(means) and never_trained


def ignored_notice(recognised: Any) -> str:
    """Say which arrays of a checkpoint take part in training alone."""
    parts = " and ".join(sorted({_part_of(key) for key in recognised.ignored}))
    return (
        f"{len(recognised.ignored)} arrays of {parts} take part in training alone; "
        f"the {recognised.name} runs without them"
    )


def _part_of(key: str) -> str:
    module, *rest = key.split(".")
    if rest[-1:] == [_ALPHA]:
        return "the factors of fused blocks"
    return module if module.startswith("aux_") else f"{module}.{rest[0]}"
