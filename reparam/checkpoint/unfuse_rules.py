"""Blocks in deploy form, told by the rule of their family and by what the user says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from reparam.checkpoint.blocks import BlockMatch, Found
from reparam.checkpoint.families import FAMILIES, Family
from reparam.checkpoint.families.terms import PADDLE, STATISTICS, TORCH
from reparam.checkpoint.geometry import MisfitError, geometry_of
from reparam.checkpoint.outlines import UndecidedError, outline_of
from reparam.checkpoint.resolving import resolve
from reparam.checkpoint.unfuse_network import LIKE, Asked, Shapes, Target, target_of
from reparam.errors import CheckpointError

ROOT = "(root)"
_LISTED = 4


def of_families(
    shapes: Shapes,
    found: Found,
    chosen: Sequence[Family],
    asked: Asked,
    spared: Callable[[str], bool],
) -> tuple[list[Target], list[str]]:
    """Return blocks in deploy form of families that are told by a name, or by the user.

    Args:
        spared: which blocks are to be left as they are; they are returned by name.
    """
    told = [(where, _candidates(family, chosen)) for where, family in found.deployed]
    left = [where or ROOT for where, _ in told if spared(where or ROOT)]
    told = [(w, families) for w, families in told if families and not spared(w or ROOT)]
    sure = [one for one in told if chosen or one[1][0].distinctive]
    _need_one_family(sure or told, chosen)
    _need_found(sure, chosen)
    questions: list[str] = []
    targets = [_by_rule(where, families[0], shapes, asked, questions) for where, families in sure]
    if questions:
        more = f"; and {len(questions) - _LISTED} more" if len(questions) > _LISTED else ""
        raise CheckpointError(
            "a deploy checkpoint does not tell which branches its blocks had",
            found="; ".join(questions[:_LISTED]) + more,
            why="the result has to load into the network that it is for",
            hint=f"{LIKE}; --with PART and --without PART decide for every block, or with "
            "BLOCK:PART for some",
        )
    return [target for target in targets if target is not None], left


def _candidates(family: Family, chosen: Collection[Family]) -> list[Family]:
    """Return the families that share the deploy name of ``family``, of those chosen if any."""
    same = [one for one in FAMILIES if one.deploy == family.deploy]
    return [one for one in same if one in chosen] if chosen else same


def _need_one_family(told: Sequence[tuple[str, list[Family]]], chosen: Sequence[Family]) -> None:
    for where, families in told:
        if len(families) == 1 and (chosen or families[0].distinctive):
            continue
        names = [f"'{family.name}'" for family in families]
        found = f"the deploy forms of {', '.join(names)} are named '{families[0].deploy}'"
        if len(names) == 1:
            found = f"that of a {names[0]} is named '{families[0].deploy}', as any convolution"
        raise CheckpointError(
            f"the checkpoint does not tell what block '{where}' was",
            found=found,
            why="a fused block keeps no other name",
            hint=f"{' or '.join(f'--family {name}' for name in names[:_LISTED])}; {LIKE}",
        )


def _need_found(sure: Sequence[tuple[str, list[Family]]], chosen: Sequence[Family]) -> None:
    there = {family for _, families in sure for family in families}
    for family in chosen:
        if family in there:
            continue
        plain = family.deploy and "{" not in family.deploy
        raise CheckpointError(
            f"no block is a {family.name} in deploy form",
            found=f"no convolution named '{family.deploy}' with a bias" if plain else
            "its convolution takes the name of something else, so that no name tells of it",
            why="--family was given",
            hint="" if plain else LIKE,
        )  # fmt: skip


def _by_rule(
    where: str, family: Family, shapes: Shapes, asked: Asked, questions: list[str]
) -> Target | None:
    prefix = f"{where}." if where else ""
    key = prefix + family.deploy_key("weight")
    weight = tuple(shapes[key])
    spelling = _spelling(shapes, asked.spelling)
    try:
        outline = outline_of(family, where, weight, spelling, asked.wishes)
    except UndecidedError as error:
        raise CheckpointError(
            f"cannot tell the arrays of block '{where}' ({family.name})",
            found=f"the deploy form does not tell: {error}",
            hint=LIKE,
        ) from error
    if outline.open:
        questions.append(f"block '{where}': {', '.join(outline.open)}")
        return None
    own = {prefix + name: shape for name, shape in outline.shapes.items()}
    resolved = resolve(family, prefix, outline.shapes)
    assert resolved.term is not None
    assert not resolved.missing
    try:
        geometry = geometry_of(
            resolved.term, own, same_groups=family.same_groups, spelling=spelling
        )
    except MisfitError as error:
        raise _cannot_be(where, family, f"{error}, for '{key}' {weight}") from error
    if geometry.weight != weight:
        raise _cannot_be(where, family, f"'{key}' has the shape {weight}")
    counters = tuple(resolved.counters)
    match = BlockMatch(prefix, family, resolved.term, geometry, spelling, counters)
    return target_of(match, own, shapes)


def _cannot_be(where: str, family: Family, found: str) -> CheckpointError:
    return CheckpointError(f"block '{where}' cannot be a {family.name}", found=found, hint=LIKE)


def _spelling(shapes: Shapes, told: str | None) -> str:
    """Return how the network spells a BatchNorm: as the rest of the file, else as ``told``."""
    found = {
        spelling
        for spelling, names in STATISTICS.items()
        if any(key.endswith(f".{names[0]}") for key in shapes)
    }
    if len(found) == 1:
        return found.pop()
    if told is None:
        raise CheckpointError(
            "the checkpoint does not tell how the network names the statistics of a BatchNorm",
            found=f"none in it, in a format that both {PADDLE} and {TORCH} use",
            hint=f"--spelling {PADDLE} or --spelling {TORCH}",
        )
    return told
