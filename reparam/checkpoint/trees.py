"""What a block computes, as a tree of operators built from its stored arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.checkpoint.families.terms import (
    NEVER,
    TORCH,
    Chain,
    Input,
    Kernel,
    Mean,
    Norm,
    Scale,
    Sum,
    Term,
    label_of,
)
from reparam.checkpoint.geometry import Geometry
from reparam.checkpoint.windows import Size, extent_of, matrix
from reparam.conv import (
    Affine,
    AvgPool,
    BatchNorm,
    Block,
    Conv,
    Identity,
    Parallel,
    Sequential,
)
from reparam.conv.algebra import expand_groups, identity_as_conv
from reparam.conv.operators import given_away

Arrays = Mapping[str, Any]

_WHOLE = slice(None)


def tree_of(
    term: Term,
    geometry: Geometry,
    arrays: Arrays,
    epsilon: float,
    *,
    spelling: str,
    rows: slice | None = None,
) -> Block:
    """Return the operators of a resolved term; see :func:`reparam.checkpoint.blocks.block_tree`."""
    return _Building(geometry, arrays, epsilon, spelling, rows).whole(term)


def by_rows(term: Term) -> bool:
    """Return whether output channels can be built apart: no kernel stands behind another part."""
    if isinstance(term, Chain):
        rest = all(isinstance(part, Norm | Scale) for part in term.parts[1:])
        return rest and by_rows(term.parts[0])
    if isinstance(term, Sum):
        return all(by_rows(branch) for branch in term.branches)
    return not isinstance(term, Mean)


def norm_of(norm: Norm, arrays: Arrays, epsilon: float, rows: slice = _WHOLE) -> BatchNorm:
    """Return a resolved BatchNorm; gamma is 1 and beta 0 where it has none."""
    gamma, beta, mean, variance = norm.keys
    ones = np.ones(arrays[mean][rows].shape)
    return BatchNorm(
        arrays[gamma][rows] if gamma else ones,
        arrays[beta][rows] if beta else 0 * ones,
        arrays[mean][rows],
        arrays[variance][rows],
        epsilon,
    )


class _Building:
    def __init__(
        self, geometry: Geometry, arrays: Arrays, epsilon: float, spelling: str, rows: slice | None
    ) -> None:
        self.geometry, self.arrays, self.epsilon = geometry, arrays, epsilon
        self.spelling = spelling
        self.rows = rows

    def whole(self, term: Term) -> Block:
        return self.build(term, _halves(self.extent(term)), self.inputs)[0]

    @property
    def inputs(self) -> int:
        return self.geometry.per_group * (self.geometry.groups or 1)

    def extent(self, term: Term) -> Size:
        shapes = _Shapes(self.arrays)
        return extent_of(term, shapes, self.spelling)

    def build(self, term: Term, padding: Size, channels: int) -> tuple[Block, int]:
        """Return the operators of ``term`` on ``channels`` channels, and how many it makes."""
        if isinstance(term, Kernel):
            conv = self.kernel(term, padding, channels)
            return conv, conv.out_channels
        if isinstance(term, Sum):
            return self.sum(term, padding, channels)
        if isinstance(term, Chain):
            return self.chain(term, padding, channels)
        if isinstance(term, Mean):
            window = self.extent(term)
            counts = term.exclusive != self.spelling
            pool = AvgPool.of(channels, window, padding=padding, count_include_pad=counts)
            return pool, channels
        if self.rows is not None:
            return self.chain(Chain(term), padding, channels)
        if isinstance(term, Input):
            return self.identity(padding, channels), channels
        return self.affine(term, channels), channels

    def sum(self, term: Sum, padding: Size, channels: int) -> tuple[Block, int]:
        """Give each branch the padding that keeps its output as large as the sum's."""
        halves = _halves(self.extent(term))
        branches: dict[str, Block] = {}
        outputs = channels
        for branch in term.branches:
            own = _halves(self.extent(branch))
            need = zip(own, padding, halves, strict=True)
            part, outputs = self.build(branch, tuple(o + p - h for o, p, h in need), channels)
            name = label_of(branch)
            branches[name if name not in branches else f"{name} ({len(branches)})"] = part
        return (Parallel(branches) if len(branches) > 1 else part), outputs

    def chain(self, term: Chain, padding: Size, channels: int) -> tuple[Block, int]:
        parts: list[Block] = []
        terms = list(term.parts)
        if self.rows is not None and not isinstance(terms[0], Kernel | Sum | Chain):
            identity = rows_of_identity(self.rows, self.geometry.weight)
            parts.append(identity)
            channels = identity.out_channels
            if isinstance(terms[0], Input):
                del terms[0]
        left: Size | None = padding
        for part in terms:
            windowed = isinstance(part, Kernel | Sum | Chain | Mean)
            mine = left if windowed and left is not None else (0,) * len(padding)
            if windowed:
                left = None
            if isinstance(part, Norm | Scale):
                parts.append(self.affine(part, channels))
            else:
                block, channels = self.build(part, mine, channels)
                parts.append(block)
        return (Sequential(*parts) if len(parts) > 1 else parts[0]), channels

    def kernel(self, term: Kernel, padding: Size, channels: int) -> Conv:
        part = self.rows or _WHOLE
        weight = self.as_matrix(self.arrays[term.weight], term)
        if term.planes:
            weight = np.broadcast_to(weight, (channels, *weight.shape[1:]))
        weight = weight[part]
        bias = self.arrays[term.shift][part] if term.bias != NEVER else None
        groups = self.geometry.known.get(term.weight, 1) if self.rows is None else 1
        return Conv.of(weight, bias, padding=padding, dilation=int(term.dilation), groups=groups)

    def as_matrix(self, weight: Any, term: Kernel) -> Any:
        if not (term.linear or term.planes):
            return weight
        rows = weight if self.spelling == TORCH or term.planes else weight.T
        return rows.reshape(matrix(weight.shape, term, self.spelling))

    def affine(self, term: Term, channels: int) -> BatchNorm | Affine:
        if isinstance(term, Norm):
            return norm_of(term, self.arrays, self.epsilon, self.rows or _WHOLE)
        assert isinstance(term, Scale)
        factor = self.values(term.factor, term, channels, 1.0)
        shift = self.values(term.shift, term, channels, 0.0)
        return Affine(factor * (-term.constant if term.minus else term.constant), shift)

    def values(self, key: str, term: Scale, channels: int, default: float) -> Any:
        """Return one float64 number for each channel."""
        if not key:
            return np.full(channels, default)
        values = np.asarray(self.arrays[key] if term.row is None else self.arrays[key][term.row])
        flat = values.reshape(-1).astype(np.float64)
        if flat.size == 1:
            return np.full(channels, flat[0])
        return flat[self.rows or _WHOLE]

    def identity(self, padding: Size, channels: int) -> Block:
        """Return the input itself, with ``padding`` zeros around it."""
        if not any(padding):
            return Identity(channels)
        conv = expand_groups(identity_as_conv(channels, len(padding)), self.geometry.groups or 1)
        return Conv.of(conv.weight, padding=padding, groups=conv.groups)


def rows_of_identity(rows: slice, fused: Size) -> Conv:
    """Return output channels of the identity, in groups of I/G = ``fused[1]`` inputs.

    A part of them is dense in the inputs of its group.
    """
    channels = np.arange(fused[0])[rows]
    weight = np.zeros((len(channels), fused[1], *(1 for _ in fused[2:])))
    weight[np.arange(len(channels)), channels % fused[1]] = 1
    return Conv.of(given_away(weight))


class _Shapes(Mapping[str, tuple[int, ...]]):
    """The shapes of arrays, without reading them."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __getitem__(self, key: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.arrays[key].shape
        return shape

    def __iter__(self) -> Any:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def _halves(extent: Size) -> Size:
    return tuple(size // 2 for size in extent)
