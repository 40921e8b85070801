"""Operators that only a whole network has: activations, normalisations, comparisons.

They have values and no magnitudes: no region that is fused has one of them inside.
"""

from __future__ import annotations

from math import erf

import numpy as np

from reparam.graph.evaluation_arithmetic import binary, many, reducing, sigmoid, unary
from reparam.graph.evaluation_calls import Array, Call, Inputs, Rule, axis_within, given, need
from reparam.graph.evaluation_resizing import resize

_ERF = np.frompyfunc(erf, 1, 1)


def _erf(x: Array) -> Array:
    found: Array = np.asarray(_ERF(x)).astype(np.float64)
    return found


def _gelu(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    if call.text("approximate", "none") == "tanh":
        inner = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    else:
        inner = _erf(x / np.sqrt(2.0))
    found: Array = 0.5 * x * (1 + inner)
    return found


def _hard_sigmoid(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    return np.clip(call.float("alpha", 0.2) * x + call.float("beta", 0.5), 0.0, 1.0)


def _hard_swish(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    return x * np.clip(x / 6 + 0.5, 0.0, 1.0)


def _leaky_relu(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    return np.where(x < 0, call.float("alpha", 0.01) * x, x)


def _prelu(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    return np.where(x < 0, need(call, inputs, 1) * x, x)


def _elu(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    found: Array = np.where(x < 0, call.float("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x)
    return found


def _softplus(x: Array) -> Array:
    found: Array = np.logaddexp(x, 0.0)
    return found


def _mish(x: Array) -> Array:
    found: Array = x * np.tanh(_softplus(x))
    return found


def _swish(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    return x * sigmoid(call, [call.float("alpha", 1.0) * x])


def _softmax(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    axis = axis_within(call, call.int("axis", 1 if call.opset < 13 else -1), x.ndim)
    if call.opset < 13:  # over all axes from this one on, taken as one
        shape = x.shape
        x = x.reshape(*shape[:axis], -1)
        return _softmax_over(x, -1).reshape(shape)
    return _softmax_over(x, axis)


def _softmax_over(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    found: Array = powers / powers.sum(axis=axis, keepdims=True)
    return found


def _layer_normalization(call: Call, inputs: Inputs) -> Array:
    if call.outputs > 1:
        raise call.refuse("with its statistics")
    x, gamma, beta = need(call, inputs, 0), need(call, inputs, 1), given(inputs, 2)
    first = axis_within(call, call.int("axis", -1), x.ndim)
    y = _standardized(x, tuple(range(first, x.ndim)), call.float("epsilon", 1e-5)) * gamma
    return y if beta is None else y + beta


def _instance_normalization(call: Call, inputs: Inputs) -> Array:
    x, gamma, beta = (need(call, inputs, at) for at in range(3))
    ones = (1,) * (x.ndim - 2)
    y = _standardized(x, tuple(range(2, x.ndim)), call.float("epsilon", 1e-5))
    return y * gamma.reshape(-1, *ones) + beta.reshape(-1, *ones)


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    found: Array = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + epsilon)
    return found


def _global_max_pool(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    found: Array = x.max(axis=tuple(range(2, x.ndim)), keepdims=True)
    return found


def _where(call: Call, inputs: Inputs) -> Array:
    condition, yes, no = (need(call, inputs, at) for at in range(3))
    found: Array = np.where(condition, yes, no)
    return found


FUNCTIONS: dict[str, Rule] = {
    "Abs": unary(np.abs),
    "And": binary(np.logical_and),
    "Ceil": unary(np.ceil),
    "Cos": unary(np.cos),
    "Elu": _elu,
    "Equal": binary(np.equal),
    "Erf": unary(_erf),
    "Exp": unary(np.exp),
    "Floor": unary(np.floor),
    "Gelu": _gelu,
    "GlobalMaxPool": _global_max_pool,
    "Greater": binary(np.greater),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _leaky_relu,
    "Less": binary(np.less),
    "Log": unary(np.log),
    "Max": many(np.maximum),
    "Min": many(np.minimum),
    "Mish": unary(_mish),
    "Not": unary(np.logical_not),
    "Or": binary(np.logical_or),
    "PRelu": _prelu,
    "Pow": binary(np.power),
    "Reciprocal": unary(np.reciprocal),
    "ReduceMax": reducing(np.max, 18),
    "ReduceMin": reducing(np.min, 18),
    "ReduceSum": reducing(np.sum, 13),
    "Resize": resize,
    "Sin": unary(np.sin),
    "Softmax": _softmax,
    "Softplus": unary(_softplus),
    "Sqrt": unary(np.sqrt),
    "Swish": _swish,
    "Tanh": unary(np.tanh),
    "Upsample": resize,
    "Where": _where,
}
