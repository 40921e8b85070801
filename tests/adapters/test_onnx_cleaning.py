"""Cleaning a converted graph: the operators before and after, and the same function."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from reparam.adapters.onnx_cleaning import clean_model
from reparam.conv import Conv, evaluate_magnitude, gamma
from reparam.errors import ExportError
from tests.adapters.graphs import (
    CHANNELS,
    FLOAT,
    X_SHAPE,
    constant,
    conv,
    conv_weights,
    model,
    node,
    ops,
    run,
)

Y = {"y": (2, CHANNELS, 6, 8)}


def assert_same_function(before: bytes, after: bytes, additions: int = 1) -> None:
    """Both may be off by gamma_n * B from the convolution and its ``additions`` of magnitude 3."""
    weights = conv_weights()
    probe = np.random.default_rng(7).normal(size=X_SHAPE).astype(np.float32)
    block = Conv.of(weights["weight"], np.abs(weights["bias"]) + 3 * additions, padding=1)
    taps = weights["weight"][0].size + 1 + additions
    bound = 2 * gamma(taps, "float32") * evaluate_magnitude(block, probe)
    for old, new in zip(run(before), run(after), strict=True):
        assert old.shape == new.shape
        assert np.all(np.abs(old - new) <= bound)


def test_bias_through_constant_identity_and_reshape_becomes_the_bias_of_the_conv() -> None:
    before = model(
        [
            constant("weight", conv_weights()["weight"]),
            constant("bias", conv_weights()["bias"]),
            conv(),
            constant("shape", np.array([1, CHANNELS, 1, 1])),
            node("Identity", ["shape"], ["cast"]),
            node("Reshape", ["bias", "cast"], ["reshaped"]),
            node("Add", ["c", "reshaped"], ["sum"]),
            node("Identity", ["sum"], ["y"]),
        ],
        {},
        Y,
    )
    cleaned = clean_model(before)
    assert ops(before).count("Constant") == 3
    assert ops(cleaned.model) == ["Conv"]
    assert_same_function(before, cleaned.model)
    graph = onnx.load_model_from_string(cleaned.model).graph
    assert [i.name for i in graph.initializer] == ["weight", "bias"]
    assert list(graph.node[0].output) == ["y"]
    assert cleaned.before["Add"] == 1
    assert cleaned.after == {"Conv": 1}
    assert cleaned.repairs == {
        "Constant nodes made initializers": 3,
        "Identity nodes bypassed": 2,
        "Add nodes made a bias of their Conv": 1,
        "unused initializers removed": 1,
    }


@pytest.mark.parametrize(
    "shape", [(CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (1,), (), (1, 1, 1, 1)], ids=str
)
@pytest.mark.parametrize("swapped", [False, True])
def test_constant_of_one_value_a_channel_folds(shape: tuple[int, ...], swapped: bool) -> None:
    operands = ["added", "c"] if swapped else ["c", "added"]
    added = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    before = model(
        [conv(), node("Add", operands, ["y"])],
        {"weight": conv_weights()["weight"], "added": added},
        Y,
    )
    after = clean_model(before).model
    assert ops(after) == ["Conv"]
    assert_same_function(before, after)


def test_second_bias_is_added_to_the_first() -> None:
    weights = conv_weights()
    added = np.full((1, CHANNELS, 1, 1), 2.5, np.float32)
    before = model(
        [
            conv("c", ["x", "weight", "bias"]),
            node("Add", ["c", "added"], ["d"]),
            node("Add", ["added", "d"], ["y"]),
        ],
        {**weights, "added": added},
        Y,
    )
    cleaned = clean_model(before)
    assert ops(cleaned.model) == ["Conv"]
    assert_same_function(before, cleaned.model, additions=2)
    initializers = onnx.load_model_from_string(cleaned.model).graph.initializer
    assert sorted(i.name for i in initializers) == ["weight", "weight.bias.1"]


def spatial_rows() -> np.ndarray:
    return np.ones((6, 1), np.float32)


NEAR_MISSES = {
    "spatial constant": ([conv(), node("Add", ["c", "k"], ["y"])], spatial_rows()),
    "one value a column": ([conv(), node("Add", ["c", "k"], ["y"])], np.ones(8, np.float32)),
    "a map": (
        [conv(), node("Add", ["c", "k"], ["y"])],
        np.ones((CHANNELS, 6, 8), np.float32),
    ),
    "one value an image": (
        [conv(), node("Add", ["c", "k"], ["y"])],
        np.ones((2, 1, 1, 1), np.float32),
    ),
    "read elsewhere": (
        [conv(), node("Add", ["c", "k"], ["d"]), node("Mul", ["c", "d"], ["y"])],
        np.ones((CHANNELS, 1, 1), np.float32),
    ),
    "added to itself": (
        [conv(), node("Add", ["c", "c"], ["y"]), node("Add", ["y", "k"], ["unread"])],
        np.ones((CHANNELS, 1, 1), np.float32),
    ),
    "multiplied": (
        [conv(), node("Mul", ["c", "k"], ["y"])],
        np.ones((CHANNELS, 1, 1), np.float32),
    ),
    "after a Relu": (
        [conv(), node("Relu", ["c"], ["r"]), node("Add", ["r", "k"], ["y"])],
        np.ones((CHANNELS, 1, 1), np.float32),
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_of_a_bias_stays(name: str) -> None:
    nodes, added = NEAR_MISSES[name]
    before = model(nodes, {"weight": conv_weights()["weight"], "k": added}, Y)
    after = clean_model(before).model
    assert ops(after) == [n.op_type for n in nodes if "unread" not in n.output]
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("shape", [(1, 1, CHANNELS, 1, 1), (1, 1, 1, 1, 1)], ids=str)
def test_constant_that_adds_a_dimension_stays(shape: tuple[int, ...]) -> None:
    before = model(
        [conv(), node("Add", ["c", "k"], ["y"])],
        {"weight": conv_weights()["weight"], "k": np.ones(shape, np.float32)},
        {"y": (1, *Y["y"])},
    )
    assert ops(clean_model(before).model) == ["Conv", "Add"]


def test_one_value_a_column_stays_where_there_are_as_many_channels() -> None:
    columns = np.arange(8, dtype=np.float32)
    before = model(
        [conv(), node("Add", ["c", "k"], ["y"])],
        {"weight": np.concatenate([conv_weights()["weight"]] * 2), "k": columns},
        {"y": (2, 8, 6, 8)},
    )
    assert ops(clean_model(before).model) == ["Conv", "Add"]


def test_broadcast_over_a_single_channel_stays() -> None:
    weight = conv_weights()["weight"][:1]
    before = model(
        [conv(), node("Add", ["c", "k"], ["y"])],
        {"weight": weight, "k": np.ones((CHANNELS, 1, 1), np.float32)},
        Y,
    )
    assert ops(clean_model(before).model) == ["Conv", "Add"]


def test_conv_that_is_an_output_keeps_its_value() -> None:
    before = model(
        [conv(), node("Add", ["c", "k"], ["y"])],
        {"weight": conv_weights()["weight"], "k": np.ones((CHANNELS, 1, 1), np.float32)},
        {**Y, "c": Y["y"]},
    )
    after = clean_model(before).model
    assert ops(after) == ["Conv", "Add"]
    np.testing.assert_array_equal(run(before)[1], run(after)[1])


def test_graph_input_is_no_bias() -> None:
    before = model(
        [conv(), node("Add", ["c", "k"], ["y"])],
        {"weight": conv_weights()["weight"]},
        Y,
        {"x": X_SHAPE, "k": (CHANNELS, 1, 1)},
    )
    assert ops(clean_model(before).model) == ["Conv", "Add"]


@pytest.mark.parametrize("reshaped", [False, True])
def test_initializer_that_a_caller_may_override_is_no_bias(reshaped: bool) -> None:
    added = np.ones((CHANNELS, 1, 1), np.float32)
    nodes = [conv(), node("Add", ["c", "k"], ["y"])]
    if reshaped:
        nodes[1:] = [node("Reshape", ["k", "s"], ["r"]), node("Add", ["c", "r"], ["y"])]
    shape = np.array([CHANNELS, 1, 1])
    before = model(
        nodes,
        {"weight": conv_weights()["weight"], "k": added} | ({"s": shape} if reshaped else {}),
        Y,
        {"x": X_SHAPE, "k": (CHANNELS, 1, 1)},
    )
    after = clean_model(before).model
    assert ops(after) == [n.op_type for n in nodes]
    np.testing.assert_array_equal(run(before, k=added * 5)[0], run(after, k=added * 5)[0])


def test_bias_that_a_caller_may_override_is_not_added_to() -> None:
    weights = conv_weights()
    before = model(
        [conv("c", ["x", "weight", "bias"]), node("Add", ["c", "k"], ["y"])],
        {**weights, "k": np.ones((CHANNELS, 1, 1), np.float32)},
        Y,
        {"x": X_SHAPE, "bias": (CHANNELS,)},
    )
    assert ops(clean_model(before).model) == ["Conv", "Add"]


def test_shared_bias_is_not_overwritten() -> None:
    weights = conv_weights()
    added = np.full((CHANNELS, 1, 1), 2.5, np.float32)
    second = helper.make_node("Conv", ["x", "weight", "bias"], ["d"], pads=[1, 1, 1, 1])
    before = model(
        [conv("c", ["x", "weight", "bias"]), node("Add", ["c", "k"], ["y"]), second],
        {**weights, "k": added},
        {**Y, "d": Y["y"]},
    )
    after = clean_model(before).model
    assert ops(after) == ["Conv", "Conv"]
    assert_same_function(before, after)
    np.testing.assert_array_equal(run(before)[1], run(after)[1])


@pytest.mark.parametrize("source", ["x", "k", "r"])
def test_identity_that_alone_names_an_output_stays(source: str) -> None:
    """ONNX cannot say otherwise that an output is an input, an initializer, another output."""
    before = model(
        [node("Relu", ["x"], ["r"]), node("Identity", [source], ["y"])],
        {"k": np.ones((2, 3), np.float32)} if source == "k" else {},
        {"r": X_SHAPE, "y": (2, 3) if source == "k" else X_SHAPE},
    )
    after = clean_model(before).model
    assert ops(after) == ["Relu", "Identity"]
    assert [o.name for o in onnx.load_model_from_string(after).graph.output] == ["r", "y"]
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_array_equal(old, new)


def test_identity_before_two_readers_goes_and_the_output_keeps_its_name() -> None:
    before = model(
        [
            node("Identity", ["x"], ["i"]),
            node("Relu", ["i"], ["r"]),
            node("Identity", ["r"], ["y"]),
            node("Identity", ["y"], ["j"]),
            node("Neg", ["j"], ["z"]),
        ],
        {},
        {"y": X_SHAPE, "z": X_SHAPE},
    )
    after = clean_model(before).model
    assert ops(after) == ["Relu", "Neg"]
    assert [o.name for o in onnx.load_model_from_string(after).graph.output] == ["y", "z"]
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_array_equal(old, new)


def test_identity_that_a_branch_of_an_if_returns_stays() -> None:
    def branch(source: str, name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, FLOAT, X_SHAPE)
        return helper.make_graph([node("Identity", [source], [name])], name, [], [output])

    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Neg", ["x"], ["n"]),
        node(
            "If", ["yes"], ["y"], then_branch=branch("r", "then"), else_branch=branch("n", "else")
        ),
    ]
    before = model(nodes, {"yes": np.array(True)}, {"y": X_SHAPE})
    after = clean_model(before).model
    assert ops(after) == ["Relu", "Neg", "If"]
    np.testing.assert_array_equal(run(before)[0], run(after)[0])


def test_batch_norm_of_an_unfused_network_stays() -> None:
    statistics = {name: np.ones(CHANNELS, np.float32) for name in ("g", "b", "m", "v")}
    before = model(
        [conv(), node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])],
        {"weight": conv_weights()["weight"], **statistics},
        Y,
    )
    assert ops(clean_model(before).model) == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage", b"\x08\x08"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ExportError, match="not an ONNX model"):
        clean_model(content)


def test_graph_that_reads_what_nothing_makes_is_refused() -> None:
    broken = model([node("Relu", ["nothing"], ["y"])], {}, {"y": X_SHAPE})
    with pytest.raises(ExportError, match="not valid"):
        clean_model(broken)


NEUTRAL = [
    node("Mul", ["one", "c"], ["scaled"]),
    node("Add", ["scaled", "zero"], ["y"]),
]


def affine_model(one=(1.0,), zero=(0.0,), nodes=NEUTRAL, outputs=Y, **more) -> bytes:
    weights = {**conv_weights(), "one": np.float32(one), "zero": np.float32(zero)}
    return model([conv(inputs=("x", "weight", "bias")), *nodes], weights, outputs, **more)


def test_a_factor_of_1_and_a_shift_of_0_after_a_conv_go() -> None:
    before = affine_model()
    cleaned = clean_model(before)
    assert ops(cleaned.model) == ["Conv"]
    graph = onnx.load_model_from_string(cleaned.model).graph
    assert [tensor.name for tensor in graph.initializer] == ["weight", "bias"]
    assert [value.name for value in graph.output] == ["y"]
    np.testing.assert_array_equal(run(before)[0], run(cleaned.model)[0])


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"one": (0.999,)}, ["Conv", "Mul", "Add"]),
        ({"zero": (1e-30,)}, ["Conv", "Add"]),
        ({"one": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)}, ["Conv", "Mul", "Add"]),
        ({"one": [[[[[1.0]]]]], "outputs": {"y": (1, 2, CHANNELS, 6, 8)}}, ["Conv", "Mul", "Add"]),
        ({"outputs": {**Y, "c": (2, CHANNELS, 6, 8)}}, ["Conv", "Mul", "Add"]),
        ({"nodes": [*NEUTRAL[:1], node("Add", ["scaled", "c"], ["y"])]}, ["Conv", "Mul", "Add"]),
        ({"nodes": [node("Sub", ["zero", "c"], ["y"])]}, ["Conv", "Sub"]),
        ({"inputs": {"x": X_SHAPE, "one": (1,)}}, ["Conv", "Mul", "Add"]),
    ],
    ids=["factor", "shift", "row", "axis", "output", "twice", "minus", "input"],
)
def test_what_is_not_neutral_stays(given: dict, left: list[str]) -> None:
    before = affine_model(**given)
    cleaned = clean_model(before)
    assert ops(cleaned.model) == left
    extra = {"one": np.ones(1, np.float32)} if "inputs" in given else {}
    for old, new in zip(run(before, **extra), run(cleaned.model, **extra), strict=True):
        np.testing.assert_array_equal(old, new)
