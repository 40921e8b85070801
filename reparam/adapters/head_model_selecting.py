"""The part of a head model that selects: suppression, and the best of each image.

ONNX's NonMaxSuppression gives rows (image, class, anchor) of all images together. Each image gets
one more row that is worse than all of its own, an end mark. Sorted by image and score, the rows of
image n lie between the marks n - 1 and n; a place after the last row of an image takes its mark,
whose box and score are 0 and whose class is -1. So padding, counting and images without objects
need no case of their own, and no tensor is ever empty where an operator might mind.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.adapters.head_model_writer import FLOAT, INT64, GraphWriter
from reparam.detection.records import Selection
from reparam.detection.selecting import NO_CLASS

_BOXES, _SCORES = "decoded_boxes", "decoded_scores"
_ROW_BOXES, _ROW_SCORES, _ROW_CLASSES, _ROW_IMAGES = (
    "row_boxes", "row_scores", "row_classes", "row_images"
)  # fmt: skip


def select_own(writer: GraphWriter, selection: Selection, batch: int | str) -> list[Any]:
    """Write the nodes to boxes, scores, classes and count, and return their value infos."""
    picks = _picked_rows(writer, selection)
    top_k = selection.top_k
    for rows, output in ((_ROW_BOXES, "boxes"), (_ROW_SCORES, "scores"), (_ROW_CLASSES, "classes")):
        writer.node("Gather", [rows, picks], output)
    _counts(writer, "count", top_k)
    return [
        writer.value("boxes", FLOAT, (batch, top_k, 4)),
        writer.value("scores", FLOAT, (batch, top_k)),
        writer.value("classes", INT64, (batch, top_k)),
        writer.value("count", INT64, (batch,)),
    ]


def select_paddledetection(
    writer: GraphWriter, selection: Selection, classes: int, batch: int | str
) -> list[Any]:
    """Write the nodes to the outputs of PaddleDetection's models, and return their value infos.

    Boxes are divided by the scale factor at the very end: whatever it is, it makes and loses no
    detection.
    """
    picks = _picked_rows(writer, selection)
    flat = writer.constant("flat", [-1])
    picked = writer.node("Reshape", [picks, flat], "flat_picks")
    real = writer.node("Reshape", ["slot_is_real", flat], "flat_is_real")
    order = _by_class(writer, picked, real, classes)
    some = writer.node("NonZero", [real], "real_places")
    length = writer.dims(some, 1, 2, "real_count")
    zero = writer.constant("at_0", [0])
    first = writer.node("Slice", [order, zero, length, zero], "real_order")
    rows = writer.node("Gather", [picked, first], "real_rows")
    scale = writer.node("Gather", ["scale_factor", writer.constant("xyxy", [1, 0, 1, 0])],
                        "scale_xyxy", axis=1)  # fmt: skip
    images = writer.node("Gather", [_ROW_IMAGES, rows], "real_images")
    divisor = writer.node("Gather", [scale, images], "real_scales")
    corners = writer.node("Gather", [_ROW_BOXES, rows], "real_boxes")
    boxes = writer.node("Div", [corners, divisor], "original_boxes")
    labels = writer.node("Gather", [_ROW_CLASSES, rows], "real_classes")
    column = writer.constant("column_shape", [-1, 1])
    values = writer.node("Gather", [_ROW_SCORES, rows], "real_scores")
    numbers = writer.cast(labels, FLOAT, "float_classes")
    parts = [
        writer.node("Reshape", [numbers, column], "class_column"),
        writer.node("Reshape", [values, column], "score_column"),
        boxes,
    ]
    writer.node("Concat", parts, "fetch_name_0", axis=1)
    writer.cast(_counts(writer, "count_int64", selection.top_k), np.int32, "fetch_name_1")
    return [
        writer.value("fetch_name_0", FLOAT, ("detections", 6)),
        writer.value("fetch_name_1", np.int32, (batch,)),
    ]


def _by_class(writer: GraphWriter, picked: str, real: str, classes: int) -> str:
    """Return the order of slots by image, class and score; those without a row come last."""
    images = writer.node("Gather", [_ROW_IMAGES, picked], "slot_images")
    labels = writer.node("Gather", [_ROW_CLASSES, picked], "slot_classes")
    step = writer.constant("classes", [classes])
    image_part = writer.node("Mul", [images, step], "slot_image_part")
    group = writer.node("Add", [image_part, labels], "slot_group")
    last = writer.node("Mul", ["images", step], "last_group")
    group = writer.node("Where", [real, group, last], "slot_real_group")
    length = writer.node("Shape", [picked], "slot_count")
    place = writer.counting(length, "slot_places")
    key = writer.node("Mul", [group, length], "slot_group_part")
    key = writer.node("Add", [key, place], "slot_keys")
    writer.outputs("TopK", [key, length], ["slot_keys_sorted", "slot_order"], axis=0, largest=0)
    return "slot_order"


def _picked_rows(writer: GraphWriter, selection: Selection) -> str:
    """Write the nodes up to the row (N, K) that each place of the answer takes."""
    rows = _suppressed(writer, selection)
    _extended_rows(writer, rows)
    _sorted_rows(writer)
    # Marks are the rows from the number of real rows on; in order, the n-th is that of image n.
    marks = writer.node("Greater", ["order", "last_row"], "is_mark")
    found = writer.node("NonZero", [marks], "mark_places")
    ends = writer.node("Reshape", [found, writer.constant("column_shape", [-1, 1])], "ends")
    one = writer.constant("one", [1])
    after = writer.node("Add", [ends, one], "after_ends")
    before = writer.slice(after, 0, -1, "after_ends_but_last")
    first = writer.constant("first_start", [[0]])
    starts = writer.node("Concat", [first, before], "starts", axis=0)
    places = writer.constant("places", np.arange(selection.top_k))
    wanted = writer.node("Add", [starts, places], "wanted")
    real = writer.node("Less", [wanted, ends], "slot_is_real")
    slots = writer.node("Where", [real, wanted, ends], "slots")
    return writer.node("Gather", ["order", slots], "picks")


def _suppressed(writer: GraphWriter, selection: Selection) -> str:
    """Write the suppression: rows (S, 3) of image, class and anchor."""
    scores = _SCORES
    if selection.candidates is not None:
        scores = _candidates(writer, selection)
    limits = [
        writer.constant("per_class", [selection.top_k]),
        writer.constant("iou_threshold", [selection.iou_threshold], FLOAT),
        writer.constant("score_threshold", [selection.score_threshold], FLOAT),
    ]
    return writer.node("NonMaxSuppression", [_BOXES, scores, *limits], "selected")


def _candidates(writer: GraphWriter, selection: Selection) -> str:
    """Return scores in which only the best of each class are above the threshold."""
    limit = writer.constant("score_threshold", [selection.score_threshold], FLOAT)
    none = writer.constant("no_score", [0.0], FLOAT)
    above = writer.node("Greater", [_SCORES, limit], "is_above")  # NaN is not
    clean = writer.node("Where", [above, _SCORES, none], "scores_above")
    # There may be fewer anchors than candidates. Min of integers is younger than opset 11.
    anchors = writer.dims(_SCORES, 2, 3, "anchor_count")
    most = writer.constant("candidates", [selection.candidates])
    few = writer.node("Less", [anchors, most], "few_anchors")
    wanted = writer.node("Where", [few, anchors, most], "candidate_count")
    writer.outputs("TopK", [clean, wanted], ["best_scores", "best_anchors"], axis=2)
    bounds = [writer.constant(f"at_{at}", [at]) for at in (-1, 2**31 - 1)]
    worst = writer.node("Slice", ["best_scores", *bounds, writer.constant("at_2", [2])], "worst")
    behind = writer.node("Less", [clean, worst], "is_behind")
    return writer.node("Where", [behind, none, clean], "candidate_scores")


def _extended_rows(writer: GraphWriter, rows: str) -> None:
    """Write image, class, score and box of each row, with one end mark for each image after."""
    writer.dims(_BOXES, 0, 1, "images")
    images = _column(writer, rows, 0)
    labels = _column(writer, rows, 1)
    flat = writer.constant("flat", [-1])
    place = writer.node("Gather", [rows, writer.constant("image_anchor", [0, 2])], "box_places",
                        axis=1)  # fmt: skip
    boxes = writer.node("GatherND", [_BOXES, place], "selected_boxes")
    scores = writer.node("GatherND", [_SCORES, rows], "selected_scores")
    marks = writer.counting("images", "image_numbers")
    none = writer.filled("images", NO_CLASS, INT64, "mark_classes")
    zeros = writer.filled("images", 0, FLOAT, "mark_scores")
    four = writer.node("Concat", ["images", writer.constant("four", [4])], "mark_box_shape", axis=0)
    corners = writer.filled(four, 0, FLOAT, "mark_boxes")
    images = writer.node("Reshape", [images, flat], "selected_images")
    labels = writer.node("Reshape", [labels, flat], "selected_classes")
    writer.node("Concat", [images, marks], _ROW_IMAGES, axis=0)
    writer.node("Concat", [labels, none], _ROW_CLASSES, axis=0)
    writer.node("Concat", [scores, zeros], _ROW_SCORES, axis=0)
    writer.node("Concat", [boxes, corners], _ROW_BOXES, axis=0)


def _column(writer: GraphWriter, rows: str, index: int) -> str:
    at = writer.constant(f"at_{index}", [index])
    return writer.node("Gather", [rows, at], f"column_{index}", axis=1)


def _sorted_rows(writer: GraphWriter) -> None:
    """Write the order of rows by image and, best first, by score; marks have the worst score.

    First by score; the place there is the second part of a key of integers, which are exact.
    """
    total = writer.node("Shape", [_ROW_SCORES], "row_count")
    writer.node("Sub", [total, "images"], "real_row_count")
    writer.node("Sub", ["real_row_count", writer.constant("one", [1])], "last_row")
    writer.outputs("TopK", [_ROW_SCORES, total], ["scores_sorted", "score_order"], axis=0)
    images = writer.node("Gather", [_ROW_IMAGES, "score_order"], "images_by_score")
    part = writer.node("Mul", [images, total], "image_part")
    key = writer.node("Add", [part, writer.counting(total, "row_numbers")], "keys")
    writer.outputs("TopK", [key, total], ["keys_sorted", "image_order"], axis=0, largest=0)
    writer.node("Gather", ["score_order", "image_order"], "order")


def _counts(writer: GraphWriter, output: str, top_k: int) -> str:
    """Write how many detections each image has, (N)."""
    length = writer.node("Sub", ["ends", "starts"], "lengths")
    length = writer.node("Reshape", [length, writer.constant("flat", [-1])], "row_counts")
    most = writer.constant("top_k", [top_k])
    many = writer.node("Greater", [length, most], "many")
    return writer.node("Where", [many, most, length], output)
