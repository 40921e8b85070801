"""What of a checkpoint is going to be fused, told by names and shapes before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from reparam.checkpoint.blocks import BlockMatch, Found, Shapes, find_blocks
from reparam.checkpoint.families import FAMILIES, Family
from reparam.checkpoint.pairs import find_pairs
from reparam.checkpoint.report import Left
from reparam.errors import CheckpointError

SKIPPED = "--skip"  # the reason of what was left because it was asked for

_LISTED = 5


@dataclass(frozen=True)
class Plan:
    """Blocks and conv-bn pairs to fuse, and what is left as it is.

    ``deployed`` are blocks in deploy form already; ``notices`` name options without effect.
    """

    blocks: tuple[BlockMatch, ...]
    pairs: tuple[BlockMatch, ...]
    left: tuple[Left, ...]
    deployed: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def matches(self) -> tuple[BlockMatch, ...]:
        return self.blocks + self.pairs

    def without_finished(self, arrays: Mapping[str, Any]) -> Plan:
        """Return the plan without blocks of which all that fusing would leave stands there."""
        finished = [
            match
            for match in self.blocks
            if match.in_place
            and all((arrays[key] == value).all() for key, value in match.neutral_keys.items())
        ]
        return replace(
            self,
            blocks=tuple(match for match in self.blocks if match not in finished),
            deployed=self.deployed + tuple(match.where for match in finished),
        )


def plan_of(
    shapes: Shapes,
    *,
    deployed: Sequence[str] | None = None,
    fold_bn: bool = False,
    skip: Sequence[str] = (),
    families: Sequence[str] = (),
) -> Plan:
    """Return what to fuse.

    Args:
        deployed: blocks in deploy form, where the architecture tells; else names and shapes do.
        fold_bn: fold conv-bn pairs outside blocks as well.
        skip: blocks and pairs to leave as they are: names, or patterns with ``*`` and ``?``
            (which match dots too).
        families: names of families that come first where names and shapes leave it open.

    Raises:
        CheckpointError: a block is not whole, or ``skip`` or ``families`` names nothing that is
            there.
    """
    chosen = families_named(families)
    found = find_blocks(shapes, chosen, spared=lambda where: matches_any(skip, where))
    _need_chosen(chosen, found)
    taken = {key for match in found.blocks for key in match.branch_keys}
    pairs, unpaired = find_pairs(shapes, taken) if fold_bn else ((), ())
    if deployed is None:
        deployed = [where for where, _ in found.deployed]
    names = [*(match.where for match in (*found.blocks, *pairs)), *dict(found.spared)]
    skipped = skipped_of(skip, names, deployed)
    asked = ((where, SKIPPED) for where in dict.fromkeys(names) if where in skipped)
    left = [*found.doubts, *unpaired, *asked]
    return Plan(
        blocks=tuple(match for match in found.blocks if match.where not in skipped),
        pairs=tuple(match for match in pairs if match.where not in skipped),
        left=tuple(Left(where, reason) for where, reason in left),
        deployed=tuple(deployed),
        notices=tuple(_without_effect(skip, names, deployed, fold_bn and not pairs)),
    )


def skipped_of(patterns: Sequence[str], names: Sequence[str], deployed: Sequence[str]) -> set[str]:
    """Return which of ``names`` are to be left as they are.

    Raises:
        CheckpointError: a pattern matches none of them, and none of ``deployed``.
    """
    skipped: set[str] = set()
    for pattern in patterns:
        matching = _matching(pattern, names)
        if not matching and not _matching(pattern, deployed):
            near = get_close_matches(pattern, names, n=3, cutoff=0.5) or list(names)[:_LISTED]
            raise CheckpointError(
                f"--skip {pattern} names no block",
                found=f"{len(names)} that could be skipped" + (", near: " if near else "")
                + ", ".join(near),
                hint="reparam inspect lists them; * stands for any part of a name",
            )  # fmt: skip
        skipped |= matching
    return skipped


def _without_effect(
    skip: Sequence[str], names: Sequence[str], deployed: Sequence[str], no_pairs: bool
) -> Iterable[str]:
    for pattern in skip:
        if not _matching(pattern, names):
            those = len(_matching(pattern, deployed))
            yield f"--skip {pattern} had no effect: in deploy form already ({those} block(s))"
    if no_pairs:
        yield "--fold-bn had no effect: no convolution and BatchNorm are named as a pair"


def _matching(pattern: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if name == pattern or fnmatchcase(name, pattern)}


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Return whether ``name`` is one of ``patterns``, or fits one that has ``*`` or ``?``."""
    return any(_matching(pattern, [name]) for pattern in patterns)


def families_named(names: Iterable[str]) -> tuple[Family, ...]:
    """Return the families that ``--family`` names; a name may be that of several regions.

    Raises:
        CheckpointError: there is none of that name.
    """
    return tuple(family for name in names for family in _families_named(name))


def _families_named(name: str) -> tuple[Family, ...]:
    found = tuple(family for family in FAMILIES if family.name.lower() == name.lower())
    if found:
        return found
    known = {family.name.lower(): family.name for family in FAMILIES}
    near = get_close_matches(name.lower(), known, n=3, cutoff=0.4) or sorted(known)[:_LISTED]
    raise CheckpointError(
        f"there is no family named '{name}'",
        found="near: " + ", ".join(f"'{known[one]}'" for one in near),
        hint="reparam inspect --families lists them",
    )


def _need_chosen(chosen: Iterable[Family], found: Found) -> None:
    there = {match.family.name for match in found.blocks}
    for family in chosen:
        if family.name not in there:
            raise CheckpointError(
                f"no block is a {family.name}",
                found="none of its names is in the checkpoint",
                why="--family was given",
            )
