"""A block of a checkpoint: which arrays it has, and the operators that it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reparam.checkpoint.families.family import Family
from reparam.checkpoint.families.terms import (
    STATISTICS,
    Kernel,
    Norm,
    Scale,
    Term,
    labels_of,
    leaves,
)
from reparam.checkpoint.geometry import Geometry
from reparam.checkpoint.resolving import keys_of
from reparam.checkpoint.trees import by_rows, tree_of
from reparam.conv import Block

_STATISTICS = tuple(key for pair in STATISTICS.values() for key in pair)


@dataclass(frozen=True, eq=False)
class BlockMatch:
    """A block in train-time form.

    Attributes:
        prefix: of its names, with a trailing dot, or empty for the root.
        family: what it was matched to.
        term: the operators that are there, with full names.
        geometry: of the convolution that it becomes.
        spelling: of its BatchNorms' statistics, ``paddle`` or ``torch``.
        counters: keys that PyTorch saves with a BatchNorm and nothing computes with.
        has_deploy: whether the deploy form's weight stands beside the branches.
        values: numbers in place of the braces of the family's own names.
    """

    prefix: str
    family: Family
    term: Term
    geometry: Geometry
    spelling: str
    counters: tuple[str, ...] = ()
    has_deploy: bool = False
    values: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def where(self) -> str:
        return f"{self.prefix}{self._filled(self.family.part)}".rstrip(".") or "(root)"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What reports call its branches."""
        return labels_of(self.term)

    @cached_property
    def branch_keys(self) -> tuple[str, ...]:
        """Every key that fusing consumes, those of the arithmetic first."""
        keys = dict.fromkeys(key for leaf in leaves(self.term) for key in keys_of(leaf))
        return (*keys, *self.counters)

    @cached_property
    def neutral_keys(self) -> Mapping[str, float]:
        """Keys that stay in the file after fusing, with the value that changes nothing."""
        kept = [leaf for leaf in leaves(self.term) if isinstance(leaf, Scale) and leaf.neutral]
        ones = {leaf.factor: 1.0 for leaf in kept if leaf.factor}
        return ones | {leaf.shift: 0.0 for leaf in kept if leaf.shift}

    @property
    def in_place(self) -> bool:
        """Whether it is one convolution in its place, but for scales that stay in the file."""
        others = [key for key in self.branch_keys if key not in self.neutral_keys]
        return set(others) == {self.weight_key, self.bias_key}

    @cached_property
    def kernel_keys(self) -> tuple[str, ...]:
        """The key of each convolution's weight, once."""
        kernels = (leaf.weight for leaf in leaves(self.term) if isinstance(leaf, Kernel))
        return tuple(dict.fromkeys(kernels))

    @cached_property
    def wide_key(self) -> str:
        """The key of the kernel that the others are added to; it decides the dtype."""
        return self.kernel_keys[0]

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        return tuple(leaf for leaf in leaves(self.term) if isinstance(leaf, Norm))

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """Keys of learned scalars and scales."""
        scales = (leaf for leaf in leaves(self.term) if isinstance(leaf, Scale))
        return tuple(dict.fromkeys(scale.factor for scale in scales if scale.factor))

    @property
    def learned_keys(self) -> tuple[str, ...]:
        consumed = (key for key in self.branch_keys if key not in self.counters)
        return tuple(key for key in consumed if not key.endswith(_STATISTICS))

    @property
    def linear(self) -> bool:
        """Whether it is a fully connected layer, of a weight of two axes."""
        return any(leaf.linear for leaf in leaves(self.term) if isinstance(leaf, Kernel))

    @property
    def weight_key(self) -> str:
        return self.prefix + self._filled(self.family.deploy_key("weight"))

    @property
    def bias_key(self) -> str:
        return self.prefix + self._filled(self.family.deploy_key("bias"))

    @property
    def epsilon(self) -> float | None:
        """The family's epsilon in this spelling; None where the user has to say."""
        return self.family.epsilon.in_spelling(self.spelling) if self.norms else 0.0

    @cached_property
    def by_rows(self) -> bool:
        """Whether its output channels can be fused apart."""
        return by_rows(self.term) and not self.linear

    def _filled(self, text: str) -> str:
        for name, value in self.values.items():
            text = text.replace(f"{{{name}}}", value)
        return text


def block_tree(
    match: BlockMatch, arrays: Mapping[str, Any], epsilon: float, rows: slice | None = None
) -> Block:
    """Return the tree of operators that the block computes, from its stored arrays.

    Kernels are centred, the stride is 1 (the fused weight does not depend on it), and the group
    count is 1 where the arrays do not tell (the weight does not depend on it then).

    Args:
        rows: the output channels to build, all by default; only if ``match.by_rows``. A part of
            them is a dense block of the I/G inputs of its group: its fused weight is those rows
            of the whole weight, but it is no map of the block's input.
    """
    return tree_of(match.term, match.geometry, arrays, epsilon, spelling=match.spelling, rows=rows)
