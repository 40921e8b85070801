"""Finding re-parameterizable blocks among names and shapes, and building what they compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reparam.checkpoint.families import BATCH_NORM_KEYS, FAMILIES, Branch, Family
from reparam.conv import Affine, BatchNorm, Block, Conv, Parallel, Sequential
from reparam.conv.operators import given_away
from reparam.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class BlockMatch:
    """A block in train-time form: ``prefix`` with a trailing dot, or empty for the root.

    ``factors`` and ``biases`` hold the keys of learned scalars and of biases of convolutions that
    are there, ``has_deploy`` whether the deploy form's weight stands beside the branches.
    """

    prefix: str
    family: Family
    branches: tuple[Branch, ...]
    factors: tuple[str, ...]
    has_deploy: bool
    biases: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return self.prefix.rstrip(".") or "(root)"

    @cached_property
    def branch_keys(self) -> tuple[str, ...]:
        """Every key that fusing consumes."""
        keys = [self.prefix + key for branch in self.branches for key in branch.keys]
        return tuple(keys) + self.biases + self.factors

    @cached_property
    def wide_key(self) -> str:
        return f"{self.prefix}{self.family.wide.conv_key}"

    @property
    def weight_key(self) -> str:
        return f"{self.prefix}{self.family.deploy}.weight"

    @property
    def bias_key(self) -> str:
        return f"{self.prefix}{self.family.deploy}.bias"


@dataclass(frozen=True)
class Found:
    """What names and shapes say: blocks in train-time form, prefixes in deploy form, and doubts."""

    blocks: tuple[BlockMatch, ...]
    deployed: tuple[tuple[str, Family], ...]
    doubts: tuple[tuple[str, str], ...]


def find_blocks(shapes: Shapes) -> Found:
    """Find every block of every family in one pass over the names.

    Raises:
        CheckpointError: a block whose names are distinctive lacks a key, or has one of a shape
            that cannot be.
    """
    blocks: dict[str, BlockMatch] = {}
    doubts: dict[str, str] = {}
    for prefix, family in _candidates(shapes):
        present = _present_branches(prefix, family, shapes)
        missing = _missing(prefix, present, shapes)
        problem = missing or _misshapen(prefix, family, present, shapes)
        if not problem:
            blocks[prefix] = _match(prefix, family, present, shapes)
        elif missing or family.distinctive:
            raise CheckpointError(
                f"block '{prefix.rstrip('.')}' ({family.name}) is not whole",
                found=problem,
                why="fusing it would need every branch as it was trained",
            )
        elif _looks_alike(prefix, family, shapes):
            doubts[prefix.rstrip(".")] = f"named like a {family.name}, but {problem}"
    deployed = tuple((p.rstrip("."), f) for p, f in _deployed(shapes) if p not in blocks)
    return Found(tuple(blocks.values()), deployed, tuple(doubts.items()))


def block_tree(
    match: BlockMatch, arrays: Mapping[str, Any], epsilon: float, rows: slice | None = None
) -> Parallel:
    """Return the tree of operators that the block computes, from its stored arrays.

    The kernel is centred, the stride is 1 (the fused weight does not depend on it), and the group
    count is what an identity branch tells, else 1 (the weight does not depend on it then).

    Args:
        rows: the output channels to build, all by default. A part of them is a dense block of
            the I/G inputs of its group: its fused weight is those rows of the whole weight, but
            it is no map of the block's input.
    """
    whole = rows is None
    part = rows or slice(None)
    shapes = {key: arrays[key].shape for key in match.branch_keys}
    groups = (group_count(match, shapes) or 1) if whole else 1
    branches: dict[str, Block] = {}
    for branch in match.branches:
        gamma, beta, mean, variance = (arrays[match.prefix + key][part] for key in branch.norm_keys)
        norm = BatchNorm(gamma, beta, mean, variance, epsilon)
        parts: list[Block] = [norm]
        if branch.conv_key:
            weight = arrays[match.prefix + branch.conv_key][part]
            bias_key = f"{match.prefix}{branch.conv_bias_key}"
            bias = arrays[bias_key][part] if bias_key in match.biases else None
            padding = [k // 2 for k in weight.shape[2:]]
            parts.insert(0, Conv.of(weight, bias, padding=padding, groups=groups))
        elif not whole:
            parts.insert(0, _rows_of_identity(part, shapes[match.wide_key]))
        factor = f"{match.prefix}{branch.factor}"
        if factor in match.factors:
            parts.append(Affine.scalar(float(np.asarray(arrays[factor]).item()), norm.channels))
        branches[branch.label] = Sequential(*parts)
    return Parallel(branches)


def _rows_of_identity(rows: slice, wide: tuple[int, ...]) -> Conv:
    """Return the output channels ``rows`` of the identity, in groups of I/G = ``wide[1]``."""
    channels = np.arange(wide[0])[rows]
    weight = np.zeros((len(channels), wide[1], *(1 for _ in wide[2:])))
    weight[np.arange(len(channels)), channels % wide[1]] = 1
    return Conv.of(given_away(weight))


def group_count(match: BlockMatch, shapes: Shapes) -> int | None:
    """Return the groups of the block, or None where names and shapes do not tell.

    Only an identity branch does: it has as many channels as the input.
    """
    wide = shapes[match.wide_key]
    identity = any(branch.kernel == "none" for branch in match.branches)
    return wide[0] // wide[1] if identity else None


def _candidates(shapes: Shapes) -> Iterable[tuple[str, Family]]:
    """Prefixes under which any key of a family's branches stands, in the order of the file."""
    seen = set()
    for key in shapes:
        for family in FAMILIES:
            for branch in family.branches:
                for suffix in branch.keys:
                    if not _ends_with(key, suffix):
                        continue
                    candidate = (key[: len(key) - len(suffix)], family)
                    if candidate not in seen and _plausible(*candidate, shapes):
                        seen.add(candidate)
                        yield candidate


