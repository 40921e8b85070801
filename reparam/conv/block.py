"""Blocks as trees of operators, and the one convolution each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeAlias

from reparam.conv.algebra import (
    add,
    affine_of,
    average_pool_as_conv,
    identity_as_conv,
    scale_and_shift,
)
from reparam.conv.composing import compose
from reparam.conv.operators import Affine, AvgPool, BatchNorm, Conv, Identity, Operator
from reparam.errors import NotFusibleError

Block: TypeAlias = "Operator | Sequential | Parallel"


@dataclass(frozen=True, init=False)
class Sequential:
    """Operators or blocks one after the other: ``Sequential(conv, norm)``."""

    parts: tuple[Block, ...]

    def __init__(self, *parts: Block) -> None:
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True)
class Parallel:
    """Named branches of the same input, added: ``Parallel({"conv1": ..., "conv2": ...})``."""

    branches: Mapping[str, Block] = field(default_factory=dict)


def fuse(block: Block, axes: int | None = None) -> Conv:
    """Return the one convolution equal to ``block``.

    Args:
        block: an operator or a tree of operators.
        axes: spatial axes of the input. The block's own, where it has a kernel; else 2.

    Raises:
        NotFusibleError: a law does not hold; the message names the branch.
    """
    if axes is None:
        kernels = (len(op.kernel) for op in operators(block) if isinstance(op, Conv | AvgPool))
        axes = next(kernels, 2)
    return _fuse(block, axes)


def _fuse(block: Block, axes: int) -> Conv:
    if isinstance(block, Parallel):
        return add(*(_fuse_branch(name, part, axes) for name, part in block.branches.items()))
    if isinstance(block, Sequential):
        return _fuse_sequence(block, axes)
    return _as_conv(block, axes)


def operators(block: Block) -> Iterator[Operator]:
    """Yield every operator of ``block``, depth first."""
    if isinstance(block, Parallel):
        for part in block.branches.values():
            yield from operators(part)
    elif isinstance(block, Sequential):
        for part in block.parts:
            yield from operators(part)
    else:
        yield block


def _fuse_branch(name: str, block: Block, axes: int) -> Conv:
    try:
        return _fuse(block, axes)
    except NotFusibleError as error:
        raise error.located(f"branch '{name}': {error.what}") from error


def _fuse_sequence(block: Sequential, axes: int) -> Conv:
    if not block.parts:
        raise NotFusibleError(
            "an empty sequence is not a convolution", hint="write Identity(channels)"
        )
    first, *rest = block.parts
    return reduce(lambda conv, part: _extend(conv, part), rest, _fuse(first, axes))


def _extend(conv: Conv, part: Block) -> Conv:
    if isinstance(part, BatchNorm):
        return scale_and_shift(conv, affine_of(part))
    if isinstance(part, Affine):
        return scale_and_shift(conv, part)
    return compose(conv, _fuse(part, len(conv.kernel)))


def _as_conv(operator: Operator, axes: int) -> Conv:
    if isinstance(operator, Conv):
        return operator
    if isinstance(operator, AvgPool):
        return average_pool_as_conv(operator)
    channels = operator.channels
    if isinstance(operator, Identity):
        return identity_as_conv(channels, axes)
    affine = affine_of(operator) if isinstance(operator, BatchNorm) else operator
    return scale_and_shift(identity_as_conv(channels, axes), affine)
