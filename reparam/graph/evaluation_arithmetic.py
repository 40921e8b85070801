"""Operators that compute element by element, along an axis, or by matrix product."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from reparam.graph.evaluation_calls import Array, Call, Inputs, Rule, given, integers, need
from reparam.graph.evaluation_windows import by_channel


def binary(function: Callable[..., Any]) -> Rule:
    """Return the rule of an operator of two inputs that broadcast."""

    def rule(call: Call, inputs: Inputs) -> Array:
        found: Array = function(need(call, inputs, 0), need(call, inputs, 1))
        return found

    return rule


def unary(function: Callable[..., Any]) -> Rule:
    """Return the rule of an operator of one input."""

    def rule(call: Call, inputs: Inputs) -> Array:
        found: Array = function(need(call, inputs, 0))
        return found

    return rule


def many(function: Callable[..., Any]) -> Rule:
    """Return the rule of an operator of one or more inputs that broadcast."""

    def rule(call: Call, inputs: Inputs) -> Array:
        first = need(call, inputs, 0)
        rest = (need(call, inputs, at) for at in range(1, len(inputs)))
        found: Array = reduce(function, rest, first)
        return found

    return rule


def mean(call: Call, inputs: Inputs) -> Array:
    total = many(np.add)(call, inputs)
    assert isinstance(total, np.ndarray)
    return total / len(inputs)


def identity(call: Call, inputs: Inputs) -> Array:
    return need(call, inputs, 0)


def divide(call: Call, inputs: Inputs) -> Array:
    top, bottom = need(call, inputs, 0), need(call, inputs, 1)
    if top.dtype.kind != "f" and bottom.dtype.kind != "f":
        quotient: Array = np.sign(top) * np.sign(bottom) * (np.abs(top) // np.abs(bottom))
        return quotient  # integers are cut towards zero
    found: Array = top / bottom
    return found


def divide_magnitude(call: Call, inputs: Inputs, plain: Inputs) -> Array:
    """What divides is taken as it is: a larger magnitude of it would make the quotient smaller."""
    return divide(call, [need(call, inputs, 0), np.abs(need(call, plain, 1))])


def batch_normalization(call: Call, inputs: Inputs) -> Array:
    return _normalized(call, inputs, -1.0)


def batch_normalization_magnitude(call: Call, inputs: Inputs, plain: Inputs) -> Array:
    """The mean is subtracted, so that its magnitude adds up; the variance has no sign."""
    return _normalized(call, [*inputs[:4], need(call, plain, 4)], 1.0)


def _normalized(call: Call, inputs: Inputs, sign: float) -> Array:
    if call.int("training_mode", 0) or call.outputs > 1 or not call.int("spatial", 1):
        raise call.refuse("in training, or with statistics for each position")
    x = need(call, inputs, 0)
    gamma, beta, average, variance = (by_channel(need(call, inputs, at), x) for at in range(1, 5))
    if x.ndim < 2 or x.shape[1] != gamma.shape[0]:
        raise call.refuse(f"an input {x.shape} of {gamma.shape[0]} channels")
    deviation = np.sqrt(variance + call.float("epsilon", 1e-5))
    found: Array = (x + sign * average) / deviation * gamma + beta
    return found


def dropout(call: Call, inputs: Inputs) -> tuple[Array, ...]:
    x, training = need(call, inputs, 0), given(inputs, 2)
    if training is not None and bool(np.any(training)):
        raise call.refuse("in training")
    return x, np.ones(x.shape, dtype=bool)


def clip(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    low, high = _limits(call, inputs)
    found: Array = np.minimum(np.maximum(x, low), high)
    return found


def _limits(call: Call, inputs: Inputs) -> tuple[Any, Any]:
    if call.opset < 11:
        largest = float(np.finfo(np.float32).max)
        return call.float("min", -largest), call.float("max", largest)
    low, high = given(inputs, 1), given(inputs, 2)
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def clip_magnitude(call: Call, inputs: Inputs, plain: Inputs) -> Array:
    """Clipping moves two values no further apart, and no value past a limit on its own side."""
    low, high = _limits(call, plain)
    found: Array = np.maximum(need(call, inputs, 0), max(float(low), -float(high), 0.0))
    return found


def sigmoid(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    small = np.exp(-np.abs(x))
    found: Array = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return found


def sigmoid_magnitude(call: Call, inputs: Inputs) -> Array:
    """Its slope is under 1 and its values too, so both are covered by the sum."""
    return need(call, inputs, 0) + 1.0


def matmul(call: Call, inputs: Inputs) -> Array:
    a, b = need(call, inputs, 0), need(call, inputs, 1)
    if a.ndim > 2 and b.ndim == 2:  # one product, not one for each matrix of a stack
        flat = a.reshape(-1, a.shape[-1]) @ b
        return flat.reshape(*a.shape[:-1], b.shape[1])
    found: Array = np.matmul(a, b)
    return found


def matmul_integer(call: Call, inputs: Inputs) -> Array:
    """Sums of products of bytes, which float64 holds exactly and faster than int64."""
    a, b = need(call, inputs, 0), need(call, inputs, 1)
    zero, of_b = given(inputs, 2), given(inputs, 3)
    if zero is not None:
        a = a - (zero.reshape(-1, 1) if zero.ndim == 1 and zero.size > 1 else zero)
    if of_b is not None:
        b = b - of_b
    return matmul(call, [a.astype(np.float64), b.astype(np.float64)]).astype(np.int64)


def gemm(call: Call, inputs: Inputs) -> Array:
    return _gemm(call, inputs, call.float("alpha", 1.0), call.float("beta", 1.0))


def gemm_magnitude(call: Call, inputs: Inputs) -> Array:
    return _gemm(call, inputs, abs(call.float("alpha", 1.0)), abs(call.float("beta", 1.0)))


def _gemm(call: Call, inputs: Inputs, alpha: float, beta: float) -> Array:
    a, b, c = need(call, inputs, 0), need(call, inputs, 1), given(inputs, 2)
    if a.ndim != 2 or b.ndim != 2:
        raise call.refuse(f"of {a.shape} and {b.shape}")
    y: Array = alpha * (
        (a.T if call.int("transA", 0) else a) @ (b.T if call.int("transB", 0) else b)
    )
    return y if c is None else y + np.broadcast_to(beta * c, y.shape)


def global_average_pool(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    found: Array = x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)
    return found


def reducing(function: Callable[..., Any], axes_input: int) -> Rule:
    """Return the rule of a reduction whose axes are an input from opset ``axes_input`` on."""

    def rule(call: Call, inputs: Inputs) -> Array:
        x, keep = need(call, inputs, 0), bool(call.int("keepdims", 1))
        axes = reduced_axes(call, inputs, axes_input)
        if axes == () and call.int("noop_with_empty_axes", 0):
            return x
        found: Array = function(x, axis=axes or None, keepdims=keep)
        return np.asarray(found)

    return rule


def reduced_axes(call: Call, inputs: Inputs, axes_input: int) -> tuple[int, ...]:
    """Return the axes of a reduction, none for all."""
    if call.opset < axes_input:
        return call.ints("axes", ())
    axes = given(inputs, 1)
    return () if axes is None else integers(axes)


def matmul_roundings(call: Call, inputs: Inputs) -> int:
    return int(need(call, inputs, 0).shape[-1])


def gemm_roundings(call: Call, inputs: Inputs) -> int:
    """The products of one element, alpha, beta, and the sum with C."""
    return int(need(call, inputs, 0).shape[0 if call.int("transA", 0) else 1]) + 3


def sum_roundings(_: Call, inputs: Inputs) -> int:
    return len(inputs) + 1


def mean_roundings(call: Call, inputs: Inputs) -> int:
    """As many as are summed."""
    x = need(call, inputs, 0)
    if call.operator == "GlobalAveragePool":
        return prod(x.shape[2:]) + 1
    axes = reduced_axes(call, inputs, 18)
    return int(prod(x.shape[axis] for axis in axes or range(x.ndim))) + 1
