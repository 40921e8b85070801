"""Constants that are computed are computed once, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tests.graph.builder import GraphBuilder, Value
from tests.graph.builder_base import op_counts
from tests.graph.fusing import defects, fused


def after(g: GraphBuilder) -> onnx.ModelProto:
    before = g.model()
    made = fused(before)
    assert defects(g, before, made) == []
    return made


def read_by_a_max_pool(g: GraphBuilder, weight: Any) -> None:
    """x times the weight, through what is not linear, so that the weight is seen as it is."""
    x = g.input("x", (1, 3, 6, 6))
    g.output(g.mul(g.max_pool(x, 2), weight))


def weights(model: onnx.ModelProto) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]


def test_arithmetic_layout_and_reductions_of_constants_are_computed() -> None:
    g = GraphBuilder()
    weight = g.div(g.add(g.weight((3, 4)), g.weight(4)), g.scalar(3.0))
    weight = g.transpose(g.reshape(weight, [4, 3]), [1, 0])
    weight = g.reshape(g.reduce_mean(g.neg(weight), [1]), [3, 1, 1])
    read_by_a_max_pool(g, weight)
    made = after(g)
    assert op_counts(made) == {"MaxPool": 1, "Mul": 1}
    assert [array.shape for array in weights(made)] == [(3, 1, 1)]


def test_a_shape_of_known_sizes_is_a_constant() -> None:
    g = GraphBuilder()
    x = g.input("x", (2, 3, 4, 4))
    shape = g.node("Shape", x)
    batch = g.node("Gather", shape, np.array([0], np.int64), axis=0)
    target = g.node("Concat", batch, np.array([-1], np.int64), axis=0)
    g.output(g.relu(g.node("Reshape", x, target)))
    assert op_counts(after(g)) == {"Reshape": 1, "Relu": 1}


def test_a_shape_of_open_sizes_becomes_a_copy_of_them() -> None:
    g = GraphBuilder()
    x = g.input("x", (None, 3, 4, 4))
    batch = g.node("Gather", g.node("Shape", x), np.array([0], np.int64), axis=0)
    target = g.node("Concat", batch, np.array([-1], np.int64), axis=0)
    g.output(g.relu(g.node("Reshape", x, target)))
    made = after(g)
    assert op_counts(made) == {"Relu": 1, "Reshape": 1}
    assert [array.tolist() for array in weights(made)] == [[0, -1]]


@pytest.mark.parametrize("kind", ["overridable", "fed"])
def test_what_may_be_overridden_is_no_constant(kind: str) -> None:
    g = GraphBuilder()
    read_by_a_max_pool(g, g.neg(g.weight((3, 1, 1), kind)))
    assert op_counts(after(g)) == {"MaxPool": 1, "Mul": 1, "Neg": 1}


def test_a_computed_constant_that_is_an_output_stays() -> None:
    g = GraphBuilder()
    weight = g.neg(g.weight((3, 1, 1)))
    read_by_a_max_pool(g, weight)
    g.output(weight)
    assert op_counts(after(g)) == {"MaxPool": 1, "Mul": 1, "Neg": 1}


def test_a_cast_rounds_before_what_follows() -> None:
    g = GraphBuilder(weights="cast")
    rough = g.node("Cast", g.constant([1 / 3] * 3, "initializer"), to=onnx.TensorProto.FLOAT16)
    fine = g.node("Cast", rough, to=onnx.TensorProto.FLOAT)
    read_by_a_max_pool(g, g.reshape(fine, [3, 1, 1]))
    (weight,) = weights(after(g))
    assert weight.dtype == np.float32
    assert (weight == np.float32(np.float16(1 / 3))).all()


def test_a_large_constant_made_of_a_small_one_is_not_written_down() -> None:
    g = GraphBuilder()
    wide: Value = g.node("Expand", g.weight((3, 1, 1)), np.array([3, 300, 300], np.int64))
    g.output(g.add(g.max_pool(g.input("x", (1, 3, 301, 301)), 2), wide))
    assert op_counts(after(g)) == {"MaxPool": 1, "Expand": 1, "Add": 1}


def test_a_large_weight_behind_a_reshape_is_written_down() -> None:
    g = GraphBuilder()
    weight = g.reshape(g.weight((1, 200 * 200)), [200, 200])  # more than a file may grow by
    g.output(g.node("MatMul", g.relu(g.input("x", (1, 200))), weight))
    assert op_counts(after(g)) == {"MatMul": 1, "Relu": 1}


def test_what_is_not_finite_is_not_written_down() -> None:
    g = GraphBuilder()
    mask = g.mul(g.constant(np.full((3, 1, 1), 3e38)), g.scalar(10.0))
    g.output(g.node("Max", g.input("x", (1, 3, 6, 6)), mask))
    assert op_counts(after(g)) == {"Max": 1, "Mul": 1}


@pytest.mark.parametrize(
    ("operator", "values"),
    [("Exp", [1, 100]), ("Log", [0, -1]), ("ReduceMean", [1, 2]), ("Softmax", [7, 1])],
)
def test_functions_of_floats_are_not_computed_of_integers(operator: str, values: Any) -> None:
    """Nothing says to what the result is rounded; the runtime refuses most of them."""
    graph = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> g (int32[2] x) => (int32[2] y)'
        f"<int32[2] c = {{{values[0]}, {values[1]}}}> {{ r = {operator}(c) y = Max(x, r) }}"
    )
    assert op_counts(fused(graph)) == {operator: 1, "Max": 1}


@pytest.mark.parametrize(("largest", "left"), [(5, 0), (2**31 - 1, 1)])
def test_a_sum_of_integers_that_runs_over_is_left(largest: int, left: int) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (int32[1] x) => (int32[1] y)'
        f"<int32[2] c = {{{largest}, 1}}> {{ r = ReduceSum(c) y = Max(x, r) }}"
    )
    assert op_counts(fused(graph)).get("ReduceSum", 0) == left


def test_a_cast_of_a_float8_is_left() -> None:
    """What becomes of its infinity as an integer is for the runtime to say."""
    tensor = onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT8E5M2, [1], b"\x7c", raw=True)
    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 19]> g (int8[1] x) => (int8[1] y)'
        "{ r = Cast<to=3>(c) y = Max(x, r) }"
    )
    graph.graph.initializer.append(tensor)
    assert op_counts(fused(graph)) == {"Cast": 1, "Max": 1}
