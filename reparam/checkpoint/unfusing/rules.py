"""Blocks in deploy form, told by the rule of their family and by what the user says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from reparam.checkpoint.blocks import BlockMatch, Found
from reparam.checkpoint.families import FAMILIES, Family
from reparam.checkpoint.families.terms import PADDLE, STATISTICS, TORCH
from reparam.checkpoint.geometry import geometry_of
from reparam.checkpoint.resolving import resolve
from reparam.checkpoint.unfusing.network import LIKE, Asked, Shapes, Target, target_of
from reparam.checkpoint.unfusing.outlines import Outline, UndecidedError, outline_of
from reparam.checkpoint.windows import MisfitError
from reparam.errors import CheckpointError

_AXES = 4  # of a convolution's weight
_LISTED = 4
_TELLING = ("reparam", "fused")  # other deploy forms are named as any convolution may be


def of_families(
    shapes: Shapes,
    found: Found,
    chosen: Sequence[Family],
    asked: Asked,
    spared: Callable[[str], bool],
) -> tuple[list[Target], list[str], list[str]]:
    """Return blocks in deploy form of families that are told by a name, or by the user.

    Args:
        spared: which blocks are to be left as they are; they are returned by name.

    Returns:
        The blocks, those spared, and the optional factors that were left out.
    """
    every = list(named_like(shapes, found, chosen))
    told = [one for one in every if not spared(one.where)]
    left = [one.where for one in every if spared(one.where)]
    sure = [one for one in told if chosen or one.telling]
    _need_one_family(sure or told, chosen)
    _need_found(every, chosen)
    targets: list[Target] = []
    questions: list[str] = []
    left_out: list[str] = []
    for one in sure:
        outline = _outline(one, shapes, asked)
        left_out += outline.left_out
        if outline.open:
            questions.append(f"block '{one.where}': {', '.join(outline.open)}")
        elif not questions:
            targets.append(_by_rule(one, outline, shapes, asked))
    _need_no(questions)
    return targets, left, left_out


class _Named(NamedTuple):
    """A convolution named like the deploy form of some families."""

    prefix: str
    families: tuple[Family, ...]

    @property
    def where(self) -> str:
        return self.prefix.rstrip(".") or "(root)"

    @property
    def telling(self) -> bool:
        """Whether the name itself says that it is a deploy form."""
        return any(word in self.families[0].deploy for word in _TELLING)

    @property
    def key(self) -> str:
        return self.prefix + self.families[0].deploy_key("weight")


def named_like(shapes: Shapes, found: Found, chosen: Sequence[Family] = ()) -> Iterator[_Named]:
    """Yield the convolutions with a bias that have the name of a deploy form, in file order.

    Args:
        chosen: the families to look for, all by default.
    """
    taken = {key for match in found.blocks for key in match.branch_keys}
    blocks = {match.weight_key for match in found.blocks}  # leftovers beside branches
    names: dict[str, list[Family]] = {}
    for family in chosen or FAMILIES:
        if family.deploy and "{" not in family.deploy:
            names.setdefault(family.deploy, []).append(family)
    for key, shape in shapes.items():
        module, _, last = key.rpartition(".")
        plain = last == "weight" and len(shape) == _AXES and f"{module}.bias" in shapes
        if not plain or key in taken or key in blocks:
            continue
        words = module.split(".")
        for count in (2, 1):
            tail = ".".join(words[-count:])
            fitting = [
                one for one in names.get(tail, ()) if one.distinctive or set(shape[2:]) != {1}
            ]
            if fitting and len(words) >= count:
                yield _Named(module[: len(module) - len(tail)], tuple(fitting))
                break


def _need_no(questions: Sequence[str]) -> None:
    if questions:
        more = f"; and {len(questions) - _LISTED} more" if len(questions) > _LISTED else ""
        raise CheckpointError(
            "a deploy checkpoint does not tell which branches its blocks had",
            found="; ".join(questions[:_LISTED]) + more,
            why="the result has to load into the network that it is for",
            hint=f"{LIKE}; --with PART and --without PART decide for every block, or with "
            "BLOCK:PART for some",
        )


def _need_one_family(told: Sequence[_Named], chosen: Sequence[Family]) -> None:
    for one in told:
        if len(one.families) == 1 and (chosen or one.telling):
            continue
        names = [f"'{family.name}'" for family in one.families]
        found = f"the deploy forms of {', '.join(names)} are named '{one.families[0].deploy}'"
        if len(names) == 1:
            found = f"that of a {names[0]} is named '{one.families[0].deploy}', as any convolution"
        raise CheckpointError(
            f"the checkpoint does not tell what block '{one.where}' was",
            found=found,
            why="a fused block keeps no other name",
            hint=LIKE if chosen else f"--family NAME says which; {LIKE}",
        )


def _need_found(told: Sequence[_Named], chosen: Sequence[Family]) -> None:
    there = {family.name for one in told for family in one.families}
    for family in chosen:
        if family.name in there:
            continue
        plain = family.deploy and "{" not in family.deploy
        raise CheckpointError(
            f"no block is a {family.name} in deploy form",
            found=f"no convolution named '{family.deploy}' with a bias"
            if plain
            else "its convolution takes the name of something else, so that no name tells of it",
            why="--family was given",
            hint="" if plain else LIKE,
        )


def _outline(one: _Named, shapes: Shapes, asked: Asked) -> Outline:
    family, weight = one.families[0], tuple(shapes[one.key])
    spelling = _spelling(shapes, asked.spelling)
    try:
        return outline_of(family, one.where, weight, spelling, asked.wishes)
    except UndecidedError as error:
        raise CheckpointError(
            f"cannot tell the arrays of block '{one.where}' ({family.name})",
            found=f"the deploy form does not tell: {error}",
            hint=LIKE,
        ) from error


def _by_rule(one: _Named, outline: Outline, shapes: Shapes, asked: Asked) -> Target:
    family, weight = one.families[0], tuple(shapes[one.key])
    spelling = _spelling(shapes, asked.spelling)
    own = {one.prefix + name: shape for name, shape in outline.shapes.items()}
    resolved = resolve(family, one.prefix, outline.shapes)
    assert resolved.term is not None
    assert not resolved.missing
    try:
        geometry = geometry_of(
            resolved.term, own, same_groups=family.same_groups, spelling=spelling
        )
    except MisfitError as error:
        raise _cannot_be(one.where, family, f"'{one.key}' {weight}: {error}") from error
    if geometry.weight != weight:
        raise _cannot_be(one.where, family, f"'{one.key}' has the shape {weight}")
    counters = tuple(resolved.counters)
    match = BlockMatch(one.prefix, family, resolved.term, geometry, spelling, counters)
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
