"""From a family and the names under a prefix to the operators of one block, with full names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from reparam.checkpoint.families.family import Family
from reparam.checkpoint.families.terms import (
    ALWAYS,
    COUNTER,
    MAYBE,
    NEVER,
    PADDLE,
    STATISTICS,
    TORCH,
    Chain,
    Each,
    Either,
    Kernel,
    Leaf,
    Maybe,
    Mean,
    Norm,
    Scale,
    Sum,
    Term,
    label_of,
    leaves,
)

Changed = TypeVar("Changed", Kernel, Norm, Scale, Mean)

_BRACES = re.compile(r"\\\{(\w+)\\\}")


@dataclass
class Resolved:
    """A family's term with full names, and the keys that it lacks or takes besides."""

    term: Term | None
    missing: list[str] = field(default_factory=list)
    counters: list[str] = field(default_factory=list)


def resolve(
    family: Family, prefix: str, names: Collection[str], values: Mapping[str, str] | None = None
) -> Resolved:
    """Return the term of ``family`` for the block at ``prefix``.

    Args:
        names: every name under the prefix, without it.
        values: what stands in place of the braces of the family's own names.
    """
    there = names if isinstance(names, set | frozenset | dict) else set(names)
    resolver = _Resolver(prefix, there)
    term = resolver.term(family.term, dict(values or {}))
    return Resolved(term, resolver.missing, resolver.counters)


def keys_of(leaf: Leaf) -> tuple[str, ...]:
    """Return the keys that a resolved operator reads, in the order of its arithmetic."""
    if isinstance(leaf, Kernel):
        return (leaf.weight, leaf.shift) if leaf.bias != NEVER else (leaf.weight,)
    if isinstance(leaf, Norm):
        return tuple(key for key in leaf.keys if key)
    if isinstance(leaf, Scale):
        return tuple(key for key in (leaf.factor, leaf.shift) if key)
    return ()


