"""Finding re-parameterizable blocks among names and shapes, in one pass over the names.

Names propose, all the names under a prefix and the shapes decide. Where several families fit, the
one that explains the most keys is right: an outer BatchNorm that a smaller family does not know
is part of the sum. Two that explain the same keys in different ways are the user's to decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from reparam.checkpoint.block_match import BlockMatch
from reparam.checkpoint.deciding import Failure, Names, decide
from reparam.checkpoint.families import CONV_BN, FAMILIES, Family
from reparam.checkpoint.families.terms import (
    PADDLE,
    STATISTICS,
    TORCH,
    Kernel,
    Term,
    leaves,
    required_leaves,
)
from reparam.checkpoint.geometry import Geometry, geometry_of
from reparam.checkpoint.resolving import keys_of, possible_keys, resolve
from reparam.checkpoint.windows import MisfitError, Shapes

_DIGITS = re.compile(r"\d+")
_SLOTS = re.compile(r"\{\w+\}|\d+")  # digits of a name, and where any digits may stand
_ENOUGH = 8  # names of a family without anchors that make a block with one missing, not another
_NO_VALUES: Mapping[str, str] = {}
_AXES = 4  # of a convolution's weight
_NORM_KEYS = ("weight", *STATISTICS[PADDLE], *STATISTICS[TORCH])


@dataclass(frozen=True)
class Found:
    """What names and shapes say: blocks in train-time form, prefixes in deploy form, and doubts.

    ``spared`` are those that could not be fused and need not be, with the reason.
    """

    blocks: tuple[BlockMatch, ...]
    deployed: tuple[tuple[str, Family], ...]
    doubts: tuple[tuple[str, str], ...]
    spared: tuple[tuple[str, str], ...] = ()


def _none(_: str) -> bool:
    return False


def find_blocks(
    shapes: Shapes,
    chosen: Sequence[Family] = (),
    spared: Callable[[str], bool] = _none,
) -> Found:
    """Find every block of every family in one pass over the names.

    Args:
        chosen: families that come first where names and shapes leave it open.
        spared: which blocks are to be left as they are, whatever is wrong with them.

    Raises:
        CheckpointError: a block whose names are distinctive lacks a key, has one that no family
            explains, or one of a shape that cannot be; or two families fit equally well.
    """
    names = Names(shapes)
    families = tuple(one for one in FAMILIES if not one.on_request or one in chosen)
    matches, failures = _trials(candidates(shapes, families), names, shapes)
    decision = decide(matches, failures, names, chosen, spared)
    blocks = decision.blocks
    prefixes = {match.prefix for match in blocks}
    deployed = ((p, f) for p, f in _deployed(shapes) if p not in prefixes)
    order = {key: place for place, key in enumerate(shapes)}
    blocks.sort(key=lambda match: min(order[key] for key in match.branch_keys))
    known = tuple((prefix.rstrip("."), family) for prefix, family in deployed)
    return Found(
        tuple(blocks), known, tuple(decision.doubts.items()), tuple(decision.spared.items())
    )


def _trials(
    proposed: Iterable[Candidate], names: Names, shapes: Shapes
) -> tuple[list[BlockMatch], list[Failure]]:
    """Return what the candidates are, and what is named alike and does not fit.

    A candidate that lacks a name is looked into only if nothing else explains the names that it
    has: most lack one because the block is of another family.
    """
    matches: list[BlockMatch] = []
    failures: list[Failure] = []
    lacking = []
    for candidate in proposed:
        under, needed = names.under(candidate.prefix), candidate.needed
        if needed <= under:
            _sort_in(_tried(candidate, under, shapes), matches, failures)
        elif candidate.family.distinctive or (len(under) >= _ENOUGH and len(needed - under) == 1):
            lacking.append(candidate)
    taken = {key for match in matches for key in match.branch_keys}
    explained: dict[str, bool] = {}  # prefixes under which nothing is left to explain
    for candidate in lacking:
        prefix, under = candidate.prefix, names.under(candidate.prefix)
        if prefix not in explained:
            explained[prefix] = all(prefix + name in taken for name in under)
        if explained[prefix]:
            continue
        there = (candidate.prefix + name for name in candidate.needed & under)
        if not taken.issuperset((candidate.key, *there)):
            _sort_in(_tried(candidate, under, shapes), matches, failures)
    return matches, failures


def _sort_in(
    result: BlockMatch | Failure | None, matches: list[BlockMatch], failures: list[Failure]
) -> None:
    if isinstance(result, BlockMatch):
        matches.append(result)
    elif result is not None:
        failures.append(result)


def _tried(
    candidate: Candidate, names: frozenset[str], shapes: Shapes
) -> BlockMatch | Failure | None:
    """Return the block that a candidate is, why it does not fit, or None: nothing alike."""
    prefix, family, values = candidate.prefix, candidate.family, candidate.values
    if not family.stands_at(prefix, names):
        return None
    resolved = resolve(family, prefix, names, values)
    term, missing = resolved.term, list(dict.fromkeys(resolved.missing))
    if term is None:
        return None
    keys = (key for leaf in leaves(term) for key in keys_of(leaf))
    seen = tuple(dict.fromkeys(key for key in keys if key in shapes))
    if obstacle := family.obstacle(names):
        problem = f"'{prefix}{obstacle}' is computed between what would be one convolution"
        return Failure(prefix, family, problem, len(missing), seen)
    if missing:
        alike = family.distinctive or (len(missing) == 1 and len(seen) >= _ENOUGH)
        problem = f"'{missing[0]}' is missing"
        return Failure(prefix, family, problem, len(missing), seen) if alike else None
    spelling = TORCH if any(key.endswith(STATISTICS[TORCH]) for key in seen) else PADDLE
    try:
        geometry = geometry_of(term, shapes, same_groups=family.same_groups, spelling=spelling)
    except MisfitError as error:
        return Failure(prefix, family, str(error), 0, seen, error.windows)
    grouped = next(_grouped(term, geometry), None) if family.dense else None
    if grouped:
        groups = geometry.known[grouped.weight]
        problem = f"'{grouped.weight}' has {groups} groups; needed: 1"
        return Failure(prefix, family, problem, 0, seen)
    counters = tuple(resolved.counters)
    match = BlockMatch(prefix, family, term, geometry, spelling, counters, values=values)
    beside = match.weight_key in shapes and match.weight_key not in match.branch_keys
    return replace(match, has_deploy=True) if beside else match


def _grouped(term: Term, geometry: Geometry) -> Iterator[Kernel]:
    """Yield kernels of several groups, without those that have one for each channel."""
    for kernel in (leaf for leaf in leaves(term) if isinstance(leaf, Kernel)):
        apart = kernel.depthwise or kernel.planes
        if not apart and geometry.known.get(kernel.weight, 1) != 1:
            yield kernel


class _Counted(NamedTuple):
    """A name of a family with braces, where any digits may stand, and the digits in it."""

    number: int
    digits: tuple[str, ...]


class _Index(NamedTuple):
    """The names of families, each with the families that have it.

    ``exact`` has those without braces, with one bit for each of ``families``; ``counted`` the
    others, # in place of digits and braces. ``most`` is the largest number of words of a name.
    """

    families: tuple[Family, ...]
    exact: Mapping[str, int]
    counted: Mapping[str, list[_Counted]]
    most: int


@lru_cache(maxsize=8)
def _index(families: tuple[Family, ...]) -> _Index:
    exact: dict[str, int] = {}
    counted: dict[str, list[_Counted]] = {}
    for number, family in enumerate(families):
        leaf_of = leaves if family.distinctive else required_leaves
        keys = (key for leaf in leaf_of(family.term) for key in possible_keys(leaf))
        for key in dict.fromkeys(keys):
            if family.distinctive and not is_anchored(family, key):
                continue
            if "{" in key:
                entry = _Counted(number, tuple(_SLOTS.findall(key)))
                counted.setdefault(_SLOTS.sub("#", key), []).append(entry)
            else:
                exact[key] = exact.get(key, 0) | 1 << number
    most = max(name.count(".") for name in (*exact, *counted)) + 1
    return _Index(families, exact, counted, most)


def is_anchored(family: Family, name: str) -> bool:
    """Return whether a name under the block begins with one that only the family uses."""
    return any(name == anchor or name.startswith(f"{anchor}.") for anchor in family.anchors)


class Candidate(NamedTuple):
    """A prefix under which a name of a family stands.

    ``key`` is that name in full, ``values`` what stands in place of ``{n}``, the number of the
    block itself.
    """

    prefix: str
    family: Family
    values: Mapping[str, str]
    key: str

    @property
    def needed(self) -> frozenset[str]:
        """Names under the prefix that every block of the family has."""
        needed = self.family.needed
        if not self.values:
            return needed
        return frozenset(name.replace("{n}", self.values["n"]) for name in needed)


def candidates(shapes: Shapes, families: tuple[Family, ...]) -> Iterator[Candidate]:
    """Yield prefixes under which a name of a family stands, in the order of the file."""
    index = _index(families)
    seen: dict[tuple[str, str], int] = {}  # by prefix and {n}, one bit for each family
    for key in shapes:
        start, normal = len(key), _DIGITS.sub("#", key)
        begin = len(normal)
        for _ in range(index.most):
            start, begin = key.rfind(".", 0, start), normal.rfind(".", 0, begin)
            named: list[tuple[Mapping[str, str], int]] = []
            bits = index.exact.get(key[start + 1 :], 0)
            if bits:
                named.append((_NO_VALUES, bits))
            for number, digits in index.counted.get(normal[begin + 1 :], ()):
                values = _values_of(key, start, digits)
                if values is not None:
                    named.append((values, 1 << number))
            for values, bits in named:
                place = (key[: start + 1], values.get("n", ""))
                before = seen.get(place, 0)
                seen[place] = before | bits
                for number in _set_bits(bits & ~before):
                    yield Candidate(place[0], index.families[number], values, key)
            if start < 0:
                break


def _set_bits(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def _values_of(key: str, start: int, digits: Sequence[str]) -> Mapping[str, str] | None:
    """Return what stands in place of ``{n}`` if ``key`` has the ``digits`` after ``start``."""
    values = {}
    for wanted, found in zip(digits, _DIGITS.findall(key, start + 1), strict=True):
        if wanted == "{n}":
            values["n"] = found
        elif wanted != found and not wanted.startswith("{"):
            return None
    return values


def _deployed(shapes: Shapes) -> Iterator[tuple[str, Family]]:
    """Yield prefixes under which a block's one convolution stands, with a bias and no BatchNorm."""
    tails: dict[str, Family] = {}
    told = [one for one in FAMILIES if one.distinctive and one.deploy != CONV_BN.deploy]
    for family in (*told, *FAMILIES):
        if family.deploy and "{" not in family.deploy:
            tails.setdefault(family.deploy, family)
    seen = set()
    for key, shape in shapes.items():
        module, _, last = key.rpartition(".")
        if last != "weight" or len(shape) != _AXES:
            continue
        for tail in (module.rpartition(".")[2], ".".join(module.split(".")[-2:])):
            family_of = tails.get(tail)
            prefix = module[: len(module) - len(tail)]
            if family_of is None or prefix in seen:
                continue
            own = family_of.distinctive and tail != CONV_BN.deploy
            plain = own or set(shape[2:]) != {1}
            norm = any(f"{prefix}bn.{name}" in shapes for name in _NORM_KEYS)
            if plain and f"{module}.bias" in shapes and not norm:
                seen.add(prefix)
                yield prefix, family_of
