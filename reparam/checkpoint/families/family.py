"""The record of one family of blocks."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from reparam.checkpoint.families.terms import (
    PADDLE,
    Scale,
    Term,
    leaves,
    required_leaves,
    sure_keys,
)

_COUNTED = re.compile(r"\{(?!n\})")  # names that stand once for each of several numbers


class Choice(NamedTuple):
    """An epsilon that some project uses for a family.

    ``sign`` is what names in its checkpoints begin with or hold, empty where nothing tells.
    """

    value: float
    project: str
    sign: str = ""


@dataclass(frozen=True)
class Epsilon:
    """The epsilon of a family's BatchNorms, which no checkpoint stores.

    Args:
        paddle, torch: the value in checkpoints of either spelling; None where projects that
            share the names differ, so that the user has to say.
        source: why that value.
        choices: what there is to choose from.
    """

    paddle: float | None
    torch: float | None
    source: str
    choices: tuple[Choice, ...] = ()

    @classmethod
    def of(cls, value: float, source: str) -> Epsilon:
        """Return the record of a family that has one value everywhere."""
        return cls(value, value, source)

    def in_spelling(self, spelling: str) -> float | None:
        return self.paddle if spelling == PADDLE else self.torch


NO_NORM = Epsilon.of(0.0, "the family has no BatchNorm")


@dataclass(frozen=True, eq=False)
class Family:
    """One kind of block, or one linear region of a block that has several.

    Args:
        name: what reports call it, and ``--family``.
        term: the operators, with names under the block.
        deploy: name, under the block, of the one convolution that it becomes; empty where the
            convolution takes the place of the block itself.
        epsilon: of its BatchNorms.
        anchors: first words of names that no other kind of module uses. Where one stands, the
            block is of this family or damaged; a family without any is told by all of its names
            and by shapes.
        stays: first words of names that belong to such a block and are no part of the sum, so
            that they are left as they are: an attention, a BatchNorm after the activation.
        part: added to the block's name in reports, where a module holds several regions.
        source: the project and the file that define the names.
        remark: what a user should know.
        same_groups: every convolution has the group count of the block; tells it where a
            convolution follows another.
        leftovers: names, under the block, that files hold unused beside the branches.
        within: last word of the block's own name, where the names under it do not tell enough.
        beside: names, under the block, that stand there too in every block of the family.
        on_request: only where the user names the family.
        blocked_by: first words of names of what computes between the operators of the term, so
            that a block that has one is no such convolution, whoever names the family.
        dense: of one group alone.
    """

    name: str
    term: Term
    deploy: str
    epsilon: Epsilon
    anchors: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    part: str = ""
    source: str = ""
    remark: str = ""
    same_groups: bool = True
    leftovers: tuple[str, ...] = field(default=())
    within: str = ""
    beside: tuple[str, ...] = ()
    on_request: bool = False
    blocked_by: tuple[str, ...] = ()
    dense: bool = False

    def stands_at(self, prefix: str, names: Collection[str]) -> bool:
        """Return whether a block can be of this family by its own name and what is beside it."""
        named = not self.within or f".{prefix}".endswith(f".{self.within}.")
        return named and all(name in names for name in self.beside)

    def obstacle(self, names: Collection[str]) -> str:
        """Return a name that says that the block is no one convolution; empty if there is none."""
        words = self.blocked_by
        if not words:
            return ""
        found = (n for n in names if any(n == w or n.startswith(f"{w}.") for w in words))
        return min(found, default="")

    @property
    def distinctive(self) -> bool:
        return bool(self.anchors)

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names that every block of the family has, in either spelling; ``{n}`` as it is."""
        return frozenset(
            key
            for leaf in required_leaves(self.term)
            for key in sure_keys(leaf)
            if not _COUNTED.search(key)
        )

    @cached_property
    def scalars(self) -> tuple[Scale, ...]:
        return tuple(leaf for leaf in leaves(self.term) if isinstance(leaf, Scale))

    def deploy_key(self, array: str) -> str:
        return f"{self.deploy}.{array}" if self.deploy else array
