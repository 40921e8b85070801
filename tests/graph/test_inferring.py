"""Shapes are inferred afresh, and what a file says is kept where nothing can be inferred."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from reparam.graph.files_serde import uncollected
from reparam.graph.inferring import infer_shapes
from reparam.graph.preparing import sweep


def read(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def shape_of(model: ir.Model, name: str) -> Any:
    values = ir.convenience.create_value_mapping(model.graph)
    found = values[name].shape
    return None if found is None else [getattr(size, "value", size) for size in found]


def test_shapes_come_from_the_inputs_and_not_from_the_file() -> None:
    model = read("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3] x) => (float[N, 3] z) <float[7, 7] y> { y = Relu(x) z = Relu(y) }
    """)
    infer_shapes(model)
    assert shape_of(model, "y") == ["N", 3]
    assert model.graph[0].outputs[0].dtype == ir.DataType.FLOAT


def test_a_node_of_an_unknown_domain_keeps_its_shape_and_passes_it_on() -> None:
    model = read("""
        <ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[2, 3] x) => (float[a, b] z) <float[5, 4] y> { y = mine.Op(x) t = Relu(y) z = Relu(t) }
    """)  # noqa: E501 - one graph a line
    infer_shapes(model)
    assert (shape_of(model, "y"), shape_of(model, "t")) == ([5, 4], [5, 4])


def test_what_a_file_says_stays_where_inference_fails() -> None:
    model = read("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 3] x) => (float[2, 3] z) <float[9] y> { y = Abs(x) z = mine.Op(y) }
    """)
    infer_shapes(model)
    assert shape_of(model, "y") == [9]


@pytest.mark.parametrize("size", [4, 400])
def test_shapes_of_small_and_heavy_constants_are_seen(size: int) -> None:
    node = helper.make_node("Expand", ["x", "s"], ["y"])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [size], [0.0] * size)
    target = helper.make_tensor("s", TensorProto.INT64, [1], [size])
    add = helper.make_node("Add", ["y", "w"], ["z"])
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [1]), ("z", ["n"])))  # fmt: skip
    graph = helper.make_graph([node, add], "g", [x], [z], [target, weight])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    infer_shapes(model)
    assert shape_of(model, "y") == [size]


def test_values_inside_a_subgraph_have_shapes_too() -> None:
    def branch(op: str) -> Any:
        made = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        nodes = [
            helper.make_node(op, ["x"], ["inner"]),
            helper.make_node("Relu", ["inner"], ["out"]),
        ]
        return helper.make_graph(nodes, op, [], [made])

    node = helper.make_node(
        "If", ["c"], ["z"], then_branch=branch("Abs"), else_branch=branch("Neg")
    )
    value = helper.make_tensor_value_info
    x, c = value("x", TensorProto.FLOAT, [2, 3]), value("c", TensorProto.BOOL, [])
    z = value("z", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x, c], [z])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    infer_shapes(model)
    inner = [
        graph[0].outputs[0].shape for graph in model.graph.subgraphs() if graph is not model.graph
    ]
    assert inner == [[2, 3], [2, 3]]


def test_inference_adds_nothing_to_inputs_and_initializers() -> None:
    model = read("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] z)
          <float[1, 1, 1, 1] w = {2.0}, float[1, 1, 1, 1] v = {1.0}>
          { y = Conv(x, w) z = Add(y, v) }
    """)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    infer_shapes(model)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert list(model.graph.initializers) == ["w", "v"]
    shape_of_y = model.graph[0].outputs[0]
    shape_of_y.shape, shape_of_y.type = None, None
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_sweep_takes_out_optional_outputs_and_inputs_that_nobody_needs() -> None:
    model = read("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 3] x) => (float[2, 3] z)
          { y, mask = Dropout(x, , ) unread = Relu(y) z = Abs(y) }
    """)
    sweep(model)
    assert [(node.op_type, len(node.inputs), len(node.outputs)) for node in model.graph] == [
        ("Dropout", 1, 1), ("Abs", 1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("before", [True, False])
def test_garbage_is_looked_for_again_as_before_whatever_happens(before: bool) -> None:
    was = gc.isenabled()
    (gc.enable if before else gc.disable)()
    inside = None
    with suppress(KeyError), uncollected():
        inside = gc.isenabled()
        raise KeyError
    after = gc.isenabled()
    (gc.enable if was else gc.disable)()
    assert (inside, after) == (False, before)
