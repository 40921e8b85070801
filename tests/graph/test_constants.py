"""Constants that are computed: the numbers that a runtime makes of them, in no more bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from reparam.adapters.onnx_runtime import open_session
from reparam.graph.constants import Constants
from reparam.graph.folding import GROWTH, Folder, lift_constants
from reparam.graph.fusing import fuse_graph
from reparam.graph.records import Options
from tests.graph.builder_base import op_counts
from tests.graph.plain import Plain

Step = Callable[[Plain, str], str]

SMOOTH: dict[str, Step] = {
    "abs": lambda g, x: g.node("Abs", x),
    "add": lambda g, x: g.node("Add", x, g.weight(*g.shape(x)[-1:])),
    "concat": lambda g, x: g.node("Concat", x, x, axis=0),
    "div": lambda g, x: g.node("Div", x, np.full(g.shape(x), 3, np.float32)),
    "exp": lambda g, x: g.node("Exp", g.node("Tanh", x)),
    "flat": lambda g, x: g.node("Flatten", x, axis=1),
    "mul": lambda g, x: g.node("Mul", g.weight(*g.shape(x)), x),
    "neg": lambda g, x: g.node("Neg", x),
    "reshape": lambda g, x: g.node("Reshape", x, np.array([-1, 1], np.int64)),
    "slice": lambda g, x: g.node("Slice", x, np.array([1]), np.array([99]), np.array([0])),
    "square": lambda g, x: g.node("Mul", x, x),
    "sub": lambda g, x: g.node("Sub", g.weight(*g.shape(x)), x),
    "sum": lambda g, x: g.node("ReduceSum", x, np.array([0], np.int64), keepdims=1),
    "transpose": lambda g, x: g.node("Transpose", x, perm=[1, 0]),
    "unsqueeze": lambda g, x: g.node("Flatten", g.node("Unsqueeze", x, np.array([0])), axis=2),
    "where": lambda g, x: g.node("Where", np.arange(g.shape(x)[-1]) > 0, x, g.weight(*g.shape(x))),
}


def folded(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    changed = ir.serde.deserialize_model(model)
    fuse_graph(changed, Options(**options))
    made: onnx.ModelProto = ir.serde.serialize_model(changed)
    onnx.checker.check_model(made, full_check=True)
    return made


def seen_as_it_is(g: Plain, weight: str) -> onnx.ModelProto:
    """An output through which a constant is read, and that folds no further."""
    return g.model(g.node("Max", weight, g.input("x", (1,))))


def ran(model: onnx.ModelProto, x: float) -> np.ndarray[Any, Any]:
    feeds = {"x": np.array([x], np.float32)}
    (found,) = open_session(model.SerializeToString()).run(None, feeds)
    return np.asarray(found)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(SMOOTH)), min_size=1, max_size=6),
    st.integers(0, 2**16),
    st.integers(2, 5),
)
def test_a_chain_of_constants_is_what_the_runtime_makes_of_it(
    steps: list[str], seed: int, size: int
) -> None:
    g = Plain(seed=seed)
    weight = g.weight(size, 3)
    for step in steps:
        if g.shape(weight)[0] < 2:
            more = g.weight(2, *g.shape(weight)[1:])
            weight = g.node("Concat", weight, more, axis=0)
        weight = SMOOTH[step](g, weight)
    before = seen_as_it_is(g, weight)
    after = folded(before)
    assert op_counts(after) == {"Max": 1}
    expected, found = ran(before, -1e30), ran(after, -1e30)
    assert found.shape == expected.shape
    # Each step rounds once in the runtime; a difference is as large as what was subtracted.
    scale = np.abs(expected).max(initial=1.0)
    assert np.abs(found - expected).max(initial=0) <= 64 * len(steps) * 2.0**-24 * scale * 16


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([[1.5, 2]], np.float32))}, [[1.5, 2]]),
        ({"value_float": 1.5}, 1.5),
        ({"value_floats": [1.5, 2.5]}, [1.5, 2.5]),
        ({"value_int": 3}, 3),
        ({"value_ints": [3, 4]}, [3, 4]),
    ],
)
def test_every_kind_of_constant_node_becomes_an_initializer(
    attributes: dict[str, Any], expected: Any
) -> None:
    model = _constant_model(attributes)
    changed = ir.serde.deserialize_model(model)
    assert lift_constants(changed.graph) == 1
    made = ir.serde.serialize_model(changed)
    onnx.checker.check_model(made, full_check=True)
    (tensor,) = made.graph.initializer
    assert tensor.name == "c"
    assert numpy_helper.to_array(tensor).tolist() == expected


def _constant_model(attributes: dict[str, Any]) -> onnx.ModelProto:
    nodes = [helper.make_node("Constant", [], ["c"], **attributes),
             helper.make_node("Shape", ["c"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.INT64, [None])]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_texts_stay() -> None:
    model = ir.serde.deserialize_model(_constant_model({"value_string": b"a"}))
    assert lift_constants(model.graph) == 0
    assert [node.op_type for node in model.graph] == ["Constant", "Shape"]


def test_an_old_ir_version_is_raised_where_initializers_are_no_inputs() -> None:
    g = Plain()
    g.input("x", (3,))
    g.nodes.append(helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]))
    model = g.model(g.node("Max", "x", "c"))
    model.ir_version, model.opset_import[0].version = 3, 12
    onnx.checker.check_model(model)
    after = folded(model)
    assert [tensor.name for tensor in after.graph.initializer] == ["c"]
    assert after.ir_version == 4


def test_integers_keep_their_dtype_and_wrap_as_a_runtime_does() -> None:
    g = Plain()
    near = g.constant(np.array([2**31 - 2, -5], np.int32))
    for _ in range(2):
        near = g.node("Add", near, near)
    before = seen_as_it_is(g, g.node("Cast", near, to=TensorProto.FLOAT))
    after = folded(before)
    assert op_counts(after) == {"Max": 1}
    assert ran(before, -1e30).tolist() == [-8.0, -20.0]
    assert ran(after, -1e30).tolist() == [-8.0, -20.0]


def test_a_jump_is_left_where_a_rounding_stands_before_it() -> None:
    g = Plain()
    third = g.node("Div", g.constant(np.float32([1])), g.constant(np.float32([3])))
    step = g.node("Floor", g.node("Mul", third, g.constant(np.float32([3]))))
    assert op_counts(folded(seen_as_it_is(g, step))) == {"Floor": 1, "Max": 1}


def test_a_jump_of_exact_numbers_is_taken() -> None:
    g = Plain()
    step = g.node(
        "Floor", g.node("Mul", g.constant(np.float32([7])), g.constant(np.float32([0.5])))
    )
    after = folded(seen_as_it_is(g, step))
    assert op_counts(after) == {"Max": 1}
    assert ran(after, -1e30).tolist() == [3.0]


def test_numbers_are_rounded_once_not_at_every_node() -> None:
    g = Plain()
    start = np.random.default_rng(0).normal(size=64).astype(np.float32)
    weight, exact = g.constant(start), start.astype(np.float64)
    for divisor in (3.0, 7.0, 11.0):
        weight, exact = g.node("Div", weight, g.constant(np.float32([divisor]))), exact / divisor
    after = folded(seen_as_it_is(g, weight))
    assert (ran(after, -1e30) == exact.astype(np.float32)).all()


def test_a_weight_that_others_read_is_not_copied_at_full_size() -> None:
    g = Plain()
    large = g.weight(GROWTH // 16, 8)
    x = g.input("x", (1, 1))
    turned = g.node("Transpose", large, perm=[1, 0])
    before = g.model(g.node("Max", x, large), g.node("Max", x, turned))
    after = folded(before)
    assert op_counts(after) == {"Max": 2, "Transpose": 1}
    assert after.ByteSize() <= before.ByteSize() + 1024


@pytest.mark.parametrize("make", [
    lambda g: g.node("ConstantOfShape", np.array([10**5, 10**5], np.int64)),
    lambda g: g.node("Expand", g.weight(1, 1), np.array([10**5, 10**5], np.int64)),
    lambda g: g.node("Mul", g.weight(10**5, 1), g.weight(1, 10**5)),
    lambda g: g.node("MatMul", g.weight(10**5, 1), g.weight(1, 10**5)),
])  # fmt: skip
def test_what_would_fill_the_memory_is_not_evaluated(make: Callable[[Plain], str]) -> None:
    class Unevaluated(Plain):
        def _evaluated(self, node: Any, names: Any, output: str) -> Any:
            return np.zeros(())

    g = Unevaluated()
    g.node("Relu", make(g))
    proto = g.model("v1")
    model = ir.serde.deserialize_model(proto)
    assert Folder(model.graph, Constants(model.graph)).fold() == 0
    assert op_counts(folded(proto)) == op_counts(proto)


def test_many_names_of_one_base_stay_linear() -> None:
    g = Plain()
    model = g.model(g.node("Relu", g.input("x", (1,))))
    names = Constants(ir.serde.deserialize_model(model).graph)
    made = [names.unused("weight") for _ in range(50_000)]  # quadratic: minutes
    assert len(set(made)) == 50_000
    assert made[:3] == ["weight", "weight.1", "weight.2"]


@pytest.mark.parametrize("sizes", [(2, 6, 4), (3, 5, 7)])
def test_an_open_shape_copies_its_axes(sizes: tuple[int, ...]) -> None:
    g = Plain()
    x = g.input("x", ("n", "h", 4))
    shape = g.node("Shape", x)
    one = [g.node("Unsqueeze", g.node("Gather", shape, np.array(i), axis=0), np.array([0]))
           for i in range(3)]  # fmt: skip
    target = g.node("Concat", one[0], one[1], np.array([2, 2], np.int64), axis=0)
    after = folded(g.model(g.node("Relu", g.node("Reshape", x, target))))
    assert op_counts(after) == {"Relu": 1, "Reshape": 1}
    image = np.ones((sizes[0], sizes[1], 4), np.float32)
    (found,) = open_session(after.SerializeToString()).run(None, {"x": image})
    assert np.asarray(found).shape == (sizes[0], sizes[1], 2, 2)


def test_two_open_axes_that_cannot_be_copied_stay() -> None:
    g = Plain()
    x = g.input("x", ("n", "h", 4))
    shape = g.node("Shape", x)
    turned = g.node("Gather", shape, np.array([1, 0, 2]), axis=0)
    model = g.model(g.node("Relu", g.node("Reshape", x, turned)))
    assert op_counts(folded(model)) == {"Gather": 1, "Relu": 1, "Reshape": 1, "Shape": 1}


def test_a_stale_shape_in_the_file_is_not_believed() -> None:
    g = Plain()
    x = g.input("x", ("n", 4))
    y = g.node("Relu", x)
    model = g.model(g.node("Relu", g.node("Expand", g.weight(1, 4), g.node("Shape", y))))
    stale = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 4])
    model.graph.value_info.append(stale)  # the batch was opened later, by hand
    changed = ir.serde.deserialize_model(model)
    fuse_graph(changed)
    made = ir.serde.serialize_model(changed)
    (found,) = open_session(made.SerializeToString()).run(None, {"x": np.ones((3, 4), np.float32)})
    assert np.asarray(found).shape == (3, 4)


def test_what_a_subgraph_reads_stays() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["t"])], "then", [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "else", [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Neg", ["v"], ["w"]),
         helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
         helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "v")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert op_counts(folded(model)) == {"If": 1, "Neg": 1}


def same(g: Plain, x: str) -> str:
    """Pad as TensorFlow does, by what the size leaves: timm's exports compute it in the graph."""
    sides = []
    for axis in (2, 3):
        size = g.node("Gather", g.node("Shape", x), np.array(axis), axis=0)
        steps = g.node("Ceil", g.node("Div", g.node("Cast", size, to=1), np.float32(2)))
        whole = g.node("Mul", g.node("Sub", g.node("Cast", steps, to=7), np.array(1)), np.array(2))
        more = g.node("Sub", g.node("Add", whole, np.array(3)), size)
        more = g.node("Max", more, np.array(0))
        first = g.node("Div", more, np.array(2))
        sides += [first, g.node("Sub", more, first)]
    places = [g.node("Unsqueeze", sides[n], np.array([0])) for n in (0, 2, 1, 3)]
    zeros = np.zeros(2, np.int64)
    return g.node("Pad", x, g.node("Concat", zeros, *places[:2], zeros, *places[2:], axis=0))


def test_paddings_of_which_each_needs_the_size_that_the_one_before_left_are_all_computed() -> None:
    g = Plain()
    x = g.input("x", (1, 2, 200, 130))
    for _ in range(7):
        x = g.node("Relu", g.node("Conv", same(g, x), g.weight(2, 2, 3, 3), strides=[2, 2]))
    once = folded(g.model(x))
    assert op_counts(once) == {"Conv": 7, "Relu": 7}
    assert folded(once) == once
