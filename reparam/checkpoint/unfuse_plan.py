"""What of a checkpoint goes back to train-time form, and which arrays it gets there.

A deploy form keeps no trace of optional branches, of how many there were, or of the family where
several share a name. Asked, in this order: a checkpoint of the train-time network, the recognised
architecture, the rule of the family and what the user says. What none of them tells is a question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from reparam.checkpoint.blocks import Found, find_blocks
from reparam.checkpoint.families import Family
from reparam.checkpoint.outlines import Wishes, optional_parts
from reparam.checkpoint.plan import SKIPPED, families_named, matches_any, skipped_of
from reparam.checkpoint.report import Left
from reparam.checkpoint.unfuse_network import Asked, Shapes, Target, of_network, wished
from reparam.checkpoint.unfuse_rules import of_families
from reparam.errors import CheckpointError


@dataclass(frozen=True)
class UnfusePlan:
    """What goes back, and what is left as it is: ``train_time`` are blocks that need nothing."""

    targets: tuple[Target, ...]
    train_time: tuple[str, ...]
    left: tuple[Left, ...]
    notices: tuple[str, ...]


def plan_unfusing(
    shapes: Shapes,
    asked: Asked,
    *,
    like: Shapes | None = None,
    architecture: Shapes | None = None,
    untold: Collection[str] = (),
) -> UnfusePlan:
    """Return what to unfuse.

    Args:
        like: names and shapes of a checkpoint of the train-time network.
        architecture: of the recognised network in train-time form; ``like`` comes first.
        untold: settings of that architecture which the checkpoint does not tell.

    Raises:
        CheckpointError: a block is in neither form, does not fit the network or the family, or
            only the user can tell what it was; or an option names nothing that is there.
    """
    chosen = families_named(asked.families)

    def spared(where: str) -> bool:
        return matches_any(asked.skip, where)

    found = find_blocks(shapes, chosen, spared)
    left_out: list[str] = []
    if like is not None:
        targets, left = of_network(shapes, like, chosen, spared)
    elif architecture is not None:
        added, left_out = wished(architecture, asked.wishes, untold)
        targets, left = of_network(shapes, {**architecture, **added}, chosen, spared)
    else:
        targets, left, left_out = of_families(shapes, found, chosen, asked, spared)
    _need_used(asked.wishes, (target.match.family for target in targets), like is not None)
    train_time = [match.where for match in found.blocks]
    skipped_of(asked.skip, [*left, *(where for where, _ in found.spared)], train_time)
    reasons = {**_uncovered(found, targets), **dict.fromkeys(left, SKIPPED)}
    return UnfusePlan(
        targets=tuple(targets),
        train_time=tuple(train_time),
        left=tuple(Left(where, reason) for where, reason in reasons.items()),
        notices=tuple(
            f"'{part}' was left out: no deploy form tells of it, and without it nothing changes; "
            f"--with {part} adds it"
            for part in dict.fromkeys(left_out)
        ),
    )


def _uncovered(found: Found, targets: Iterable[Target]) -> dict[str, str]:
    """Return what is named like a deploy form and goes nowhere, with the reason."""
    covered = {target.match.weight_key for target in targets}
    left = {}
    for where, family in found.deployed:
        prefix = f"{where}." if where else ""
        if prefix + family.deploy_key("weight") not in covered:
            name = where or "(root)"
            left[name] = f"named like the deploy form of a {family.name}, and nothing says it is"
    return left


def _need_used(wishes: Wishes, families: Iterable[Family], like: bool) -> None:
    parts = dict.fromkeys(part for family in families for part in optional_parts(family))
    for option, given in (("--with", wishes.have), ("--without", wishes.lack)):
        for text in given:
            if text not in wishes.used:
                raise CheckpointError(
                    f"{option} {text} has no effect",
                    found="--like decides it" if like else
                    f"optional parts here: {', '.join(parts) or 'none'}",
                )  # fmt: skip