class _Resolver:
    def __init__(self, prefix: str, names: Collection[str]) -> None:
        self.prefix = prefix
        self.names = names
        self.missing: list[str] = []
        self.counters: list[str] = []
        torch = any(name.endswith(STATISTICS[TORCH]) for name in names)
        self.spelling = TORCH if torch else PADDLE

    def term(self, term: Term, values: dict[str, str]) -> Term | None:
        """Return ``term`` with full names; None for a part that is not there."""
        if isinstance(term, Chain):
            parts = [self.term(part, values) for part in term.parts]
            there = [part for part in parts if part is not None]
            return Chain(*there, label=_filled(term.label, values)) if there else None
        if isinstance(term, Sum):
            branches = [one for part in term.branches for one in self.branches(part, values)]
            return Sum(*branches, label=_filled(term.label, values)) if branches else None
        if isinstance(term, Maybe):
            return self.term(term.term, values) if self.has_any(term.term, values) else None
        if isinstance(term, Either):
            found = (part for part in term.terms if self.has_any(part, values))
            return self.term(next(found, term.terms[0]), values)
        if isinstance(term, Each):
            branches = list(self.branches(term, values))
            return Sum(*branches, label=_filled(term.label, values)) if branches else None
        return self.leaf(term, values)

    def branches(self, term: Term, values: dict[str, str]) -> Iterator[Term]:
        """Yield the branches that one entry of a sum stands for."""
        if not isinstance(term, Each):
            one = self.term(term, values)
            if one is not None:
                yield one
            return
        found = self.numbers(term.term, values)
        if len(found) < term.least:
            found = [dict.fromkeys(_variables(_first_key(term.term)), "0")]
        for numbers in found:
            one = self.term(term.term, {**values, **numbers})
            if one is not None:
                yield one

    def numbers(self, term: Term, values: dict[str, str]) -> list[dict[str, str]]:
        """Return what the names hold in place of those in braces, in the order of the numbers.

        A counter runs from 0, so a number that was left out is a branch that is missing.
        """
        found: set[tuple[tuple[str, str], ...]] = set()
        for leaf in leaves(term):
            for key in _possible_keys(leaf):
                wanted = _filled(key, values)
                start, end = wanted.partition("{")[0], wanted.rpartition("}")[2]
                for name in self.names:
                    if name.startswith(start) and name.endswith(end):  # faster than no match
                        match = _pattern(wanted).fullmatch(name)
                        if match:
                            found.add(tuple(match.groupdict().items()))
        numbers = sorted(found, key=lambda pairs: [int(value) for _, value in pairs])
        if numbers and [name for name, _ in numbers[0]] == ["i"]:
            last = int(numbers[-1][0][1])  # a gap shows at the number of those found, or before
            return [{"i": str(i)} for i in range(min(last, len(numbers)) + 1)]
        return [dict(pairs) for pairs in numbers]

    def has_any(self, term: Term, values: dict[str, str]) -> bool:
        keys = [_filled(key, values) for leaf in leaves(term) for key in _possible_keys(leaf)]
        plain = (key in self.names for key in keys if "{" not in key)
        if any(plain):
            return True
        patterns = [_pattern(key) for key in keys if "{" in key]
        return any(p.fullmatch(name) for p in patterns for name in self.names)

    def leaf(self, leaf: Leaf, values: dict[str, str]) -> Term:
        if isinstance(leaf, Kernel):
            return self.kernel(leaf, values)
        if isinstance(leaf, Norm):
            return self.norm(leaf, values)
        if isinstance(leaf, Scale):
            factor, shift = (self.found(_filled(k, values)) for k in (leaf.factor, leaf.shift))
            return _changed(leaf, factor=factor, shift=shift)
        if isinstance(leaf, Mean):
            return _changed(leaf, like=self.prefix + _filled(leaf.like, values))
        return leaf

    def kernel(self, leaf: Kernel, values: dict[str, str]) -> Kernel:
        weight, bias = (_filled(key, values) for key in (leaf.weight, leaf.shift))
        has_bias = leaf.bias == ALWAYS or (leaf.bias == MAYBE and bias in self.names)
        dilation = leaf.dilation
        if isinstance(dilation, str):
            dilation = int(_filled(dilation, values))
        size = leaf.size
        if isinstance(size, str) and size.startswith("{"):
            size = (int(_filled(size, values)),) * 2
        return _changed(
            leaf,
            name=self.prefix + _filled(leaf.name, values),
            size=size,
            dilation=dilation,
            bias=ALWAYS if has_bias else NEVER,
            weight_key=self.found(weight),
            bias_key=self.found(bias) if has_bias else "",
            label=_filled(label_of(leaf), values),
        )

    def norm(self, leaf: Norm, values: dict[str, str]) -> Norm:
        name = _filled(leaf.name, values)
        stem = f"{name}." if name else ""
        affine = [f"{stem}weight", f"{stem}bias"]
        if leaf.affine == MAYBE and not any(key in self.names for key in affine):
            affine = ["", ""]
        keys = (*affine, *(stem + key for key in STATISTICS[self.spelling]))
        if f"{stem}{COUNTER}" in self.names:
            self.counters.append(self.prefix + stem + COUNTER)
        found = tuple(self.found(key) for key in keys)
        return _changed(
            leaf, name=self.prefix + name, keys=found, label=_filled(label_of(leaf), values)
        )

    def found(self, name: str) -> str:
        """Return the full name of a key, and note it where it is missing."""
        if not name:
            return ""
        if name not in self.names:
            self.missing.append(self.prefix + name)
        return self.prefix + name


def _changed(leaf: Changed, **fields: Any) -> Changed:
    """Return what dataclasses.replace does, five times as fast: a file has thousands of leaves."""
    made = object.__new__(type(leaf))
    made.__dict__.update(leaf.__dict__, **fields)
    return made


def possible_keys(term: Term) -> Iterator[str]:
    """Yield every key that a term may read, braces as they are, in every spelling."""
    for leaf in leaves(term):
        yield from _possible_keys(leaf)


def _possible_keys(leaf: Leaf) -> Iterator[str]:
    if isinstance(leaf, Kernel):
        yield leaf.weight
        if leaf.bias != NEVER:
            yield leaf.shift
    elif isinstance(leaf, Norm):
        stem = f"{leaf.name}." if leaf.name else ""
        yield from (stem + key for key in ("weight", "bias", *STATISTICS[PADDLE]))
        yield from (stem + key for key in (*STATISTICS[TORCH], COUNTER))
    elif isinstance(leaf, Scale):
        yield from (key for key in (leaf.factor, leaf.shift) if key)


def _first_key(term: Term) -> str:
    return next(key for leaf in leaves(term) for key in _possible_keys(leaf))


def _filled(text: str, values: dict[str, str]) -> str:
    if "{" not in text:
        return text
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _variables(key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r"\{(\w+)\}", key)))


@lru_cache(maxsize=4096)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(_BRACES.sub(r"(?P<\1>0|[1-9]\\d{0,5})", re.escape(key)))
