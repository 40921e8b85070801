"""Each ONNX operator of the tests in float64: on values, and on magnitudes."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
import onnx

from tests.graph.truth import Array, Attributes, Quantity, array_of, constant
from tests.graph.truth_kernels import average_pool, conv, conv_transpose, max_pool

Operator = Callable[[Attributes, list[Any], int], Any]


def _both(function: Callable[..., Array]) -> Operator:
    """An operator that is linear and monotonic, or moves values only: the same on magnitudes."""

    def operator(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
        floats = [part for part in given if part is not None]
        value = function(attributes, opset, *(part.value for part in floats))
        size = function(attributes, opset, *(part.size for part in floats))
        return Quantity(np.asarray(value), np.asarray(size))

    return operator


def _bounded(function: Callable[[Array], Array], slope: float) -> Operator:
    """A function whose Lipschitz constant is ``slope``."""

    def operator(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
        value = function(given[0].value)
        return Quantity(value, np.maximum(np.abs(value), slope * given[0].size))

    return operator


def _sub(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    a, b = given
    return Quantity(a.value - b.value, a.size + b.size)


def _maximum(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    return Quantity(
        np.maximum.reduce(np.broadcast_arrays(*(part.value for part in given))),
        np.maximum.reduce(np.broadcast_arrays(*(part.size for part in given))),
    )


def _neg(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    return given[0]._replace(value=-given[0].value)


def _leaky(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    x, slope = given[0], attributes.get("alpha", 0.01)
    return Quantity(np.where(x.value < 0, slope * x.value, x.value), x.size * max(1.0, abs(slope)))


def _prelu(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    x, slope = given
    return Quantity(
        np.where(x.value < 0, slope.value * x.value, x.value), x.size * np.maximum(slope.size, 1.0)
    )


def _clip(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    if opset < 11:
        low, high = attributes.get("min", -np.inf), attributes.get("max", np.inf)
    else:
        more = [None if part is None else float(part.value) for part in given[1:]] + [None, None]
        low, high = (
            (-np.inf if more[0] is None else more[0]),
            (np.inf if more[1] is None else more[1]),
        )
    value = np.clip(given[0].value, low, high)
    return Quantity(value, np.abs(value) + given[0].size)


def _softmax(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    axis = attributes.get("axis", -1)
    powers = np.exp(given[0].value - given[0].value.max(axis=axis, keepdims=True))
    value = powers / powers.sum(axis=axis, keepdims=True)
    return Quantity(value, value + given[0].size.max(axis=axis, keepdims=True))


def _batch_norm(attributes: Attributes, given: list[Any], opset: int) -> Any:
    x, gamma, beta, mean, variance = given
    if x.value.shape[1:2] != gamma.value.shape:
        raise ValueError(f"{gamma.value.shape} numbers for {x.value.shape}")
    axes = (1, -1, *[1] * (x.value.ndim - 2))
    epsilon = float(np.float32(attributes.get("epsilon", 1e-5)))
    if attributes.get("training_mode", 0):
        others = (0, *range(2, x.value.ndim))
        mean, variance = constant(x.value.mean(axis=others)), constant(x.value.var(axis=others))
    factor = gamma.value / np.sqrt(variance.value + epsilon)
    value = (x.value - mean.value.reshape(axes)) * factor.reshape(axes) + beta.value.reshape(axes)
    size = (x.size + mean.size.reshape(axes)) * np.abs(factor).reshape(axes) + beta.size.reshape(
        axes
    )
    if attributes.get("training_mode", 0):  # reads other statistics when x is off
        size = size + 2 * x.size.max() * np.abs(factor).reshape(axes)
    return [Quantity(value, size), mean, variance]


def _instance_norm(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    x, gamma, beta = given
    axes = (1, -1, *[1] * (x.value.ndim - 2))
    spatial = tuple(range(2, x.value.ndim))
    epsilon = float(np.float32(attributes.get("epsilon", 1e-5)))
    deviation = np.sqrt(x.value.var(axis=spatial, keepdims=True) + epsilon)
    normal = (x.value - x.value.mean(axis=spatial, keepdims=True)) / deviation
    value = normal * gamma.value.reshape(axes) + beta.value.reshape(axes)
    size = 4 * x.size.max() / deviation * gamma.size.reshape(axes) + beta.size.reshape(axes)
    return Quantity(value, size + np.abs(value))


def _gemm(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)

    def product(name: str, alpha: float, beta: float) -> Array:
        a, b, *c = (getattr(part, name) for part in given if part is not None)
        a = a.T if attributes.get("transA") else a
        b = b.T if attributes.get("transB") else b
        return np.asarray(alpha * (a @ b) + (beta * c[0] if c else 0.0))

    return Quantity(product("value", alpha, beta), product("size", abs(alpha), abs(beta)))


def _ints(attributes: Attributes, name: str, given: list[Any], at: int) -> Any:
    """Attribute ``name`` of old opsets, input ``at`` of new ones."""
    if name in attributes:
        return list(attributes[name])
    part = given[at] if len(given) > at else None
    return None if part is None else [int(n) for n in np.atleast_1d(part.value)]


def _moved(function: Callable[..., Array], *inputs: tuple[str, int]) -> Operator:
    """An operator that moves values, with integers that are attributes or inputs."""

    def operator(attributes: Attributes, given: list[Any], opset: int) -> Any:
        numbers = [_ints(attributes, name, given, at) for name, at in inputs]
        x = given[0]
        value = function(attributes, x.value, *numbers)
        size = function(attributes, x.size, *numbers)
        if isinstance(value, list):
            return [Quantity(v, s) for v, s in zip(value, size, strict=True)]
        return Quantity(np.asarray(value), np.asarray(size))

    return operator


def _reshape(attributes: Attributes, x: Array, shape: list[int]) -> Array:
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _flatten(attributes: Attributes, x: Array) -> Array:
    axis = attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=int)), -1)


def _transpose(attributes: Attributes, x: Array) -> Array:
    return x.transpose(attributes.get("perm"))


def _split(attributes: Attributes, x: Array, sizes: Any) -> list[Array]:
    axis = attributes.get("axis", 0)
    sizes = sizes or [x.shape[axis] // 2] * 2
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"{sizes} of {x.shape[axis]}")
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _slice(
    attributes: Attributes, x: Array, starts: Any, ends: Any, axes: Any, steps: Any
) -> Array:
    cut: list[Any] = [slice(None)] * x.ndim
    for i, axis in enumerate(axes or range(len(starts))):
        cut[axis] = slice(starts[i], ends[i], steps[i] if steps else 1)
    return x[tuple(cut)]


def _pad(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    x, pads = given[0], _ints(attributes, "pads", given, 1)
    value = attributes.get("value", 0.0)
    if len(given) > 2 and given[2] is not None:
        value = float(given[2].value.item())
    widths = [(pads[i], pads[i + x.value.ndim]) for i in range(x.value.ndim)]
    mode = attributes.get("mode", b"constant").decode()
    if mode == "constant":
        return Quantity(
            np.pad(x.value, widths, constant_values=value),
            np.pad(x.size, widths, constant_values=abs(value)),
        )
    return Quantity(np.pad(x.value, widths, mode=mode), np.pad(x.size, widths, mode=mode))


def _reduce(function: Callable[..., Array]) -> Operator:
    def reduced(attributes: Attributes, x: Array, axes: Any) -> Array:
        over = None if axes is None else tuple(axes)
        return function(x, axis=over, keepdims=bool(attributes.get("keepdims", 1)))

    return _moved(reduced, ("axes", 1))


def _concat(attributes: Attributes, opset: int, *parts: Array) -> Array:
    return np.concatenate(parts, attributes["axis"])


def _cast(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    if given[0].roundings:
        return given[0]
    return constant(given[0].value.astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])))


def _scatter(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    data, at, updates = given
    value, size = data.value.copy(), data.size.copy()
    index = tuple(np.moveaxis(at.value, -1, 0))
    value[index], size[index] = updates.value, updates.size
    return Quantity(value, size)


def _constant(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    return constant(array_of(attributes["value"]))


def _hard_sigmoid(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    slope, shift = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    value = np.clip(slope * given[0].value + shift, 0, 1)
    return Quantity(value, value + slope * given[0].size)


def _elementwise(function: Callable[[Array, Array], Array]) -> Operator:
    return _both(lambda attributes, opset, a, b: function(a, b))


OPERATORS: dict[str, Operator] = {
    "Add": _elementwise(np.add),
    "Max": _maximum,
    "Sum": _both(lambda attributes, opset, *parts: sum(parts)),
    "Sub": _sub,
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(np.divide),
    "Neg": _neg,
    "Identity": lambda attributes, given, opset: given[0],
    "Dropout": lambda attributes, given, opset: given[0],
    "Relu": _bounded(lambda x: np.maximum(x, 0), 1.0),
    "Sigmoid": _bounded(lambda x: 1 / (1 + np.exp(-x)), 0.25),
    "Tanh": _bounded(np.tanh, 1.0),
    "Erf": _bounded(np.vectorize(erf, otypes=[float]), 1.13),
    "HardSwish": _bounded(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 1.5),
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Clip": _clip,
    "Softmax": _softmax,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "Conv": _both(conv),
    "ConvTranspose": _both(conv_transpose),
    "AveragePool": _both(average_pool),
    "MaxPool": max_pool,
    "GlobalAveragePool": _both(
        lambda attributes, opset, x: x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)
    ),
    "Gemm": _gemm,
    "MatMul": _elementwise(np.matmul),
    "Concat": _both(_concat),
    "Split": _moved(_split, ("split", 1)),
    "Slice": _moved(_slice, ("starts", 1), ("ends", 2), ("axes", 3), ("steps", 4)),
    "Pad": _pad,
    "Reshape": _moved(_reshape, ("shape", 1)),
    "Flatten": _moved(_flatten),
    "Transpose": _moved(_transpose),
    "Squeeze": _moved(lambda attributes, x, axes: x.squeeze(tuple(axes)), ("axes", 1)),
    "Unsqueeze": _moved(lambda attributes, x, axes: np.expand_dims(x, tuple(axes)), ("axes", 1)),
    "Expand": _moved(
        lambda attributes, x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, shape)),
        ("shape", 1),
    ),
    "ReduceMean": _reduce(np.mean),
    "ReduceSum": _reduce(np.sum),
    "Cast": _cast,
    "ScatterND": _scatter,
    "Constant": _constant,
    "Shape": lambda attributes, given, opset: constant(np.array(given[0].value.shape)),
    "Gather": lambda attributes, given, opset: Quantity(
        given[0].value.take(given[1].value, attributes.get("axis", 0)),
        given[0].size.take(given[1].value, attributes.get("axis", 0)),
    ),
}
