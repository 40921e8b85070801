"""What a fused weight adds up without cancelling: the B that rounding errors are relative to.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from reparam.conv.algebra import affine_of
from reparam.conv.block import Block, Parallel, Sequential, fuse
from reparam.conv.bounds import (
    BATCH_NORM_ROUNDINGS,
    UNDERFLOW,
    UNIT_ROUNDOFF,
    gamma,
    rounding_count,
)
from reparam.conv.operators import Affine, Array, BatchNorm, Conv, Identity, Operator
from reparam.conv.reference import evaluate_magnitude


class Magnitudes(NamedTuple):
    """Sums of magnitudes for each output channel, the taps of a channel added up.

    ``lifted`` are the same with every constant that is not 0 raised to at least 1.
    """

    weight: Array
    bias: Array
    lifted_weight: Array
    lifted_bias: Array


def error_bound(block: Block, x: Array, *, stored: str = "float64", roundings: int = 1) -> Array:
    """Return, for each output, how far the fused convolution may be from ``block``.

        2 * gamma_n * B    both sides are evaluated in float64, each may be off by gamma_n * B
        + k * u * B        the fused weight was rounded k times to the dtype ``stored``
        + k * eta * L      and each time lost eta to underflow, which later constants multiply

    where B is ``block`` evaluated with absolute values, and L the same on a constant image with
    every constant raised to at least 1. Derived, so it needs no tuning.

    Args:
        x: the probe (N, I, *spatial).
        stored: dtype the fused weight is kept in.
        roundings: k; once is ours, fusing in that dtype takes up to ``FUSING_ROUNDINGS``.
    """
    magnitude = evaluate_magnitude(block, x)
    bound = 2 * gamma(rounding_count(block)) * magnitude
    if stored != "float64":
        sums, largest = magnitude_sums(block), max(float(np.abs(x).max(initial=0.0)), 1.0)
        lifted = sums.lifted_weight * largest + sums.lifted_bias
        lost = UNDERFLOW[stored] * lifted.reshape(-1, *([1] * (magnitude.ndim - 2)))
        bound = bound + roundings * (UNIT_ROUNDOFF[stored] * magnitude + lost)
    return bound


def weight_roundings(block: Block) -> int:
    """Return the roundings on the longest path to an element of the fused weight or bias.

    A BatchNorm costs six (add, square root, divide; then multiply, subtract and add for the
    bias), an affine two, a kernel after another one the length of the sum that composes them,
    a sum of branches one for each plus sign.
    """
    if isinstance(block, Parallel):
        longest = max((weight_roundings(part) for part in block.branches.values()), default=0)
        return longest + len(block.branches)
    if isinstance(block, Sequential):
        return sum(_after_kernel(part, first=not at) for at, part in enumerate(block.parts))
    return _after_kernel(block, first=True)


def _after_kernel(block: Block, *, first: bool) -> int:
    if isinstance(block, BatchNorm):
        return BATCH_NORM_ROUNDINGS
    if isinstance(block, Affine):
        return 2
    if isinstance(block, Parallel | Sequential):
        own = weight_roundings(block)
        return own if first else own + _length_of(block)
    return 1 if first else 1 + _length_of(block)


def _length_of(block: Block) -> int:
    """How many products one output channel of a kernel sums, for its weight and for its bias."""
    if isinstance(block, Affine | BatchNorm | Identity):
        return 2
    kernel = fuse(block)
    return int(kernel.weight[0].size) + 2


def magnitude_sums(block: Block) -> Magnitudes:
    """Return, for each output channel, what the fused weight and bias add up without cancelling.

    Computed in at most ``weight_roundings(block)`` plus the length of a channel roundings.
    """
    if isinstance(block, Parallel):
        return reduce(_added, (magnitude_sums(part) for part in block.branches.values()))
    if isinstance(block, Sequential):
        first, *rest = block.parts
        return reduce(_followed, rest, magnitude_sums(first))
    if isinstance(block, Conv):
        return _of_conv(block.weight, block.bias)
    if isinstance(block, BatchNorm | Affine):
        ones = np.ones(block.channels)
        return _scaled(Magnitudes(ones, 0 * ones, ones, ones), block)
    kernel = fuse(block)
    return _of_conv(kernel.weight, kernel.bias)


def magnitude_of(block: Block, *, lifted: bool = False) -> Block:
    """Return ``block`` with every constant replaced by its magnitude.

    Args:
        lifted: raise what is not 0 to at least 1.
    """
    if isinstance(block, Parallel):
        parts = {name: magnitude_of(part, lifted=lifted) for name, part in block.branches.items()}
        return Parallel(parts)
    if isinstance(block, Sequential):
        return Sequential(*(magnitude_of(part, lifted=lifted) for part in block.parts))
    return _magnitude_of_operator(block, 1.0 if lifted else 0.0)


def _magnitude_of_operator(operator: Operator, least: float) -> Operator:
    if isinstance(operator, Conv):
        weight, bias = (_at_least(a, least) for a in (operator.weight, operator.bias))
        return replace(operator, weight=weight, bias=bias)
    if isinstance(operator, Affine):
        return Affine(_at_least(operator.scale, least), _at_least(operator.shift, least))
    if isinstance(operator, BatchNorm):
        computed = _affine_magnitudes(operator).scale
        scale = np.where(operator.gamma == 0, 0.0, np.maximum(computed, least))
        shift = _at_least(operator.beta, least) + _at_least(operator.mean, least) * scale
        return Affine(scale, shift)
    return operator


def _at_least(values: Array, least: float) -> Array:
    return np.where(values == 0, 0.0, np.maximum(np.abs(values), least))


def _affine_magnitudes(norm: BatchNorm) -> Affine:
    scale = np.abs(affine_of(norm).scale)
    return Affine(scale, np.abs(norm.beta) + np.abs(norm.mean) * scale)


def _of_conv(weight: Array, bias: Array) -> Magnitudes:
    sums = row_sums(weight)
    return Magnitudes(sums, np.abs(bias), sums + weight[0].size, np.abs(bias) + 1)


def _added(first: Magnitudes, second: Magnitudes) -> Magnitudes:
    return Magnitudes(*(a + b for a, b in zip(first, second, strict=True)))


def _scaled(sums: Magnitudes, part: Block) -> Magnitudes:
    assert isinstance(part, BatchNorm | Affine)  # the caller has looked
    affine = _affine_magnitudes(part) if isinstance(part, BatchNorm) else part
    scale, shift = np.abs(affine.scale), np.abs(affine.shift)
    mean = np.abs(part.mean) if isinstance(part, BatchNorm) else 0.0
    return Magnitudes(
        sums.weight * scale,
        sums.bias * scale + shift,
        sums.lifted_weight * (scale + 1),
        (sums.lifted_bias + mean + 1) * (scale + 1) + (shift + 1),
    )


def _followed(sums: Magnitudes, part: Block) -> Magnitudes:
    """Return the sums behind ``part``, which takes what they are of.

    The taps of two kernels one after the other add up to the product of their sums, since nothing
    cancels among magnitudes; so they need not be composed.
    """
    if isinstance(part, BatchNorm | Affine):
        return _scaled(sums, part)
    plain, lifted = fuse(magnitude_of(part)), fuse(magnitude_of(part, lifted=True))
    return Magnitudes(
        _through(plain, sums.weight),
        _through(plain, sums.bias) + plain.bias,
        _through(lifted, sums.lifted_weight),
        _through(lifted, sums.lifted_bias) + lifted.bias,
    )


def _through(kernel: Conv, sums: Array) -> Array:
    """Return, for each output channel, ``sums`` of its input channels times its taps."""
    taps = kernel.weight.reshape(*kernel.weight.shape[:2], -1).sum(axis=-1)
    by_group = taps.reshape(kernel.groups, -1, taps.shape[1])
    through: Array = np.einsum("goi,gi->go", by_group, sums.reshape(kernel.groups, -1))
    return through.reshape(-1)


def row_sums(values: Array) -> Array:
    """Return the sum of magnitudes for each output channel of a weight (O, ...)."""
    magnitudes = np.abs(values).reshape(len(values), -1)
    sums: Array = magnitudes.sum(axis=1, dtype=np.float64)
    return sums
