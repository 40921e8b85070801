"""Which of the families that fit a block it is, and what to say where none does."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reparam.checkpoint.block_match import BlockMatch
from reparam.checkpoint.families import Family
from reparam.checkpoint.windows import Shapes
from reparam.errors import CheckpointError

_LISTED = 3
_KEPT = 10_000  # names in the cache, at least
_TWO = 2


@dataclass(frozen=True)
class Failure:
    """A family that names under a prefix proposed and that does not fit.

    ``windows`` says that a kernel has another size, so that nothing but a name is alike.
    """

    prefix: str
    family: Family
    problem: str
    missing: int
    seen: tuple[str, ...]
    windows: bool = False


class Names:
    """The names of a checkpoint, by prefix."""

    def __init__(self, shapes: Shapes) -> None:
        self.sorted = sorted(shapes)
        self.cache: dict[str, frozenset[str]] = {}
        self.room = _KEPT + 4 * len(self.sorted)

    def under(self, prefix: str) -> frozenset[str]:
        """Return what follows ``prefix`` in the names that begin with it."""
        found = self.cache.get(prefix)
        if found is None:
            start = bisect_left(self.sorted, prefix)
            end = bisect_left(self.sorted, prefix + "\U0010ffff")
            found = frozenset(name[len(prefix) :] for name in self.sorted[start:end])
            self.room -= len(found)
            if self.room < 0:  # prefixes within prefixes: each has all the names of those within
                self.cache.clear()
                self.room = _KEPT + 4 * len(self.sorted)
            self.cache[prefix] = found
        return found


@dataclass
class Decision:
    """The blocks, what is named like one and is left with the reason, and what was spared."""

    blocks: list[BlockMatch] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)
    spared: dict[str, str] = field(default_factory=dict)


def decide(
    matches: Iterable[BlockMatch],
    failures: Sequence[Failure],
    names: Names,
    chosen: Sequence[Family],
    spared: Callable[[str], bool],
) -> Decision:
    """Return which of the candidates are blocks.

    Raises:
        CheckpointError: see find_blocks.
    """
    return _Deciding(names, chosen, spared).decide(matches, failures)


class _Deciding:
    def __init__(
        self, names: Names, chosen: Sequence[Family], spared: Callable[[str], bool]
    ) -> None:
        self.names, self.chosen, self.spared = names, chosen, spared
        self.choices = {family: place for place, family in enumerate(chosen)}
        self.decision = Decision()
        self.given_up: set[str] = set()  # keys of what was spared

    def decide(self, matches: Iterable[BlockMatch], failures: Sequence[Failure]) -> Decision:
        blocks = self.largest(matches)
        taken = {key for match in blocks for key in match.branch_keys}
        for match in blocks:
            chosen = match.family in self.chosen
            if match.geometry.fused > match.geometry.stored:
                self.decision.doubts[match.where] = _costs_more(match)
                continue
            extra = [] if chosen else _unexplained(match, self.names, taken)
            if not extra:
                self.decision.blocks.append(match)
            elif match.family.distinctive:
                self.refuse(match.where, match.branch_keys, _with_unknown(match, extra))
            else:
                self.decision.doubts[match.where] = (
                    f"named like a {match.family.name}, but '{match.prefix}{extra[0]}' is no part "
                    "of one"
                )
        self.failed(failures, taken | self.given_up)
        return self.decision

    def refuse(self, where: str, keys: Iterable[str], error: CheckpointError) -> None:
        """Raise, unless the block is to be left as it is."""
        if not self.spared(where):
            raise error
        self.decision.spared[where] = f"{error.what}: {error.found}" if error.found else error.what
        self.given_up.update(keys)

    def largest(self, matches: Iterable[BlockMatch]) -> list[BlockMatch]:
        """Return, of the matches that share keys, the one that explains the most.

        A family that was chosen comes before all that were not, in the order of choice. Of two
        that explain the same, the one of the outer module: it knows more of the names.
        """

        def rank(match: BlockMatch) -> tuple[int, int, int]:
            choice = self.choices.get(match.family, len(self.choices))
            return (choice, -len(match.branch_keys), match.prefix.count("."))

        owner: dict[str, BlockMatch] = {}
        blocks: dict[BlockMatch, list[BlockMatch]] = {}
        for match in sorted(matches, key=rank):
            rival = next((owner[key] for key in match.branch_keys if key in owner), None)
            if rival is None:
                blocks[match] = []
                owner.update(dict.fromkeys(match.branch_keys, match))
            elif _same_keys(match, rival) and rank(rival) == rank(match) and rival in blocks:
                blocks[rival].append(match)
        self.ambiguous({match: rivals for match, rivals in blocks.items() if rivals})
        return [match for match, rivals in blocks.items() if not rivals]

    def ambiguous(self, blocks: Mapping[BlockMatch, Sequence[BlockMatch]]) -> None:
        """Refuse blocks that can be of several families; all at once, for one choice is of all."""
        asked = {match: found for match, found in blocks.items() if not self.spared(match.where)}
        if asked:
            raise _ambiguous(asked)
        for match, rivals in blocks.items():
            self.refuse(match.where, match.branch_keys, _ambiguous({match: rivals}))

    def failed(self, failures: Sequence[Failure], taken: set[str]) -> None:
        """Note what is only named like a block; refuse what is a damaged one."""
        open_ones = [one for one in failures if not taken.issuperset(one.seen)]
        open_ones.sort(key=lambda one: (one.family not in self.chosen, one.missing, -len(one.seen)))
        for one in open_ones:
            if taken.issuperset(one.seen):
                continue
            where = one.prefix.rstrip(".")
            if one.missing or one.family.distinctive or one.family in self.chosen:
                error = CheckpointError(
                    f"block '{where}' ({one.family.name}) is not whole",
                    found=one.problem,
                    why="fusing it would need every branch as it was trained",
                )
                self.refuse(where, one.seen, error)
                taken |= self.given_up
            elif not one.windows:
                self.decision.doubts[where] = f"named like a {one.family.name}, but {one.problem}"
                taken |= set(one.seen)


def _same_keys(match: BlockMatch, rival: BlockMatch) -> bool:
    return set(match.branch_keys) == set(rival.branch_keys)


def _unexplained(match: BlockMatch, names: Names, taken: set[str]) -> list[str]:
    """Return names under the block that are no part of it, of another block, or known to stay."""
    family = match.family
    known = (*family.stays, *family.leftovers)
    deploy = (match.weight_key, match.bias_key)
    return sorted(
        name
        for name in names.under(match.prefix)
        if match.prefix + name not in taken
        and match.prefix + name not in deploy
        and not any(name == word or name.startswith(f"{word}.") for word in known)
    )


def _costs_more(match: BlockMatch) -> str:
    geometry = match.geometry
    return (
        f"as one convolution this {match.family.name} would cost more: {geometry.fused:,} MACs for "
        f"each output position instead of {geometry.stored:,}"
    )


def _with_unknown(match: BlockMatch, extra: Sequence[str]) -> CheckpointError:
    more = f" and {len(extra) - _LISTED} more" if len(extra) > _LISTED else ""
    listed = ", ".join(f"'{match.prefix}{name}'" for name in extra[:_LISTED])
    return CheckpointError(
        f"block '{match.where}' ({match.family.name}) holds what no such block has",
        found=f"{listed}{more}",
        why="a branch that is left out makes another function",
        hint=f"--family '{match.family.name}' fuses the branches that are known and carries the "
        f"rest over; --skip {match.where} leaves the block as it is",
    )


def _ambiguous(blocks: Mapping[BlockMatch, Sequence[BlockMatch]]) -> CheckpointError:
    """Return the question of which families they are, with the choices for each shape of block."""
    where: dict[tuple[str, ...], list[str]] = {}
    for match, rivals in blocks.items():
        fitting = sorted({match.family.name, *(rival.family.name for rival in rivals)})
        where.setdefault(tuple(fitting), []).append(match.where)
    found = (
        f"{_blocks(places)}: {', '.join(fitting[:-1])} and {fitting[-1]} have the same names and "
        "shapes"
        for fitting, places in where.items()
    )
    first = next(iter(blocks)).where
    more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
    choices = dict.fromkeys(name for listed in where for name in listed)
    order = "; given more than once, the first that fits is taken" if len(choices) > _TWO else ""
    return CheckpointError(
        f"block '{first}'{more} can be of several families",
        found="; ".join(found),
        why="they compute different functions of the same weights",
        hint=" or ".join(f"--family '{name}'" for name in choices) + order,
    )


def _blocks(places: Sequence[str]) -> str:
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"'{places[0]}'{more}"
