"""What every operator means, in float64: the oracle that the laws are checked against.

Written from the definitions alone; it shares no code with the laws. Slow, and meant to be.
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np

from reparam.conv.block import Block, Parallel, Sequential
from reparam.conv.operators import Affine, Array, AvgPool, BatchNorm, Conv, Identity, Operator
from reparam.errors import ReparamError


def evaluate(block: Block, x: Array) -> Array:
    """Return ``block(x)`` for x (N, I, *spatial), in float64.

    Raises:
        ReparamError: the channels of x do not fit, or x is smaller than a kernel.
    """
    if isinstance(block, Sequential):
        return reduce(lambda value, part: evaluate(part, value), block.parts, _float64(x))
    if isinstance(block, Parallel):
        values = [evaluate(part, x) for part in block.branches.values()]
        return reduce(np.add, values)
    return _apply(block, _float64(x))


def evaluate_magnitude(block: Block, x: Array) -> Array:
    """Return ``block(x)`` with every constant and every value replaced by its absolute value.

    This is the largest sum of magnitudes that rounding errors can be relative to, the B of the
    bound gamma_n * B. Source: Higham 2002, Accuracy and Stability, section 3.1.
    """
    if isinstance(block, Sequential):
        return reduce(lambda value, part: evaluate_magnitude(part, value), block.parts, np.abs(x))
    if isinstance(block, Parallel):
        values = [evaluate_magnitude(part, x) for part in block.branches.values()]
        return reduce(np.add, values)
    return _apply_magnitude(block, np.abs(_float64(x)))


def _float64(x: Array) -> Array:
    return np.asarray(x, dtype=np.float64)


def _apply(operator: Operator, x: Array) -> Array:
    if isinstance(operator, Identity):
        _need_channels(x, operator.channels)
        return x
    if isinstance(operator, Conv):
        return _correlate(operator, operator.weight, operator.bias, x)
    if isinstance(operator, AvgPool):
        return _average(operator, x)
    _need_channels(x, operator.channels)
    if isinstance(operator, Affine):
        return _by_channel(operator.scale, x) * x + _by_channel(operator.shift, x)
    deviation = np.sqrt(_by_channel(operator.variance, x) + operator.epsilon)
    normal: Array = (x - _by_channel(operator.mean, x)) / deviation
    return normal * _by_channel(operator.gamma, x) + _by_channel(operator.beta, x)


def _apply_magnitude(operator: Operator, x: Array) -> Array:
    if isinstance(operator, Conv):
        return _correlate(operator, np.abs(operator.weight), np.abs(operator.bias), x)
    if isinstance(operator, Affine):
        return _apply(Affine(np.abs(operator.scale), np.abs(operator.shift)), x)
    if isinstance(operator, BatchNorm):
        magnitude = BatchNorm(
            np.abs(operator.gamma),
            np.abs(operator.beta),
            -np.abs(operator.mean),  # subtracted, so that the magnitudes add up
            operator.variance,
            operator.epsilon,
        )
        return _apply(magnitude, x)
    return _apply(operator, x)


def _by_channel(values: Array, x: Array) -> Array:
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def _need_channels(x: Array, channels: int) -> None:
    if x.ndim < 3 or x.shape[1] != channels:
        raise ReparamError(
            f"an input of shape {x.shape} does not fit an operator of {channels} channels"
        )


def _correlate(conv: Conv, weight: Array, bias: Array, x: Array) -> Array:
    _need_channels(x, conv.in_channels)
    batch, groups = x.shape[0], conv.groups
    padded = np.pad(x, ((0, 0), (0, 0), *conv.padding))
    size = _output_size(padded.shape[2:], conv.extent, conv.stride)
    columns = np.moveaxis(padded.reshape(batch, groups, -1, *padded.shape[2:]), 0, 2)
    rows = np.moveaxis(weight.reshape(groups, -1, *weight.shape[1:]), (1, 2), (-2, -1))
    total = np.zeros((groups, rows.shape[-2], batch * prod(size)))
    for tap in np.ndindex(*conv.kernel):
        start = tuple(t * step for t, step in zip(tap, conv.dilation, strict=True))
        window = columns[_window(start, conv.stride, size)]
        one_tap: tuple[Any, ...] = (slice(None), *tap)
        # contiguous operands, or NumPy leaves BLAS for its own loops and is 20 times slower
        total += np.matmul(
            np.ascontiguousarray(rows[one_tap]), window.reshape(groups, columns.shape[1], -1)
        )
    by_sample = np.moveaxis(total.reshape(groups, -1, batch, *size), 2, 0)
    return by_sample.reshape(batch, -1, *size) + bias.reshape((1, -1) + (1,) * len(size))


def _average(pool: AvgPool, x: Array) -> Array:
    _need_channels(x, pool.channels)
    margins = ((0, 0), (0, 0), *pool.padding)
    padded, counted = np.pad(x, margins), np.pad(np.ones_like(x), margins)
    size = _output_size(padded.shape[2:], pool.kernel, pool.stride)
    total, count = np.zeros((*x.shape[:2], *size)), np.zeros((*x.shape[:2], *size))
    for tap in np.ndindex(*pool.kernel):
        window = _window(tap, pool.stride, size)
        total += padded[window]
        count += counted[window]
    return total / (pool.taps if pool.count_include_pad else count)


def _window(start: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]) -> Any:
    """Index the last axes: what one tap of the kernel sees at every output position."""
    axes = zip(start, stride, size, strict=True)
    return (..., *(slice(first, first + step * (n - 1) + 1, step) for first, step, n in axes))


def _output_size(
    padded: tuple[int, ...], extent: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[int, ...]:
    size = tuple((n - e) // s + 1 for n, e, s in zip(padded, extent, stride, strict=True))
    if min(size) < 1:
        raise ReparamError(f"an input padded to {padded} is smaller than the kernel {extent}")
    return size
