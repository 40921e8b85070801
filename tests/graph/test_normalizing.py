"""A normalisation inside the file is the one outside, at the border too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from reparam.adapters.onnx_runtime import open_session
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.errors import GraphError
from reparam.graph.fusing import fuse_graph
from reparam.graph.records import GraphReport, Options
from reparam.normalization import METADATA, PRESETS, Normalization
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts
from tests.graph.fusing import interface
from tests.graph.truth import evaluate

IMAGENET = PRESETS["imagenet"]
ONLY_STD = Normalization((0.0,), (58.0,))


def folded(model: onnx.ModelProto, wanted: Normalization, *, without: Any = ()
           ) -> tuple[onnx.ModelProto, GraphReport]:  # fmt: skip
    changed = ir.serde.deserialize_model(model)
    report = fuse_graph(changed, Options(normalize=wanted, without=frozenset(without)))
    made: onnx.ModelProto = ir.serde.serialize_model(changed)
    onnx.checker.check_model(made, full_check=True)
    assert interface(made) == interface(model)
    return made, report


def pixels(*shape: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)


def off(
    before: onnx.ModelProto, after: onnx.ModelProto, wanted: Normalization, image: Any
) -> float:
    """How many times what rounding may do the file is off from normalising by hand, in float64.

    Its constants were rounded once to float32, whose errors are relative to the magnitudes that
    its nodes add up; of what is cut off behind them, as ReLU does, no more is lost.
    """
    by_hand = evaluate(before, {"x": wanted.apply(image.astype(np.float64))})
    found = evaluate(after, {"x": image.astype(np.float64)})
    worst = 0.0
    for name, exact in by_hand.items():
        made = found[name]
        assert made.value.shape == exact.value.shape
        size = np.maximum(made.size, exact.size)
        bound = (made.roundings + exact.roundings) * UNIT_ROUNDOFF["float32"] * size
        worst = max(worst, float((np.abs(made.value - exact.value) / bound).max()))
    return worst


def network(padding: int = 1, convolutions: int = 1, channels: int = 3) -> onnx.ModelProto:
    g = GraphBuilder()
    x = g.input("x", (None, channels, 9, 8))
    for _ in range(convolutions):
        g.output(g.relu(g.bn(g.conv(x, 5, 3, padding=padding, stride=2))))
    return g.model()


MEANS = st.floats(-2, 2, width=32, allow_subnormal=False)  # others are 0 in the file


@settings(max_examples=25, deadline=None)
@given(
    st.lists(MEANS, min_size=3, max_size=3),
    st.lists(st.floats(0.1, 3), min_size=3, max_size=3),
    st.sampled_from([1.0, 1 / 255]),
    st.booleans(),
    st.sampled_from([0, 1]),
    st.sampled_from([1, 2]),
)
def test_it_is_what_normalising_by_hand_gives(
    mean: list[float], std: list[float], scale: float, bgr: bool, padding: int, convolutions: int
) -> None:
    wanted = Normalization(tuple(mean), tuple(std), scale, bgr)
    before = network(padding, convolutions)
    after, report = folded(before, wanted)
    assert off(before, after, wanted, pixels(2, 3, 9, 8)) <= 1
    counts = op_counts(after)
    assert counts["Conv"] == convolutions
    assert sum(counts.values()) == 2 * convolutions + counts.get("Sub", 0)
    assert counts.get("Sub", 0) == int(padding > 0 and any(mean))
    assert len(report.notices) == counts.get("Sub", 0)


def test_a_mean_folded_through_a_padded_border_would_be_wrong_and_is_seen() -> None:
    before = network(padding=1)
    wrong, _ = folded(network(padding=1), Normalization((0.0,) * 3, IMAGENET.std, 1 / 255))
    (conv,) = (node for node in wrong.graph.node if node.op_type == "Conv")
    (weight,) = (t for t in wrong.graph.initializer if t.name == conv.input[1])
    (bias,) = (t for t in wrong.graph.initializer if t.name == conv.input[2])
    kernel = onnx.numpy_helper.to_array(weight).astype(np.float64)
    shift = (kernel.sum((2, 3)) * np.array(IMAGENET.mean) * 255).sum(1)
    bias.CopyFrom(onnx.numpy_helper.from_array(
        (onnx.numpy_helper.to_array(bias) - shift).astype(np.float32), bias.name))  # fmt: skip
    assert off(before, wrong, IMAGENET, pixels(1, 3, 9, 8)) > 100


def test_what_stays_is_said_and_the_file_says_what_it_takes() -> None:
    after, report = folded(network(), IMAGENET)
    assert "one Sub of the mean stays at the input 'x'" in report.notices[0]
    (said,) = (p.value for p in after.metadata_props if p.key == METADATA)
    assert '"input": "x"' in said
    assert '"bgr": false' in said


def test_once_is_enough_and_another_is_refused() -> None:
    after, _ = folded(network(), IMAGENET)
    again, report = folded(after, IMAGENET)
    assert again.SerializeToString(deterministic=True) == after.SerializeToString(
        deterministic=True
    )
    assert report.notices == ["the file takes raw pixels already"]
    with pytest.raises(GraphError, match="raw pixels already"):
        folded(after, ONLY_STD)


def test_switched_off_it_changes_nothing() -> None:
    after, _ = folded(network(), IMAGENET, without={"normalize"})
    assert op_counts(after) == {"Conv": 1, "Relu": 1}
    assert not after.metadata_props


def test_what_reads_the_input_without_a_convolution_keeps_one_node_for_all() -> None:
    g = GraphBuilder()
    x = g.input("x", (None, 3, 8, 8))
    g.output(g.max_pool(x, 2), g.relu(x), g.relu(g.conv(x, 4, 3)))
    before = g.model()
    after, report = folded(before, ONLY_STD)
    assert op_counts(after) == {"Conv": 1, "MaxPool": 1, "Mul": 1, "Relu": 2}
    assert "stays as Mul" in report.notices[0]
    assert off(before, after, ONLY_STD, pixels(1, 3, 8, 8)) <= 1


@pytest.mark.parametrize("kind", ["uint8", "rows of pixels"])
def test_pixels_are_normalised_where_they_are_an_image_of_floats(kind: str) -> None:
    g = GraphBuilder()
    y = g.input("x", (None, 3, 8, 8))
    g.output(g.relu(g.conv(y, 4, 3)))
    inner = g.model()
    graph, image = inner.graph, pixels(2, 3, 8, 8)
    for node in graph.node:
        node.input[:] = ["y" if name == "x" else name for name in node.input]
    if kind == "uint8":
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
        first = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
        feed = image.astype(np.uint8)
    else:
        for dim, size in zip(graph.input[0].type.tensor_type.shape.dim[1:], (8, 8, 3), strict=True):
            dim.dim_value = size
        first = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2])
        feed = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    graph.node.insert(0, first)
    onnx.checker.check_model(inner, full_check=True)
    after, report = folded(inner, IMAGENET)
    assert op_counts(after) == {first.op_type: 1, "Conv": 1, "Relu": 1}
    assert report.notices == []
    g2 = GraphBuilder()
    z = g2.input("x", (None, 3, 8, 8))
    g2.output(g2.relu(g2.conv(z, 4, 3)))  # the same weights: drawn from the same seed
    by_hand = IMAGENET.apply(image).astype(np.float32)
    (expected,) = open_session(g2.model().SerializeToString()).run(None, {"x": by_hand})
    (found,) = open_session(after.SerializeToString()).run(None, {"x": feed})
    assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 1e-4


def _refused(*inputs: tuple[str, tuple[Any, ...], int], out: str = "") -> None:
    infos = [helper.make_tensor_value_info(n, kind, shape) for n, shape, kind in inputs]
    nodes = [helper.make_node("Identity" if out else "Cast", [inputs[0][0]], ["y"],
                              **({} if out else {"to": TensorProto.DOUBLE}))]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", inputs[0][2] if out else TensorProto.DOUBLE,
                                             inputs[0][1])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(GraphError):
        fuse_graph(ir.serde.deserialize_model(model), Options(normalize=IMAGENET))


def test_what_is_no_image_is_refused() -> None:
    floats = TensorProto.FLOAT
    _refused(("x", ("n", 3), floats))
    _refused(("x", ("n", 4, 8, 8), floats), out="y")  # four channels, three means
    _refused(("x", ("n", "c", 8, 8), floats), out="y")
    _refused(("x", ("n", 3, 8, 8), floats), ("z", ("n", 3, 8, 8), floats))
    _refused(("x", ("n", 3, 8, 8), TensorProto.UINT8), out="y")


def test_a_second_input_that_is_no_image_is_not_asked() -> None:
    g = GraphBuilder()
    x, factor = g.input("x", (None, 3, 8, 8)), g.input("factor", (None, 2))
    g.output(g.relu(g.conv(x, 4, 3)), g.relu(factor))
    after, _ = folded(g.model(), IMAGENET)
    assert op_counts(after) == {"Conv": 1, "Relu": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ppyoloe", IMAGENET),
        ("ppyoloe+", Normalization((0.0,), (1.0,), 1 / 255)),
        ("imagenet,bgr", Normalization(IMAGENET.mean, IMAGENET.std, 1 / 255, bgr=True)),
        ("127.5,128", Normalization((127.5,), (128.0,))),
        ("1,2,3,4,5,6,1/255,bgr", Normalization((1, 2, 3), (4, 5, 6), 1 / 255, bgr=True)),
    ],
)
def test_what_a_text_means(text: str, expected: Normalization) -> None:
    assert Normalization.parse(text) == expected


@pytest.mark.parametrize("text", ["", "bgr", "1,2,3", "coco", "0,0", "0,-1", "nan,1", "ppyoloe,1"])
def test_a_text_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(GraphError):
        Normalization.parse(text)
