"""Joining a head to a network: names, what stays, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reparam.adapters.head_model import (
    INNER_BOXES,
    INNER_SCORES,
    PADDLEDETECTION,
    build_head,
)
from reparam.adapters.head_model_joining import PREFIX, join, with_inner_outputs
from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_model import interface_of
from reparam.detection.records import DECODED
from reparam.errors import ExportError
from tests.adapters.heads import MAPS, SIZES, drawn_maps, node_of, planned, run_head

CHANNELS = (MAPS.classes, 4 * MAPS.bins)


def network(
    names: list[str] | None = None, *, rename: dict[str, str] | None = None, batch: int | str = "N"
) -> onnx.ModelProto:
    """Return a network of one convolution a map; it reads an image of each level's size.

    ``names`` are those of its outputs, ``rename`` changes names of inner values.
    """
    names = names or [f"fetch_name_{i}" for i in range(6)]
    nodes, tensors, inputs, outputs = [], [], [], []
    rng = np.random.default_rng(0)
    for level, size in enumerate(SIZES):
        image = f"image_{level}"
        inputs.append(helper.make_tensor_value_info(image, TensorProto.FLOAT, (batch, 2, *size)))
        for kind, channels in enumerate(CHANNELS):
            index = 2 * level + kind
            weight = rng.normal(0, 1, (channels, 2, 1, 1)).astype(np.float32)
            tensors.append(numpy_helper.from_array(weight, f"w{index}"))
            nodes.append(helper.make_node("Conv", [image, f"w{index}"], [f"c{index}"], f"n{index}"))
            nodes.append(helper.make_node("Tanh", [f"c{index}"], [names[index]], f"t{index}"))
            shape = (batch, channels, *size)
            value = helper.make_tensor_value_info(names[index], TensorProto.FLOAT, shape)
            outputs.append(value)
    graph = helper.make_graph(nodes, "network", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"key": "value"})
    for node in model.graph.node:
        for values in (node.input, node.output):
            for at, name in enumerate(values):
                values[at] = (rename or {}).get(name, name)
    return model


def images(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"image_{level}": rng.normal(0, 2, (batch, 2, *size)).astype(np.float32)
        for level, size in enumerate(SIZES)
    }


def assert_joined_is_both(made: onnx.ModelProto, net: onnx.ModelProto, plan, **extra) -> None:
    """Assert that the joined model computes the head of what the network computes."""
    check_model(made.SerializeToString())
    feeds = images(3)
    arrays = load_strictly(net.SerializeToString()).run(None, feeds)
    expected = run_head(plan, arrays, **extra)
    found = load_strictly(made.SerializeToString()).run(None, feeds | extra)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("head", [DECODED, "nms"])
@pytest.mark.parametrize("sizes", [SIZES, None])
def test_the_whole_is_the_head_of_the_network(head: str, sizes) -> None:
    plan = planned(head=head, sizes=sizes)
    net, tail = network(), build_head(plan)
    before = net.SerializeToString(), tail.SerializeToString()
    made = join(net, tail)
    assert (net.SerializeToString(), tail.SerializeToString()) == before
    assert_joined_is_both(made, net, plan)
    assert [(p.key, p.value) for p in made.metadata_props] == [("key", "value")]
    assert made.ir_version == 8
    assert [t for t in made.graph.initializer if t.name == "w3"] == [
        t for t in net.graph.initializer if t.name == "w3"
    ]
    names = [v.name for v in interface_of(made).inputs]
    assert names == ["image_0", "image_1", "image_2"]
    assert interface_of(made).outputs[0].shape[0] == "N"


def test_the_maps_have_their_names_and_can_be_looked_at() -> None:
    plan = planned()
    net = network()
    made = with_inner_outputs(join(net, build_head(plan)), MAPS.names)
    check_model(made.SerializeToString())
    outputs = load_strictly(made.SerializeToString()).run(None, images(2))
    maps = load_strictly(net.SerializeToString()).run(None, images(2))
    for one, other in zip(outputs[-6:], maps, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(outputs) == 4 + 6


def test_further_inputs_of_the_head_are_inputs_of_the_whole() -> None:
    plan = planned(layout=PADDLEDETECTION)
    scale = np.array([[1, 2], [2, 1], [0.5, 0.5]], np.float32)
    made = join(network(), build_head(plan))
    assert [v.name for v in interface_of(made).inputs][-1] == "scale_factor"
    assert interface_of(made).inputs[-1].shape == ("N", 2)
    assert_joined_is_both(made, network(), plan, scale_factor=scale)


def test_a_fixed_batch_of_the_network_is_the_wholes() -> None:
    made = join(network(batch=1), build_head(planned()))
    check_model(made.SerializeToString())
    assert [v.shape[0] for v in interface_of(made).outputs] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "rename",
    [
        {"c0": "boxes", "c1": "scores", "c2": "count"},
        {"c0": "cls_8", "c1": "reg_8", "c2": "cls_32"},
        {"c0": f"{PREFIX}order", "c3": f"{PREFIX}selected"},
    ],
)
def test_inner_names_of_the_network_give_way(rename: dict[str, str]) -> None:
    net = network(rename=rename)
    assert_joined_is_both(join(net, build_head(planned())), net, planned())


@pytest.mark.parametrize(
    "names",
    [
        list(MAPS.names),
        list(MAPS.names[::-1]),
        ["boxes", "scores", "classes", "count", "x", "y"],
    ],
)
def test_outputs_may_have_any_names(names: list[str]) -> None:
    """Also those of other maps, and those of the answer."""
    net = network(names)
    made = join(net, build_head(planned()))
    assert_joined_is_both(made, net, planned())
    assert node_of(made, "cls_32").input[0] == "c0"


def test_an_input_that_is_handed_out_is_copied() -> None:
    """Such a network is no use, but its head must not rename an input."""
    net = network()
    node = node_of(net, "fetch_name_5")
    net.graph.node.remove(node)
    net.graph.node.remove(node_of(net, "c5"))
    net.graph.initializer.remove(next(t for t in net.graph.initializer if t.name == "w5"))
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, ("N", CHANNELS[1], *SIZES[2]))
    net.graph.input.append(given)
    net.graph.output[5].CopyFrom(given)
    made = join(net, build_head(planned()))
    check_model(made.SerializeToString())
    assert node_of(made, "reg_8").op_type == "Identity"
    extra = {"given": drawn_maps(3)[5]}
    arrays = load_strictly(net.SerializeToString()).run(None, images(3) | extra)
    found = load_strictly(made.SerializeToString()).run(None, images(3) | extra)
    for one, other in zip(found, run_head(planned(), arrays), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_value_handed_out_twice_is_copied() -> None:
    net = network()
    net.graph.node.remove(node_of(net, "fetch_name_4"))
    net.graph.node.remove(node_of(net, "c4"))
    net.graph.initializer.remove(next(t for t in net.graph.initializer if t.name == "w4"))
    net.graph.output[4].CopyFrom(net.graph.output[0])
    made = join(net, build_head(planned(sizes=None)))
    assert node_of(made, "cls_8").op_type == "Identity"
    assert list(node_of(made, "cls_8").input) == ["cls_32"]


def test_names_in_a_subgraph_follow() -> None:
    net = network()
    conv = node_of(net, "c0")
    at = list(net.graph.node).index(conv) + 1
    tail = node_of(net, "fetch_name_0")
    net.graph.node.remove(tail)
    branch = helper.make_graph(
        [helper.make_node("Tanh", ["boxes"], ["inner"])],
        "branch", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )  # fmt: skip
    conv.output[0] = "boxes"  # read by nothing but the branches
    net.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    choice = helper.make_node(
        "If", ["yes"], ["fetch_name_0"], then_branch=branch, else_branch=branch
    )
    net.graph.node.insert(at, choice)
    made = join(net, build_head(planned()))
    inner = node_of(made, "cls_32").attribute[0].g.node[0]
    assert list(inner.input) == ["boxes_1"]
    check_model(made.SerializeToString())


def test_weights_may_be_inputs_without_data() -> None:
    net = network()
    (weight,) = (t for t in net.graph.initializer if t.name == "w0")
    net.graph.initializer.remove(weight)
    net.graph.input.append(
        helper.make_tensor_value_info("w0", TensorProto.FLOAT, (MAPS.classes, 2, 1, 1))
    )
    made = join(net, build_head(planned()))
    assert [v.name for v in made.graph.input][-1] == "w0"
    check_model(made.SerializeToString())


def wrong_opset() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return network(), build_head(planned(opset=16))


def wrong_type() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    net = network()
    net.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return net, build_head(planned())


def too_many() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    net = network()
    net.graph.output.append(net.graph.output[0])
    return net, build_head(planned())


def taken_name() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    net = network(rename={"image_1": "scale_factor"})
    net.graph.input[1].name = "scale_factor"
    return net, build_head(planned(layout=PADDLEDETECTION))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (wrong_opset, "opsets 17 and 16"),
        (wrong_type, "output 'fetch_name_0' is FLOAT16; 'cls_32' is FLOAT"),
        (too_many, "7 outputs of the network, 6 inputs of the head"),
        (taken_name, "both have 'scale_factor'"),
    ],
)
def test_what_does_not_fit_is_refused(make, words: str) -> None:
    with pytest.raises(ExportError, match="cannot be joined") as caught:
        join(*make())
    assert words in caught.value.found


def test_inner_values_as_outputs() -> None:
    head = build_head(planned())
    before = head.SerializeToString()
    more = with_inner_outputs(head, [INNER_BOXES, INNER_SCORES, "boxes", "order"])
    check_model(more.SerializeToString())
    assert head.SerializeToString() == before
    assert [v.name for v in interface_of(more).outputs] == [
        "boxes", "scores", "classes", "count", INNER_BOXES, INNER_SCORES, "order",
    ]  # fmt: skip
    with pytest.raises(ExportError, match="no node of the model makes a value 'nothing'"):
        with_inner_outputs(head, ["nothing"])
