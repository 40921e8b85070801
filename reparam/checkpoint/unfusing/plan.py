"""What of a checkpoint goes back to train-time form, and which arrays it gets there.

A deploy form keeps no trace of optional branches, of how many there were, or of the family where
several share a name. Asked, in this order: a checkpoint of the train-time network, the recognised
architecture, the rule of the family and what the user says. What none of them tells is a question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.families import Family
from reparam.checkpoint.families.terms import Chain, Each, Kernel, Sum, Term, leaves
from reparam.checkpoint.plan import SKIPPED, families_named, matches_any, skipped_of
from reparam.checkpoint.report import Left
from reparam.checkpoint.unfusing.network import Asked, Shapes, Target, of_network, wished
from reparam.checkpoint.unfusing.outlines import Wishes, optional_parts
from reparam.checkpoint.unfusing.rules import named_like, of_families
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
    untold: Mapping[str, object] | None = None,
) -> UnfusePlan:
    """Return what to unfuse.

    Args:
        like: names and shapes of a checkpoint of the train-time network.
        architecture: of the recognised network in train-time form; ``like`` comes first.
        untold: settings of that architecture which the checkpoint does not tell, with the values
            that ``architecture`` has.

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
        added, left_out = wished(architecture, asked.wishes, untold or {})
        targets, left = of_network(shapes, {**architecture, **added}, chosen, spared)
    else:
        targets, left, left_out = of_families(shapes, found, chosen, asked, spared)
    told_by = asked.network if like is not None else ""
    counted = any(_counts(target.match.family.term) for target in targets)
    _need_used(asked.wishes, (target.match.family for target in targets), told_by, counted)
    train_time = [match.where for match in found.blocks]
    skipped_of(asked.skip, [*left, *(where for where, _ in found.spared)], train_time)
    covered = {target.match.weight_key for target in targets}
    sure = architecture is not None or like is not None
    reasons = {
        one.where: f"named like the deploy form of a {one.families[0].name}, and nothing says it is"
        for one in named_like(shapes, found)
        if one.key not in covered and (one.telling or not sure)
    } | dict.fromkeys(left, SKIPPED)
    return UnfusePlan(
        targets=tuple(targets),
        train_time=tuple(train_time),
        left=tuple(Left(where, reason) for where, reason in reasons.items()),
        notices=tuple(_notices(left_out, untold or {}, asked.wishes)),
    )


def _notices(
    left_out: Iterable[str], untold: Mapping[str, object], wishes: Wishes
) -> Iterator[str]:
    for part in dict.fromkeys(left_out):
        yield (
            f"'{part}' was left out: no deploy form tells of it, and without it nothing changes; "
            f"--with {part} adds it"
        )
    for name, value in untold.items():
        if isinstance(value, int) and not isinstance(value, bool) and wishes.branches is None:
            yield (
                f"{name}={value}, as the published network has it: no deploy form tells how many "
                "branches there were; --branches N says otherwise"
            )


def _counts(term: Term) -> bool:
    """Return whether blocks of a family have a number of branches that ``--branches`` can say."""
    if isinstance(term, Chain | Sum):
        return any(map(_counts, term.parts if isinstance(term, Chain) else term.branches))
    return isinstance(term, Each) and any(isinstance(leaf, Kernel) for leaf in leaves(term))


def _need_used(wishes: Wishes, families: Iterable[Family], told_by: str, counted: bool) -> None:
    if wishes.branches is not None and (told_by or not counted):
        raise CheckpointError(
            f"--branches {wishes.branches} has no effect",
            found=f"{told_by} decides it" if told_by else "no block that counts its branches",
        )
    parts = dict.fromkeys(part for family in families for part in optional_parts(family))
    for option, given in (("--with", wishes.have), ("--without", wishes.lack)):
        for text in given:
            if text not in wishes.used:
                raise CheckpointError(
                    f"{option} {text} has no effect",
                    found=f"{told_by} decides it"
                    if told_by
                    else f"optional parts here: {', '.join(parts) or 'none'}",
                )
