"""Names and shapes of a block in train-time form, told by its family where no network tells.

A fused weight does not say which optional branches there were, nor how many of one kind: the user
does, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from reparam.checkpoint.families import Family
from reparam.checkpoint.families.terms import (
    ALWAYS,
    COLUMN,
    COUNTER,
    MAYBE,
    ODD,
    POINT,
    ROW,
    SAME,
    STATISTICS,
    TORCH,
    WIDE,
    Chain,
    Each,
    Either,
    Kernel,
    Leaf,
    Maybe,
    Norm,
    Scale,
    Sum,
    Term,
    label_of,
    leaves,
)
from reparam.errors import CheckpointError

Size = tuple[int, ...]

_ONE_TAP = (1, 1)


class UndecidedError(Exception):
    """Nothing tells the shape of an array; the text says of which, and why."""


@dataclass
class Wishes:
    """What the user says of the branches of blocks.

    Args:
        have, lack: optional parts that are there and that are not, as ``PART`` for every block or
            ``BLOCK:PART`` with ``*`` in the name of the block, which comes first.
        branches: how many branches there are of a kind that counts.
    """

    have: Sequence[str] = ()
    lack: Sequence[str] = ()
    branches: int | None = None
    used: set[str] = field(default_factory=set)

    def answer(self, where: str, part: str) -> tuple[bool | None, bool]:
        """Return whether the block has the part (None: not said), and if it was named for it."""
        for named in (True, False):
            there = self._matching(self.have, where, part, named)
            absent = self._matching(self.lack, where, part, named)
            self.used.update(there, absent)
            if there and absent:
                raise CheckpointError(
                    f"--with {there[0]} and --without {absent[0]} contradict each other",
                    found=f"both speak of block '{where}'",
                )
            if there or absent:
                return bool(there), named
        return None, False

    @staticmethod
    def _matching(given: Sequence[str], where: str, part: str, named: bool) -> list[str]:
        split = ((text, *text.rpartition(":")) for text in given)
        return [
            text
            for text, block, colon, wanted in split
            if wanted == part and bool(colon) is named and (not named or fnmatchcase(where, block))
        ]


@dataclass
class Outline:
    """What a block in train-time form holds.

    Attributes:
        shapes: by names under the block.
        open: what has to be decided and was not.
        left_out: optional factors, which nobody asked for: one that is missing counts as 1, and
            here all of them multiply zero.
    """

    shapes: dict[str, Size] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def outline_of(family: Family, where: str, weight: Size, spelling: str, wishes: Wishes) -> Outline:
    """Return names and shapes of a block of ``family`` that fuses to a weight (O, I/G, KH, KW).

    Raises:
        UndecidedError: the family does not tell them.
        CheckpointError: the user asks for what cannot be.
    """
    drawing = _Drawing(where, weight, spelling, wishes)
    drawing.draw(family.term, {}, bias=True)
    return drawing.outline


class _Drawing:
    def __init__(self, where: str, weight: Size, spelling: str, wishes: Wishes) -> None:
        self.where, self.wishes, self.spelling = where, wishes, spelling
        self.outputs, self.per_group = weight[:2]
        self.window = weight[2:]
        self.outline = Outline()

    def draw(self, term: Term, values: dict[str, str], *, bias: bool) -> None:
        """Note the arrays of ``term``; ``bias``: of an optional bias too."""
        if isinstance(term, Chain):
            self.chain(term, values, bias)
        elif isinstance(term, Sum):
            for branch in term.branches:
                self.draw(branch, values, bias=bias)
        elif isinstance(term, Maybe):
            if self.has(term):
                self.draw(term.term, values, bias=bias)
        elif isinstance(term, Each):
            self.each(term, bias)
        elif isinstance(term, Either):
            names = " or ".join(f"'{label_of(part)}'" for part in term.terms)
            raise UndecidedError(f"whether it had {names}")
        else:
            self.leaf(term, values, bias)

    def leaf(self, leaf: Leaf, values: dict[str, str], bias: bool) -> None:
        if isinstance(leaf, Kernel):
            self.kernel(leaf, values, bias)
        elif isinstance(leaf, Norm):
            self.norm(leaf, values)
        elif isinstance(leaf, Scale):
            self.scale(leaf, values)

    def chain(self, term: Chain, values: dict[str, str], bias: bool) -> None:
        kernels = [part for part in term.parts if _holds(part, Kernel)]
        if len(kernels) > 1:
            raise UndecidedError(f"how many channels '{label_of(term)}' has inside")
        normed = any(isinstance(part, Norm) for part in term.parts)
        for part in term.parts:
            self.draw(part, values, bias=bias and not normed)

    def each(self, term: Each, bias: bool) -> None:
        names = {name for leaf in leaves(term) for name in _braces(leaf)}
        if names != {"i"}:
            raise UndecidedError(f"which branches '{label_of(term)}' there are")
        if self.wishes.branches is None:
            self.outline.open.append(f"the number of '{label_of(term)}' (--branches N)")
        for number in range(self.wishes.branches or 1):
            self.draw(term.term, {"i": str(number)}, bias=bias)

    def has(self, term: Maybe) -> bool:
        """Return whether the block has an optional part; what nothing tells is noted."""
        part = label_of(term)
        kernels = [leaf for leaf in leaves(term.term) if isinstance(leaf, Kernel)]
        if kernels and self.window == _ONE_TAP and all(k.size == POINT for k in kernels):
            return False  # its kernel would be a second one of the same size
        answer, named = self.wishes.answer(self.where, part)
        square = _keeps_channels(term.term)
        if square and self.outputs % self.per_group:  # in no group count as many out as in
            if answer and named:
                raise CheckpointError(
                    f"block '{self.where}' cannot have '{part}'",
                    found=f"{self.outputs} output channels for groups of {self.per_group} inputs; "
                    "needed: as many out as in, in any number of groups",
                )
            return False
        if answer is None and _is_factor(term.term):
            self.outline.left_out.append(part)
            return False
        sure = named or not square or self.per_group in (1, self.outputs)
        if answer is None or (answer and not sure):
            self.outline.open.append(f"'{part}' (--with or --without)")
        return bool(answer)

    def kernel(self, kernel: Kernel, values: dict[str, str], bias: bool) -> None:
        sizes = {
            WIDE: self.window,
            ODD: self.window,
            SAME: self.window,
            POINT: (1,) * len(self.window),
            COLUMN: (self.window[0], 1),
            ROW: (1, self.window[-1]),
        }
        window = kernel.size if isinstance(kernel.size, tuple) else sizes.get(kernel.size)
        if kernel.fixed or kernel.planes or kernel.expands:
            raise UndecidedError(f"what '{_filled(kernel.weight, values)}' holds")
        if window is None:
            raise UndecidedError(f"the size of the kernel '{_filled(kernel.weight, values)}'")
        inputs = 1 if kernel.depthwise else self.per_group
        shape: Size = (self.outputs, inputs, *window)
        if kernel.linear:
            shape = shape[:2] if self.spelling == TORCH else shape[1::-1]
        self.note(kernel.weight, values, shape)
        if kernel.bias == ALWAYS or (kernel.bias == MAYBE and bias):
            self.note(kernel.shift, values, (self.outputs,))

    def norm(self, norm: Norm, values: dict[str, str]) -> None:
        stem = f"{norm.name}." if norm.name else ""
        for key in ("weight", "bias", *STATISTICS[self.spelling]):
            self.note(stem + key, values, (self.outputs,))
        if self.spelling == TORCH:
            self.note(stem + COUNTER, values, ())

    def scale(self, scale: Scale, values: dict[str, str]) -> None:
        if not scale.scalar or scale.row is not None:
            raise UndecidedError(f"how the shape of '{scale.factor or scale.shift}' is written")
        for key in (scale.factor, scale.shift):
            if key:
                self.note(key, values, (1,))

    def note(self, key: str, values: dict[str, str], shape: Size) -> None:
        self.outline.shapes[_filled(key, values)] = shape


def optional_parts(family: Family) -> tuple[str, ...]:
    """Return the names of the parts that not every block of a family has."""
    return tuple(dict.fromkeys(_optional(family.term)))


def _optional(term: Term) -> list[str]:
    if isinstance(term, Chain | Sum):
        parts = term.parts if isinstance(term, Chain) else term.branches
        return [name for part in parts for name in _optional(part)]
    if isinstance(term, Maybe):
        return [label_of(term), *_optional(term.term)]
    if isinstance(term, Either):
        return [name for part in term.terms for name in _optional(part)]
    return _optional(term.term) if isinstance(term, Each) else []


def _holds(term: Term, kind: type) -> bool:
    return any(isinstance(leaf, kind) for leaf in leaves(term))


def _keeps_channels(term: Term) -> bool:
    """Return whether a branch needs as many channels out as in; one number does not care."""
    return not any(isinstance(leaf, Kernel) for leaf in leaves(term)) and not _is_factor(term)


def _is_factor(term: Term) -> bool:
    return isinstance(term, Scale) and term.scalar


def _braces(leaf: Term) -> list[str]:
    name: str = getattr(leaf, "name", "") or getattr(leaf, "factor", "")
    return [part.partition("}")[0] for part in name.split("{")[1:]]


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text
