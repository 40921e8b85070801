"""What converters write that is better, or only valid, otherwise: before, after, near misses."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from reparam.adapters import onnx_repairs
from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_cleaning import clean_model
from reparam.graph import fuse_graph
from tests.adapters.graphs import constant, model, node, ops, run

Y = {"y": ("N", "C", "H2", "W2")}
RESIZE = "computed sizes of a Resize made constant scales"
VECTOR = onnx_repairs.VECTORS


def resized(sizes: Any, given: Any = (2, 3, 4, 6), first: int = 2, like: str = "x",
            **attributes: Any) -> bytes:  # fmt: skip
    """Return a Resize whose sizes are the first of those of a value, and then constants."""
    nodes = [
        node("Relu", ["x"], ["r"]),
        constant("zero", np.array([0])),
        constant("first", np.array([first])),
        constant("rest", np.array(sizes)),
        node("Shape", [like], ["s"]),
        node("Slice", ["s", "zero", "first", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Resize", ["r", "", "", "target"], ["y"], **attributes),
    ]
    return model(nodes, {}, Y, {"x": given})


def doubled() -> bytes:
    """Return a Resize whose sizes are a product of those of an image of any size."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Mul", ["s", "factors"], ["target"]),
        node("Resize", ["x", "", "", "target"], ["y"]),
    ]
    return model(nodes, {"factors": np.array([1, 1, 2, 2])}, Y, {"x": ("N", 3, "H", "W")})


def scales_of(proto: Any) -> list[float]:
    (resize,) = (n for n in proto.graph.node if n.op_type == "Resize")
    assert len(resize.input) == 3
    (tensor,) = (t for t in proto.graph.initializer if t.name == resize.input[2])
    return list(onnx.numpy_helper.to_array(tensor).tolist())


MODES = (
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "linear"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "cubic"},
)


