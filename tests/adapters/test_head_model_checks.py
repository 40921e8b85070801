"""The proof of a head model: right ones pass, and every way of breaking one is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from reparam.adapters import head_model_checks as module
from reparam.adapters.head_model import (
    INNER_SCORES,
    OWN,
    PADDLEDETECTION,
    HeadPlan,
    build_head,
)
from reparam.adapters.head_model_checks import check_head
from reparam.detection.records import DECODED, NMS, Maps, Selection
from reparam.errors import ExportError, NotEquivalentError
from tests.adapters.heads import MAPS, SELECTION, SIZES, constant, node_of, planned, set_constant

FORMS = [(DECODED, OWN), (NMS, OWN), (NMS, PADDLEDETECTION)]
Break = Callable[[onnx.ModelProto], None]


@pytest.mark.parametrize(("head", "layout"), FORMS)
@pytest.mark.parametrize("batch", [None, 1, 2, 4])
@pytest.mark.parametrize("sizes", [SIZES, None], ids=["fixed", "open"])
def test_right_heads_pass(head: str, layout: str, batch, sizes) -> None:
    plan = planned(head=head, layout=layout, batch=batch, sizes=sizes)
    check_head(build_head(plan), plan)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(0.0, 0.7, 20),
        Selection(0.5, 0.0, 20),
        Selection(0.5, 1.0, 20),
        Selection(0.9, 0.3, 1, 1),
        Selection(0.01, 0.7, 2000, 50),
    ],
)
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("sizes", [SIZES, ((1, 1), (2, 2), (4, 4))])
def test_right_heads_pass_whatever_they_select(selection, classes: int, sizes) -> None:
    plan = planned(maps=replace(MAPS, classes=classes), selection=selection, sizes=sizes)
    check_head(build_head(plan), plan)


def test_heads_of_float16_maps_and_of_other_bins_pass() -> None:
    half = planned(dtype="float16")
    check_head(build_head(half), half)
    maps = Maps((64, 16), 2, (-2.0, -1.0, 0.5, 3.0))
    other = planned(maps=maps, sizes=((2, 2), (8, 8)))
    check_head(build_head(other), other)


def at_full_size() -> HeadPlan:
    maps = Maps((32, 16, 8), 80, MAPS.projection)
    return HeadPlan(maps, sizes=((20, 20), (40, 40), (80, 80)))


def test_a_head_of_full_size_passes() -> None:
    plan = at_full_size()
    check_head(build_head(plan), plan)


def turn(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    """Return what puts another value in the place of a constant."""

    def broken(model: onnx.ModelProto) -> None:
        set_constant(model, name, change(constant(model, name).copy()))

    return broken


def rewired(output: str, index: int, name: str) -> Break:
    """Return what makes a node read another value."""

    def broken(model: onnx.ModelProto) -> None:
        node_of(model, output).input[index] = name

    return broken


def reordered(output: str) -> Break:
    """Return what reverses the inputs of a node."""

    def broken(model: onnx.ModelProto) -> None:
        node = node_of(model, output)
        names = list(node.input)[::-1]
        node.input[:] = names

    return broken


def attribute(output: str, name: str, value: object) -> Break:
    """Return what gives a node another attribute."""

    def broken(model: onnx.ModelProto) -> None:
        node = node_of(model, output)
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return broken


def filling(output: str, value: float, dtype: type) -> Break:
    """Return what makes a ConstantOfShape give another value."""
    return attribute(output, "value", onnx.numpy_helper.from_array(np.array([value], dtype)))


def without(output: str) -> Break:
    """Return what leaves out a node: its first input passes through."""

    def broken(model: onnx.ModelProto) -> None:
        node = node_of(model, output)
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [output]))

    return broken


def together(*breaks: Break) -> Break:
    def broken(model: onnx.ModelProto) -> None:
        for one in breaks:
            one(model)

    return broken


def swapped_strides(steps: np.ndarray) -> np.ndarray:
    factor = {32: 0.5, 16: 2.0, 8: 1.0}
    return steps * np.array([factor[int(abs(row[0]))] for row in steps])[:, None]


def without_half(points: np.ndarray) -> np.ndarray:
    strides = np.repeat(MAPS.strides, [h * w for h, w in SIZES])
    return points - strides[:, None] / 2


def columns_first(points: np.ndarray) -> np.ndarray:
    """Number the cells of the largest map column after column."""
    height, width = SIZES[-1]
    level = points[-height * width :].reshape(height, width, 4)
    points[-height * width :] = level.transpose(1, 0, 2).reshape(-1, 4)
    return points


def mixed(model: onnx.ModelProto) -> None:
    """Mix classes and anchors of the last map: anchors first, classes second."""
    set_constant(model, "cls_shape", [0, -1, MAPS.classes])
    for stride in MAPS.strides:
        node = node_of(model, f"cls_{stride}_flat")
        at = list(model.graph.node).index(node) + 1
        node.output[0] = f"mixed_{stride}"
        made = onnx.helper.make_node(
            "Transpose", [f"mixed_{stride}"], [f"cls_{stride}_flat"], perm=[0, 2, 1]
        )
        model.graph.node.insert(at, made)


def told(plan: HeadPlan, broken: Break, words: str) -> None:
    """Assert that a head passes, and does not once it is broken."""
    model = build_head(plan)
    check_head(model, plan)
    before = model.SerializeToString()
    broken(model)
    assert model.SerializeToString() != before
    with pytest.raises(NotEquivalentError, match="does not compute what it must") as caught:
        check_head(model, plan)
    assert words in caught.value.found


DECODING: dict[str, tuple[Break, str]] = {
    "projection reversed": (turn("projection", lambda v: v[::-1]), "boxes"),
    "projection a little off": (turn("projection", lambda v: v * (1 + 1e-5)), "boxes"),
    "two strides swapped": (turn("steps", swapped_strides), "boxes"),
    "the half left out": (turn("points", without_half), "boxes"),
    "cells column after column": (turn("points", columns_first), "boxes"),
    "x and y swapped": (turn("points", lambda v: v[:, [1, 0, 3, 2]]), "boxes"),
    "sides swapped": (turn("steps", lambda v: -v), "boxes"),
    "bins before sides": (
        together(
            turn("reg_shape", lambda v: v[[0, 2, 1, 3]]),
            attribute("bins_last", "perm", [0, 3, 2, 1]),
        ),
        "boxes",
    ),
    "softmax over the sides": (attribute("chances", "axis", 2), "boxes"),
    "softmax left out": (without("chances"), "boxes"),
    "levels of distances in another order": (reordered("distributions"), "boxes"),
    "levels of classes in another order": (reordered("logits"), "scores"),
    "classes and anchors mixed": (mixed, "scores"),
}


@pytest.mark.parametrize("name", DECODING)
@pytest.mark.parametrize(("head", "layout"), FORMS[:2])
def test_every_way_of_decoding_wrongly_is_told(name: str, head: str, layout: str) -> None:
    broken, words = DECODING[name]
    told(planned(head=head, layout=layout), broken, words)


def test_no_sigmoid_is_told() -> None:
    told(planned(head=DECODED), without("scores"), "scores")
    told(planned(), without(INNER_SCORES), "scores")


@pytest.mark.parametrize(
    "broken",
    [
        turn("half", lambda v: v * 0),
        rewired("x_count_16", 1, "axis_0"),
        together(rewired("x_count_8", 1, "axis_0"), rewired("y_count_8", 1, "axis_1")),
        turn("stride_16", lambda v: v * 2),
        turn("sides_16", lambda v: v * 2),
        turn("sides_8", lambda v: v[[2, 1, 0, 3]]),
    ],
)
def test_wrong_anchors_of_open_sizes_are_told(broken: Break) -> None:
    told(planned(head=DECODED, sizes=None), broken, "boxes")


LIMITED = replace(SELECTION, candidates=15, top_k=60)  # no limit hides the other
SELECTING: dict[str, tuple[Break, str]] = {
    "higher score threshold": (turn("score_threshold", lambda v: v * 1.003), "is missing"),
    "lower score threshold": (turn("score_threshold", lambda v: v * 0.997), "not above"),
    "higher overlap threshold": (turn("iou_threshold", lambda v: v * 1.003), "overlap by"),
    "lower overlap threshold": (turn("iou_threshold", lambda v: v * 0.997), "is missing"),
    "fewer of a class": (turn("per_class", lambda v: v - 30), "is missing"),
    "more candidates": (turn("candidates", lambda v: v + 1), "no box of this class"),
    "fewer candidates": (turn("candidates", lambda v: v - 1), "is missing"),
    "all are candidates": (rewired("selected", 1, INNER_SCORES), "no box of this class"),
    "worst first": (attribute("score_order", "largest", 0), ""),
    "images in another order": (attribute("image_order", "largest", 1), ""),
    "images ignored": (rewired("keys", 0, "row_numbers"), ""),
    "sides are centres": (attribute("selected", "center_point_box", 1), ""),
    "boxes of the class's number": (turn("image_anchor", lambda v: np.array([0, 1])), ""),
    "rows one too late": (turn("first_start", lambda v: v + 1), ""),
}


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize("layout", [OWN, PADDLEDETECTION])
def test_every_way_of_selecting_wrongly_is_told(name: str, layout: str) -> None:
    broken, words = SELECTING[name]
    selection = LIMITED if "candidate" in name else SELECTION
    told(planned(layout=layout, selection=selection), broken, words)


FORM: dict[str, tuple[Break, str]] = {
    "one place fewer": (turn("places", lambda v: v[:-1]), "has shape"),
    "one place more": (turn("places", lambda v: np.arange(len(v) + 1)), "has shape"),
    "counts cut too low": (turn("top_k", lambda v: v - 1), "are not zero"),
    "counts not cut": (turn("top_k", lambda v: v + 1), "detections; from 0 to"),
    "padding of class 0": (filling("mark_classes", 0, np.int64), "a class that is not -1"),
    "padding with a score": (filling("mark_scores", 1e-3, np.float32), "are not zero"),
    "padding with a box": (filling("mark_boxes", 1, np.float32), "are not zero"),
    "classes are anchors": (
        rewired("row_classes", 0, "anchor_numbers"),
        "class",
    ),
}


def with_anchor_numbers(model: onnx.ModelProto) -> None:
    """Add the anchors of rows as a value, for a head to mistake them for classes."""
    at = list(model.graph.node).index(node_of(model, "row_classes"))
    nodes = [
        onnx.helper.make_node("Gather", ["selected", "at_2"], ["column_2"], axis=1),
        onnx.helper.make_node("Reshape", ["column_2", "flat"], ["anchor_numbers"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(at, node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "at_2"))


@pytest.mark.parametrize("name", FORM)
def test_every_wrong_form_of_our_layout_is_told(name: str) -> None:
    broken, words = FORM[name]
    if name == "classes are anchors":
        broken = together(with_anchor_numbers, broken)
    # Open dimensions: a wrong number of places is for the check to find, not for the runtime.
    plan = planned()

    def opened(model: onnx.ModelProto) -> None:
        broken(model)
        for value in model.graph.output:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}_{axis}"

    told(plan, opened, words)


def first_scale(model: onnx.ModelProto) -> None:
    """Divide the boxes of every image by the scale factor of the first."""
    node_of(model, "real_scales").input[1] = "zeros"
    at = list(model.graph.node).index(node_of(model, "real_scales"))
    nodes = [
        onnx.helper.make_node("Sub", ["real_images", "real_images"], ["zeros"]),
    ]
    for node in nodes:
        model.graph.node.insert(at, node)


def swapped_columns(model: onnx.ModelProto) -> None:
    node = node_of(model, "fetch_name_0")
    node.input[0], node.input[1] = node.input[1], node.input[0]


THEIRS: dict[str, tuple[Break, str]] = {
    "scale factor x before y": (turn("xyxy", lambda v: v[[1, 0, 3, 2]]), "divided by"),
    "scale factor left out": (without("original_boxes"), "divided by"),
    "scale factor of the first image": (first_scale, "divided by"),
    "not sorted by class": (rewired("real_order", 0, "slot_places"), "order of their classes"),
    "class and score swapped": (swapped_columns, "order of their classes"),
    "counts not cut": (turn("top_k", lambda v: v + 1), "counts"),
    "counts cut too low": (turn("top_k", lambda v: v - 1), "counts"),
    "scores for classes": (rewired("class_column", 0, "real_scores"), "order of their classes"),
}


@pytest.mark.parametrize("name", THEIRS)
def test_every_wrong_form_of_paddledetections_layout_is_told(name: str) -> None:
    broken, words = THEIRS[name]
    told(planned(layout=PADDLEDETECTION), broken, words)


def test_another_type_is_told() -> None:
    def halved(model: onnx.ModelProto) -> None:
        for name, kind in (("count", onnx.TensorProto.INT32),):
            node_of(model, name).output[0] = f"{name}_wide"
            cast = onnx.helper.make_node("Cast", [f"{name}_wide"], [name], to=kind)
            model.graph.node.append(cast)
            (value,) = (v for v in model.graph.output if v.name == name)
            value.type.tensor_type.elem_type = kind

    told(planned(), halved, "count are int32; needed int64")


def test_answers_that_are_no_numbers_are_told() -> None:
    told(planned(head=DECODED), turn("points", lambda v: v * np.nan), "boxes (0, 0, 0): nan")


def test_a_head_that_warns_is_refused() -> None:
    plan = planned()
    model = build_head(plan)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1), "unread"))
    with pytest.raises(ExportError, match="warns about the model"):
        check_head(model, plan)


def test_every_kind_of_image_is_seen_whatever_the_batch() -> None:
    for batch in (None, 1, 2, 3, 5):
        runs = module._batches(batch)
        assert {kind for run in runs for kind in run} == {"crowded", "empty", "sparse"}
        assert all(len(run) == batch for run in runs) or batch is None
