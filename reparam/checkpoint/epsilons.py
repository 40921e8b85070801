"""The epsilon of each block: the family's, the user's, or a question with the choices."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from reparam.checkpoint.block_match import BlockMatch
from reparam.checkpoint.families import Family
from reparam.checkpoint.report import Epsilon
from reparam.errors import CheckpointError

GIVEN = "--epsilon"


def epsilon_of(match: BlockMatch, given: float | None, names: Collection[str] = ()) -> float:
    """Return the epsilon of a block's BatchNorms.

    Args:
        given: by the user, in place of what the family says.
        names: of the whole checkpoint, in which there may be a sign of the project it is from.

    Raises:
        CheckpointError: projects that share the names use different values, and none was given.
    """
    value = match.epsilon if given is None else given
    if value is None:
        raise _question(match, names)
    return value


def need_epsilons(
    matches: Iterable[BlockMatch], given: float | None, names: Collection[str]
) -> None:
    """Refuse blocks whose epsilon nothing tells, before anything is computed.

    Raises:
        CheckpointError: as epsilon_of.
    """
    for match in matches:
        epsilon_of(match, given, names)


def used_epsilons(matches: Iterable[BlockMatch], given: float | None) -> tuple[Epsilon, ...]:
    """Return which epsilon was used for each family, and why that one."""
    used: dict[tuple[str, float], Epsilon] = {}
    for match in matches:
        if match.norms:
            family = match.family
            source = family.epsilon.source if given is None else GIVEN
            epsilon = Epsilon(family.name, epsilon_of(match, given), source)
            used[epsilon.family, epsilon.value] = epsilon
    return tuple(used.values())


def _question(match: BlockMatch, names: Collection[str]) -> CheckpointError:
    family = match.family
    choices = "; ".join(f"{choice.value:g}: {choice.project}" for choice in family.epsilon.choices)
    sign = _sign(family, names)
    return CheckpointError(
        f"the checkpoint does not tell the epsilon of block '{match.where}' ({family.name})",
        found=choices + (f". {sign}" if sign else ""),
        why="no checkpoint stores it, projects that share these names use different values, and "
        "the fused weights depend on it",
        hint="--epsilon gives it; it stands where the network makes its BatchNorms",
    )


def _sign(family: Family, names: Collection[str]) -> str:
    """Return what the names of the checkpoint point to, if to one choice alone."""
    signs = {
        choice: name
        for choice in family.epsilon.choices
        for name in names
        if choice.sign and (name.startswith(choice.sign) or f".{choice.sign}" in name)
    }
    if len({choice.value for choice in signs}) != 1:
        return ""
    choice, name = next(iter(signs.items()))
    return f"'{name}' looks like {choice.project}"