class TestScales:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("sizes", "scales"), [([8, 12], [2, 2]), ([12, 6], [3, 1]), ([3, 9], [0.75, 1.5])]
    )
    def test_the_same_positions(self, sizes: Any, scales: Any, mode: Any) -> None:
        before = resized(sizes, like="r", **mode)
        cleaned = clean_model(before)
        assert cleaned.repairs[RESIZE] == 1
        assert ops(cleaned.model) == ["Relu", "Resize"]
        assert scales_of(cleaned.proto) == [1, 1, *scales]
        np.testing.assert_array_equal(run(before)[0], run(cleaned.model)[0])
        check_model(cleaned.model)
        load_strictly(cleaned.model)

    def test_with_an_open_batch(self) -> None:
        before = resized([8, 12], ("N", 3, 4, 6), like="r", mode="nearest")
        assert scales_of(clean_model(before).proto) == [1, 1, 2, 2]

    def test_with_more_axes_known(self) -> None:
        before = resized([3, 8, 12], ("N", 3, 4, 6), first=1, like="r")
        assert scales_of(clean_model(before).proto) == [1, 1, 2, 2]

    def test_sizes_of_another_map(self) -> None:
        nodes = [
            node("MaxPool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
            constant("from", np.array([2])),
            constant("to", np.array([2**31 - 1])),
            constant("zero", np.array([0])),
            node("Shape", ["x"], ["s"]),
            node("Slice", ["s", "from", "to", "zero"], ["n"]),
            node("Shape", ["half"], ["t"]),
            node("Slice", ["t", "zero", "from", "zero"], ["m"]),
            node("Concat", ["m", "n"], ["target"], axis=0),
            node("Resize", ["half", "", "", "target"], ["y"]),
        ]
        cleaned = clean_model(model(nodes, {}, Y, {"x": ("N", 3, 4, 6)}))
        assert ops(cleaned.model) == ["MaxPool", "Resize"]
        assert scales_of(cleaned.proto) == [1, 1, 2, 2]

    def test_sizes_that_were_constant(self) -> None:
        nodes = [constant("s", np.array([2, 3, 8, 12])), node("Resize", ["x", "", "", "s"], ["y"])]
        before = model(nodes, {}, Y, {"x": (2, 3, 4, 6)})
        assert scales_of(clean_model(before).proto) == [1, 1, 2, 2]

    def test_constants_behind_casts(self) -> None:
        nodes = [
            constant("s", np.array([2, 3, 8, 12])),
            node("Cast", ["s"], ["narrow"], to=TensorProto.INT32),
            node("Cast", ["narrow"], ["wide"], to=TensorProto.INT64),
            node("Resize", ["x", "", "", "wide"], ["y"]),
        ]
        before = model(nodes, {}, Y, {"x": (2, 3, 4, 6)})
        assert ops(clean_model(before).model) == ["Resize"]

    @pytest.mark.parametrize(
        "before",
        [
            resized([9, 12], (2, 3, 7, 6), like="r"),
            resized([8, 12], (2, 3, "H", 6), like="r"),
            resized([8, 12], ("N", 3, 4, 6), like="x"),
            doubled(),
        ],
        ids=["9/7 is no float32", "open", "of another value", "computed otherwise"],
    )
    def test_what_is_left(self, before: bytes) -> None:
        cleaned = clean_model(before)
        assert RESIZE not in cleaned.repairs
        (resize,) = (n for n in cleaned.proto.graph.node if n.op_type == "Resize")
        assert len(resize.input) == 4

    def test_a_policy_that_changes_sizes(self) -> None:
        nodes = [
            constant("s", np.array([2, 3, 8, 8])),
            node("Resize", ["x", "", "", "s"], ["y"], keep_aspect_ratio_policy="not_larger"),
        ]
        proto = onnx.load_model_from_string(model(nodes, {}, Y, {"x": (2, 3, 4, 6)}))
        proto.opset_import[0].version = 18
        assert RESIZE not in clean_model(proto).repairs


def suppressed(background: bool = False, **squeeze: Any) -> bytes:
    """Return the end that paddle2onnx 1.3 gives a detector: rows of class, score and index."""
    rows = ["selected", "box"] if not background else ["kept", "box"]
    filtered = [
        node("Squeeze", ["column", "one"], ["flat"]),
        node("NonZero", ["flat"], ["where"]),
        node("Gather", ["column", "where"], ["kept"], axis=0),
    ]
    nodes = [
        node("NonMaxSuppression", ["boxes", "scores", "many", "iou", "score"], ["selected"]),
        node("Gather", ["selected", "one"], ["column"], axis=1),
        *(filtered if background else []),
        node("Squeeze", [rows[0] if background else "column"], ["classes"], **squeeze),
        node("Reshape", ["classes", "all"], ["again"]),
        node("Shape", ["again"], ["count"]),
        node("ConstantOfShape", ["count"], ["zeros"], value=helper.make_tensor("", 7, [1], [0])),
        node("Gather", ["classes", "zeros"], ["picked"], axis=0),
        node("Cast", ["picked"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"many": np.array([10]), "iou": np.array([0.5], np.float32),
                 "score": np.array([0.5], np.float32), "one": np.array([1]),
                 "all": np.array([-1])}  # fmt: skip
    return model(nodes, constants, {"y": ("K",)}, {"boxes": (1, 4, 4), "scores": (1, 2, 4)})


def objects(count: int) -> dict[str, Any]:
    """Return four boxes apart from each other, of which so many are of the class 1."""
    corner = np.arange(4, dtype=np.float32)[:, None] * np.float32(10)
    scores = np.zeros((1, 2, 4), np.float32)
    scores[0, 1, :count] = 0.9
    return {"boxes": np.concatenate([corner, corner, corner + 5, corner + 5], 1)[None],
            "scores": scores}  # fmt: skip


class TestVectors:
    @pytest.mark.parametrize("background", [False, True])
    def test_one_object_fails_before_and_not_after(
        self, background: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = suppressed(background)
        assert run(before, **objects(3))[0].tolist() == [1, 1, 1]
        with pytest.raises(Exception, match="axis 0 is not in valid range"):
            run(before, **objects(1))
        with caplog.at_level(logging.INFO, "reparam.adapters"):
            cleaned = clean_model(before)
        assert cleaned.repairs[VECTOR] == 1
        assert f"{VECTOR}: 1" in caplog.messages
        for count in (1, 3, 4):
            assert run(cleaned.model, **objects(count))[0].tolist() == [1] * count
        assert run(cleaned.model, **objects(0))[0].shape == (0,)

        monkeypatch.setattr(onnx_repairs, "keep_vectors", lambda _: 0)
        with pytest.raises(Exception, match="axis 0 is not in valid range"):
            run(clean_model(before).model, **objects(1))

    def test_a_file_that_is_fused(self) -> None:
        """Such files were written years ago, and are given to ``fuse``."""
        held = ir.serde.deserialize_model(onnx.load_model_from_string(suppressed()))
        report = fuse_graph(held)
        assert report.passes[VECTOR] == 1
        made = ir.serde.serialize_model(held).SerializeToString()
        assert run(made, **objects(1))[0].tolist() == [1]

    @pytest.mark.parametrize("axes", [{"axes": True}, {"other": True}])
    def test_what_is_left(self, axes: dict[str, bool]) -> None:
        """A Squeeze that is told its axes, and one that does not read what was chosen."""
        proto = onnx.load_model_from_string(suppressed())
        (squeeze,) = (n for n in proto.graph.node if n.op_type == "Squeeze")
        if "axes" in axes:
            squeeze.input.append("one")
        else:
            (column,) = (n for n in proto.graph.node if n.output[0] == "column")
            column.input[0] = "matrix"
            proto.graph.initializer.append(
                onnx.numpy_helper.from_array(np.ones((2, 3), np.int64), "matrix")
            )
        assert VECTOR not in clean_model(proto).repairs
