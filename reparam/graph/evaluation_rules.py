"""Which rule each operator has: for its values, its magnitudes, and the roundings it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reparam.conv.bounds import BATCH_NORM_ROUNDINGS
from reparam.graph import evaluation_arithmetic as arithmetic
from reparam.graph import evaluation_layout as layout
from reparam.graph import evaluation_windows as seen
from reparam.graph.evaluation_calls import Array, Call, CountRule, Inputs, MagnitudeRule, Rule, need
from reparam.graph.evaluation_functions import FUNCTIONS

MONOTONE: dict[str, Rule] = {
    "Add": arithmetic.binary(np.add),
    "AveragePool": seen.average_pool,
    "Concat": layout.concat,
    "Cast": layout.cast,
    "Conv": seen.conv,
    "ConvTranspose": seen.conv_transpose,
    "Dropout": arithmetic.dropout,
    "Expand": layout.expand,
    "Flatten": layout.flatten,
    "Gather": layout.gather,
    "GlobalAveragePool": arithmetic.global_average_pool,
    "Identity": arithmetic.identity,
    "MatMul": arithmetic.matmul,
    "MaxPool": seen.max_pool,
    "Mean": arithmetic.mean,
    "Mul": arithmetic.binary(np.multiply),
    "Pad": layout.pad,
    "ReduceMean": arithmetic.reducing(np.mean, 18),
    "Relu": arithmetic.unary(lambda x: np.maximum(x, 0)),
    "Reshape": layout.reshape,
    "ScatterND": layout.scatter_nd,
    "Shape": layout.shape,
    "Size": layout.size,
    "Slice": layout.slice_,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "Sum": arithmetic.many(np.add),
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
"""Operators whose own rule, on magnitudes, bounds the magnitude: nothing in them has a sign."""

SIGNED: dict[str, Rule] = {
    "BatchNormalization": arithmetic.batch_normalization,
    "Clip": arithmetic.clip,
    "Constant": layout.constant,
    "ConstantOfShape": layout.constant_of_shape,
    "Div": arithmetic.divide,
    "Gemm": arithmetic.gemm,
    "Neg": arithmetic.unary(np.negative),
    "Pad": layout.pad,
    "Sigmoid": arithmetic.sigmoid,
    "Sub": arithmetic.binary(np.subtract),
}

QUANTIZED: dict[str, Rule] = {
    "ConvInteger": seen.conv_integer,
    "MatMulInteger": arithmetic.matmul_integer,
}
"""Operators that no region has: onnx's reference takes minutes for them."""

RULES: dict[str, Rule] = {**MONOTONE, **SIGNED, **FUNCTIONS, **QUANTIZED}


def magnitude(array: Array) -> Array:
    """Return the absolute values of floats; integers are sizes and positions, and stay."""
    found: Array = np.abs(array) if array.dtype.kind == "f" else array
    return found


def _pad(call: Call, inputs: Inputs) -> Array:
    fill = abs(call.float("value", 0.0))
    return layout.pad(replace(call, attributes={**call.attributes, "value": fill}), inputs)


def _leaky(call: Call, inputs: Inputs) -> Array:
    """Bound what a slope makes of an error: it grows by the steeper of the two."""
    grown: Array = need(call, inputs, 0) * max(1.0, abs(call.float("alpha", 0.01)))
    return grown


MAGNITUDES: dict[str, Rule] = {
    **MONOTONE,
    "Constant": lambda call, inputs: magnitude(layout.constant(call, inputs)),
    "ConstantOfShape": lambda call, inputs: magnitude(layout.constant_of_shape(call, inputs)),
    "Gemm": arithmetic.gemm_magnitude,
    "LeakyRelu": _leaky,
    "Neg": arithmetic.identity,
    "Pad": _pad,
    "Sigmoid": arithmetic.sigmoid_magnitude,
    "Sub": arithmetic.binary(np.add),
}

MIXED: dict[str, MagnitudeRule] = {
    "BatchNormalization": arithmetic.batch_normalization_magnitude,
    "Clip": arithmetic.clip_magnitude,
    "Div": arithmetic.divide_magnitude,
}
"""Operators whose magnitude takes some of the plain inputs too."""

PRODUCTS = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Mul", "Div", "BatchNormalization"}
)
"""Operators that multiply inputs: an element of theirs has the roundings of all of them."""

ROUNDINGS: dict[str, int | CountRule] = {
    "Add": 1,
    "AveragePool": seen.pool_roundings,
    "BatchNormalization": BATCH_NORM_ROUNDINGS,
    "Conv": seen.conv_roundings,
    "ConvTranspose": seen.transposed_roundings,
    "Div": 1,
    "Gemm": arithmetic.gemm_roundings,
    "GlobalAveragePool": arithmetic.mean_roundings,
    "LeakyRelu": 1,
    "MatMul": arithmetic.matmul_roundings,
    "Mean": arithmetic.sum_roundings,
    "Mul": 1,
    "ReduceMean": arithmetic.mean_roundings,
    "Sigmoid": 4,
    "Sub": 1,
    "Sum": arithmetic.sum_roundings,
}