def _plausible(prefix: str, family: Family, shapes: Shapes) -> bool:
    """Whether the names under ``prefix`` are those of a block, whole or damaged.

    Names that occur everywhere have to be there but for one: an orphaned BatchNorm is damage,
    two convolutions in a row with one BatchNorm are another module.
    """
    if family.distinctive:
        return True
    required = [key for branch in family.branches if branch.required for key in branch.keys]
    return sum(prefix + key not in shapes for key in required) <= 1


def _looks_alike(prefix: str, family: Family, shapes: Shapes) -> bool:
    """Whether a wide kernel stands beside a kernel of one tap, whatever their channels."""
    taps = [
        set(shapes[f"{prefix}{branch.conv_key}"][2:])
        for branch in family.branches
        if branch.conv_key and branch.required
    ]
    return taps[0] != {1} and all(tap == {1} for tap in taps[1:])


def _deployed(shapes: Shapes) -> Iterable[tuple[str, Family]]:
    for key, shape in shapes.items():
        for family in FAMILIES:
            suffix = f"{family.deploy}.weight"
            if not _ends_with(key, suffix) or len(shape) != 4 or set(shape[2:]) == {1}:
                continue
            prefix = key[: len(key) - len(suffix)]
            norm = any(f"{prefix}bn.{name}" in shapes for name in BATCH_NORM_KEYS)
            if f"{prefix}{family.deploy}.bias" in shapes and not norm:
                yield prefix, family


def _ends_with(key: str, suffix: str) -> bool:
    return key.endswith(suffix) and (len(key) == len(suffix) or key[-len(suffix) - 1] == ".")


def _present_branches(prefix: str, family: Family, shapes: Shapes) -> tuple[Branch, ...]:
    return tuple(
        branch
        for branch in family.branches
        if branch.required or any(prefix + key in shapes for key in branch.keys)
    )


def _match(prefix: str, family: Family, present: tuple[Branch, ...], shapes: Shapes) -> BlockMatch:
    factors = tuple(prefix + key for key in family.factors if prefix + key in shapes)
    biases = tuple(
        f"{prefix}{branch.conv_bias_key}"
        for branch in present
        if branch.conv_key and f"{prefix}{branch.conv_bias_key}" in shapes
    )
    has_deploy = f"{prefix}{family.deploy}.weight" in shapes
    return BlockMatch(prefix, family, present, factors, has_deploy, biases)


def _missing(prefix: str, present: tuple[Branch, ...], shapes: Shapes) -> str:
    """Return which key a block lacks, or nothing."""
    keys = (prefix + key for branch in present for key in branch.keys)
    missing = next((key for key in keys if key not in shapes), "")
    return f"'{missing}' is missing" if missing else ""


def _misshapen(prefix: str, family: Family, present: tuple[Branch, ...], shapes: Shapes) -> str:
    """Return which array cannot be part of a block of the family, or nothing."""
    wide_key = f"{prefix}{family.wide.conv_key}"
    wide = shapes[wide_key]
    if len(wide) != 4 or any(size % 2 == 0 for size in wide[2:]) or set(wide[2:]) == {1}:
        return f"'{wide_key}' has the shape {wide}; needed: (O, I/G, KH, KW) with an odd kernel"
    for branch in present:
        for key, needed in _needed_shapes(branch, wide).items():
            if shapes[prefix + key] != needed:
                return f"'{prefix}{key}' has the shape {shapes[prefix + key]}; needed: {needed}"
        bias = shapes.get(f"{prefix}{branch.conv_bias_key}", wide[:1])
        if branch.conv_key and bias != wide[:1]:
            return f"'{prefix}{branch.conv_bias_key}' has the shape {bias}; needed: {wide[:1]}"
        if branch.kernel == "none" and wide[0] % wide[1]:
            return f"'{wide_key}' has the shape {wide}, which an identity branch does not allow"
    for factor in family.factors:
        shape = shapes.get(prefix + factor, ())
        if shape not in ((), (1,)):
            return f"'{prefix}{factor}' has the shape {shape}; needed: (1,)"
    return ""


def _needed_shapes(branch: Branch, wide: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    needed: dict[str, tuple[int, ...]] = {}
    if branch.conv_key:
        needed[branch.conv_key] = wide if branch.kernel == "wide" else (*wide[:2], 1, 1)
    return needed | dict.fromkeys(branch.norm_keys, wide[:1])
