"""How many elements a node makes, known before it is evaluated: nothing may blow a file up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.graph.evaluation_calls import Array, Call, Inputs, NotEvaluableError, integers

if TYPE_CHECKING:
    import onnx_ir as ir

_BROADCAST = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mul", "Or", "Pow"}
) | frozenset({"Sub", "Sum", "Where"})
_NO_MORE = (
    frozenset(
        {
            "Abs",
            "Cast",
            "CastLike",
            "Ceil",
            "Clip",
            "Cos",
            "Erf",
            "Exp",
            "Flatten",
            "Floor",
            "Identity",
        }
    )
    | frozenset(
        {"Log", "Neg", "Not", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}
    )
    | frozenset(
        {"Relu", "Reshape", "Sigmoid", "Sin", "Slice", "Softmax", "Softplus", "Split", "Sqrt"}
    )
    | frozenset({"Squeeze", "Tanh", "Transpose", "Unsqueeze"})
)
"""Operators that make no more elements than they read first."""

Shapes = Sequence[tuple[int, ...]]


def elements(node: ir.Node, call: Call, shapes: Shapes, small: Inputs) -> int:
    """Return how many elements a node makes at most, from the shapes of what it reads.

    Raises:
        NotEvaluableError: what tells it is not at hand.
    """
    rule = _ELEMENTS.get(call.operator)
    if rule is not None:
        return int(rule(call, shapes, small))
    if call.operator in _BROADCAST:
        return prod(np.broadcast_shapes(*shapes))
    if call.operator in _NO_MORE:
        return prod(shapes[0])
    return sum(_inferred(output) for output in node.outputs)


def _inferred(value: ir.Value) -> int:
    sizes = [None] if value.shape is None else [
        size if isinstance(size, int) else None for size in value.shape
    ]  # fmt: skip
    if any(size is None for size in sizes):
        raise NotEvaluableError(f"the shape of '{value.name}' is not known")
    return prod(size for size in sizes if size is not None)


def _gathered(call: Call, shapes: Shapes, _: Inputs) -> int:
    return prod(shapes[1]) * prod(shapes[0]) // max(shapes[0][call.int("axis", 0)], 1)


def _expanded(_: Call, shapes: Shapes, small: Inputs) -> int:
    return prod(np.broadcast_shapes(shapes[0], integers(_needed(small[1]))))


def _multiplied(_: Call, shapes: Shapes, __: Inputs) -> int:
    a, b = shapes
    if len(a) < 2 or len(b) < 2:
        return prod(a) * prod(b)
    return prod(np.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * b[-1]


def _convolved(call: Call, shapes: Shapes, _: Inputs) -> int:
    images, _channels, *sizes = shapes[0]
    pads = sum(call.ints("pads", ()))
    return images * shapes[1][0] * prod(size + pads for size in sizes)


def _ranged(_: Call, __: Shapes, small: Inputs) -> int:
    start, limit, delta = (float(the_one(array)) for array in small)
    return max(ceil((limit - start) / delta), 0)


def _needed(array: Array | None) -> Array:
    if array is None:
        raise NotEvaluableError("a size that is not at hand")
    return array


_ELEMENTS: dict[str, Callable[[Call, Shapes, Inputs], int]] = {
    "Concat": lambda _, shapes, __: sum(map(prod, shapes)),
    "Conv": _convolved,
    "ConstantOfShape": lambda _, __, small: prod(integers(_needed(small[0]))),
    "Expand": _expanded,
    "Gather": _gathered,
    "MatMul": _multiplied,
    "Range": _ranged,
    "Shape": lambda _, shapes, __: len(shapes[0]),
    "Size": lambda *_: 1,
}


def the_one(array: Array | None) -> Any:
    """Return the element of an array of one."""
    if array is None or array.size != 1:
        raise NotEvaluableError("not one number")
    return array.reshape(-1)[0]
