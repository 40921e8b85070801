"""One rule for each linear operator: what it reads, and its law.

A rule returns nothing for a node that is no such thing at all, and refuses with the reason where
the node is nearly one. Adding an operator is adding a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reparam.conv.operators import Array
from reparam.errors import NotFusibleError
from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.forms import Law
from reparam.graph.laws import Picking, Scaling, Stacking, Summing
from reparam.graph.rules_borders import cropping, framing, padding, scattering
from reparam.graph.rules_kernels import (
    average_pool,
    convolution,
    gemm,
    matmul,
    transposed_convolution,
)

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Reading:
    """One output of a node, the values that it is made of, and how.

    Attributes:
        through: nodes between an operand and this one that are nothing without each other.
    """

    output: ir.Value
    operands: tuple[ir.Value, ...]
    law: Law
    through: tuple[ir.Node, ...] = ()


Rule = Callable[["ir.Node", Constants], "list[Reading]"]
"""Of a node, the constants of the graph, and the version of the operator set."""


def _one(node: ir.Node, operand: ir.Value | None, law: Law) -> list[Reading]:
    assert operand is not None  # a rule has looked
    return [Reading(node.outputs[0], (operand,), law)]


def _same(node: ir.Node, _: Constants) -> list[Reading]:
    return _one(node, node.inputs[0], Scaling(np.ones(()), np.zeros(())))


def _dropout(node: ir.Node, constants: Constants) -> list[Reading]:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is not None:
        training = constants.get(mode)
        if training is None or training.any():
            raise NotFusibleError("Dropout may be in training mode")
    return _same(node, constants)


def _leaky(node: ir.Node, _: Constants) -> list[Reading]:
    slope = readers.number(node, "alpha", float(np.float32(0.01)))
    return _same(node, _) if slope == 1 else []


def _negation(node: ir.Node, _: Constants) -> list[Reading]:
    return _one(node, node.inputs[0], Scaling(np.full((), -1.0), np.zeros(())))


def _batch_norm(node: ir.Node, constants: Constants) -> list[Reading]:
    if readers.integer(node, "training_mode", 0) or (
        len(node.outputs) > 1 and any(output.uses() for output in node.outputs[1:])
    ):
        raise NotFusibleError("BatchNormalization in training mode depends on the batch")
    vectors = [constants.known(value) for value in node.inputs[1:5]]
    if len(vectors) < 4 or not all(vectors):
        raise NotFusibleError("a statistic of BatchNormalization is not a constant")
    gamma, beta, mean, variance = (
        constants.exact(value) for value in node.inputs[1:5] if value is not None
    )
    if len({vector.shape for vector in (gamma, beta, mean, variance)}) > 1 or gamma.ndim != 1:
        raise NotFusibleError("the statistics of BatchNormalization are not one for each channel")
    spread = variance + readers.number(node, "epsilon", float(np.float32(1e-5)))
    if not (spread > 0).all():
        raise NotFusibleError("a variance of BatchNormalization is not above zero")
    scale = gamma / np.sqrt(spread)
    return _one(node, node.inputs[0], Scaling(scale, beta - mean * scale, axis=1))


def _addition(node: ir.Node, constants: Constants) -> list[Reading]:
    return _sum(node, constants, (1,) * len(node.inputs))


def _subtraction(node: ir.Node, constants: Constants) -> list[Reading]:
    return _sum(node, constants, (1, -1))


def _sum(node: ir.Node, constants: Constants, signs: tuple[int, ...]) -> list[Reading]:
    operands = [(value, sign) for value, sign in zip(node.inputs, signs, strict=True) if value]
    fixed = [(value, sign) for value, sign in operands if constants.known(value)]
    moving = [(value, sign) for value, sign in operands if not constants.known(value)]
    if not fixed and len(moving) > 1:
        law = Summing(tuple(sign for _, sign in moving))
        return [Reading(node.outputs[0], tuple(value for value, _ in moving), law)]
    if len(moving) != 1 or len(fixed) != 1:
        return []
    (value, own), (other, sign) = moving[0], fixed[0]
    shift, axis = per_channel(constants.exact(other), value)
    return _one(node, value, Scaling(np.full((), float(own)), sign * shift, axis))


def _product(node: ir.Node, constants: Constants) -> list[Reading]:
    fixed = [value for value in node.inputs if constants.known(value)]
    moving = [value for value in node.inputs if not constants.known(value)]
    if len(fixed) != 1 or len(moving) != 1 or moving[0] is None or fixed[0] is None:
        return []
    scale, axis = per_channel(constants.exact(fixed[0]), moving[0])
    return _one(node, moving[0], Scaling(scale, np.zeros(()), axis))


def _quotient(node: ir.Node, constants: Constants) -> list[Reading]:
    value, divisor = node.inputs
    if not constants.known(divisor) or constants.known(value) or divisor is None or value is None:
        return []
    scale, axis = per_channel(constants.exact(divisor), value)
    if not scale.all():
        raise NotFusibleError("a division by zero")
    return _one(node, value, Scaling(1.0 / scale, np.zeros(()), axis))


def per_channel(constant: Array, value: ir.Value) -> tuple[Array, int | None]:
    """Return one number, or one for each channel and the axis, that an operand stands for.

    Raises:
        NotFusibleError: it is another for each position, or changes the shape of ``value``.
    """
    rank = readers.rank_of(value)
    if rank is None and constant.ndim == 0:
        return constant.reshape(()), None
    if rank is None or constant.ndim > rank:
        raise NotFusibleError(
            "a constant operand may change the shape",
            found=f"shape {constant.shape} with a value of {rank or 'unknown'} axes",
        )
    if constant.size == 1:
        return constant.reshape(()), None
    aligned = (1,) * (rank - constant.ndim) + constant.shape
    axes = [axis for axis, size in enumerate(aligned) if size != 1]
    if len(axes) != 1 or readers.size_of(value, axes[0]) != aligned[axes[0]]:
        raise NotFusibleError(
            "a constant operand is not one number for each channel",
            found=f"shape {constant.shape} with a value of shape {value.shape}",
        )
    return constant.reshape(-1), axes[0]


def _concatenation(node: ir.Node, constants: Constants) -> list[Reading]:
    operands = tuple(value for value in node.inputs if value is not None)
    if any(constants.known(value) for value in operands):
        framed = framing(node, constants)
        return [] if framed is None else _one(node, *framed)
    axis = _channel_axis(node.outputs[0], readers.integer(node, "axis", 1))
    return [Reading(node.outputs[0], operands, Stacking(axis))]


def _scatter(node: ir.Node, constants: Constants) -> list[Reading]:
    found = scattering(node, constants)
    if found is None:
        return []
    value, law, through = found
    return [Reading(node.outputs[0], (value,), law, tuple(through))]


def _channel_axis(value: ir.Value, axis: int) -> int:
    rank = readers.rank_of(value)
    if axis < 0 and rank is None:
        raise NotFusibleError("an axis counted from the end of a value of unknown shape")
    return axis if axis >= 0 else axis + (rank or 0)


def _split(node: ir.Node, _: Constants) -> list[Reading]:
    value = node.inputs[0]
    axis = _channel_axis(node.outputs[0], readers.integer(node, "axis", 0))
    sizes = [readers.size_of(output, axis) for output in node.outputs]
    found, start = [], 0
    for output, size in zip(node.outputs, sizes, strict=True):
        if size is None or value is None:
            raise NotFusibleError("the sizes of a Split are not known")
        found.append(Reading(output, (value,), Picking(start, size, axis)))
        start += size
    return found


def _slice(node: ir.Node, constants: Constants) -> list[Reading]:
    value = node.inputs[0]
    starts, ends, axes, steps = bounds_of(node, constants)
    if value is None or not starts or set(steps) != {1}:
        return []
    places = [_channel_axis(value, axis) for axis in axes]
    cuts = {
        axis: _cut(start, end, readers.size_of(value, axis))
        for start, end, axis in zip(starts, ends, places, strict=True)
    }
    found = []
    if len(cuts) == 1:
        ((axis, (before, after)),) = cuts.items()
        size = readers.size_of(value, axis)
        if size is not None and size > before + after:
            found += _one(node, value, Picking(before, size - before - after, axis))
    if min(cuts) > 1:
        found += _one(node, value, cropping(value, cuts))
    return found


def _cut(start: int, end: int, size: int | None) -> tuple[int, int]:
    """Return how much a Slice takes away before and after what it leaves.

    Raises:
        NotFusibleError: that depends on a size that is not known.
    """
    if size is not None:
        first, last, _ = slice(start, end).indices(size)
        return first, size - max(first, last)
    if start < 0 or 0 <= end < _TO_THE_END:
        raise NotFusibleError("what a Slice leaves depends on the size, which is not known")
    return start, 0 if end > 0 else -end


def bounds_of(node: ir.Node, constants: Constants) -> Iterator[tuple[int, ...]]:
    """Return starts, ends, axes and steps of a Slice."""
    if constants.opset < 10:
        given = [readers.integers(node, name) for name in ("starts", "ends", "axes")]
    else:
        given = []
        for value in [*node.inputs[1:5], None, None][:4]:
            array = constants.get(value)
            if value is not None and array is None:
                raise NotFusibleError("the bounds of a Slice are not constants")
            given.append(None if array is None else tuple(int(entry) for entry in array))
    starts, ends, axes, steps = (*given, None)[:4]
    starts, ends = starts or (), ends or ()
    return iter((starts, ends, axes or tuple(range(len(starts))), steps or (1,) * len(starts)))


_TO_THE_END = 2**31 - 1  # exporters write this, or more, for the end of an axis

RULES: dict[str, Rule] = {
    "Add": _addition,
    "AveragePool": lambda *a: _wrapped(average_pool, *a),
    "BatchNormalization": _batch_norm,
    "Concat": _concatenation,
    "Conv": lambda *a: _wrapped(convolution, *a),
    "ConvTranspose": lambda *a: _wrapped(transposed_convolution, *a),
    "Div": _quotient,
    "Dropout": _dropout,
    "Gemm": lambda *a: _wrapped(gemm, *a),
    "Identity": _same,
    "LeakyRelu": _leaky,
    "MatMul": lambda *a: _wrapped(matmul, *a),
    "Mul": _product,
    "Neg": _negation,
    "Pad": lambda *a: _wrapped(padding, *a),
    "ScatterND": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Sub": _subtraction,
    "Sum": _addition,
}
"""By operator of the default domain."""
SCALING = ("Add", "BatchNormalization", "Div", "Dropout", "Identity", "Mul", "Neg", "Sub")
"""Those that only scale and shift, where all but one of what they read is constant."""


def _wrapped(
    rule: Callable[[ir.Node, Constants], Law | None],
    node: ir.Node,
    constants: Constants,
) -> list[Reading]:
    law = rule(node, constants)
    return [] if law is None else _one(node, node.inputs[0], law)
