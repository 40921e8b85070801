"""The head of a detector as a small ONNX model of our own: decoding, and selecting.

    raw maps -- decode -- boxes (N, A, 4), scores (N, C, A) -- select -- detections

It is built from what the maps mean, proved alone (``head_model_checks``) and joined to the network
that makes the maps (``head_model_joining``). All of it computes in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reparam.adapters.head_model_selecting import select_own, select_paddledetection
from reparam.adapters.head_model_writer import FLOAT, GraphWriter
from reparam.detection.decoding import centres
from reparam.detection.records import DECODED, NMS, Maps, Selection
from reparam.errors import ExportError

OWN, PADDLEDETECTION = "own", "paddledetection"
LAYOUTS = (OWN, PADDLEDETECTION)

OLDEST_OPSET = 11
"""Before it, there is no CumSum, and NonMaxSuppression keeps something else."""

INNER_BOXES, INNER_SCORES = "decoded_boxes", "decoded_scores"
"""The decoded boxes and scores inside a head that selects."""

_SIDES = (-1.0, -1.0, 1.0, 1.0)


@dataclass(frozen=True)
class HeadPlan:
    """What a head model is to be.

    Attributes:
        maps: what its inputs mean.
        head: ``"decoded"`` or ``"nms"``.
        selection: which boxes are detections; of no account where the head is decoded.
        layout: ``"own"``, or ``"paddledetection"`` for the inputs and outputs of its models.
        sizes: (H, W) of the maps of each stride; None leaves them open.
        batch: N; None leaves it open.
        opset: of ONNX, from 11.
    """

    maps: Maps
    head: str = NMS
    selection: Selection = field(default_factory=Selection)
    layout: str = OWN
    sizes: tuple[tuple[int, int], ...] | None = None
    batch: int | None = None
    opset: int = 17


def build_head(plan: HeadPlan) -> Any:
    """Return the head of a detector as an ``onnx.ModelProto``.

    Inputs are the maps by their names; with the layout of PaddleDetection also ``scale_factor``
    (N, 2), y and x, by which boxes are divided. Outputs:

        decoded           boxes (N, A, 4) x1 y1 x2 y2 in pixels of the input, scores (N, C, A)
        nms               boxes (N, K, 4), scores (N, K), classes (N, K) int64, count (N) int64;
                          best first, padded with 0 and class -1
        paddledetection   fetch_name_0 (M, 6): class, score, x1, y1, x2, y2, by image, class, score;
                          fetch_name_1 (N) int32: how many there are of each image

    Raises:
        ExportError: the plan cannot be a model.
    """
    require_plan(plan)
    writer = GraphWriter()
    boxes, scores = _decode(writer, plan)
    inputs = _inputs(writer, plan)
    batch = plan.batch or "batch"
    anchors = sum(h * w for h, w in plan.sizes) if plan.sizes else "anchors"
    decoded = [
        writer.value(boxes, FLOAT, (batch, anchors, 4)),
        writer.value(scores, FLOAT, (batch, plan.maps.classes, anchors)),
    ]
    if plan.head == DECODED:
        return writer.model(inputs, decoded, [], plan.opset)
    if plan.layout == OWN:
        outputs = select_own(writer, plan.selection, batch)
    else:
        inputs.append(writer.value("scale_factor", FLOAT, (batch, 2)))
        outputs = select_paddledetection(writer, plan.selection, plan.maps.classes, batch)
    return writer.model(inputs, outputs, decoded, plan.opset)


def require_plan(plan: HeadPlan) -> None:
    """Refuse a plan that cannot be a model.

    Raises:
        ExportError: a number is out of its range, or a name is unknown.
    """
    selection = plan.selection
    rules: Sequence[tuple[bool, str, object]] = (
        (plan.head in (DECODED, NMS), "a head model is decoded or nms", plan.head),
        (plan.layout in LAYOUTS, f"a layout is one of {', '.join(LAYOUTS)}", plan.layout),
        (
            plan.layout == OWN or plan.head == NMS,
            "the layout of PaddleDetection is one of selected boxes", plan.head,
        ),
        (plan.opset >= OLDEST_OPSET, f"a head needs opset {OLDEST_OPSET} or newer", plan.opset),
        (plan.batch is None or plan.batch >= 1, "a batch is 1 or more", plan.batch),
        (
            plan.sizes is None or len(plan.sizes) == len(plan.maps.strides),
            "each stride has a size of its maps", plan.sizes,
        ),
        (
            0 <= selection.score_threshold < 1,
            "a score threshold is from 0 to below 1", selection.score_threshold,
        ),
        (
            0 <= selection.iou_threshold <= 1,
            "an overlap threshold is from 0 to 1", selection.iou_threshold,
        ),
        (selection.top_k >= 1, "at least one detection must be kept", selection.top_k),
        (
            selection.candidates is None or selection.candidates >= 1,
            "at least one box of a class must take part", selection.candidates,
        ),
    )  # fmt: skip
    for right, what, found in rules:
        if not right:
            raise ExportError(what, found=str(found))


def _inputs(writer: GraphWriter, plan: HeadPlan) -> list[Any]:
    batch, maps = plan.batch or "batch", plan.maps
    values = []
    for level, stride in enumerate(maps.strides):
        size: tuple[int | str, ...] = (f"height_{stride}", f"width_{stride}")
        if plan.sizes is not None:
            size = plan.sizes[level]
        for kind, channels in (("cls", maps.classes), ("reg", 4 * maps.bins)):
            shape = (batch, channels, *size)
            values.append(writer.value(f"{kind}_{stride}", FLOAT, shape))
    return values


def _decode(writer: GraphWriter, plan: HeadPlan) -> tuple[str, str]:
    """Write the nodes from the maps to boxes and scores, and return the names of these."""
    final = plan.head == DECODED
    boxes, scores = ("boxes", "scores") if final else (INNER_BOXES, INNER_SCORES)
    classes = [_flat(writer, f"cls_{s}", (0, plan.maps.classes, -1)) for s in plan.maps.strides]
    logits = writer.node("Concat", classes, "logits", axis=2)
    writer.node("Sigmoid", [logits], scores)
    distances = _distances(writer, plan)
    points, steps = _anchors(writer, plan) if plan.sizes else _open_anchors(writer, plan)
    offsets = writer.node("Mul", [distances, steps], "offsets")
    writer.node("Add", [offsets, points], boxes)
    return boxes, scores


def _flat(writer: GraphWriter, name: str, shape: tuple[int, ...]) -> str:
    """Return a map with its rows and columns on one axis."""
    kind = name.partition("_")[0]
    return writer.node("Reshape", [name, writer.constant(f"{kind}_shape", shape)], f"{name}_flat")


def _distances(writer: GraphWriter, plan: HeadPlan) -> str:
    """Write the mean distance of each side, (N, A, 4), in strides."""
    bins = plan.maps.bins
    sides = [_flat(writer, f"reg_{s}", (0, 4, bins, -1)) for s in plan.maps.strides]
    joined = writer.node("Concat", sides, "distributions", axis=3)
    last = writer.node("Transpose", [joined], "bins_last", perm=[0, 3, 1, 2])
    chances = writer.node("Softmax", [last], "chances", axis=3)
    projection = np.reshape(plan.maps.projection, (bins, 1))
    weights = writer.constant("projection", projection, FLOAT)
    mean = writer.node("MatMul", [chances, weights], "mean")
    return writer.node("Reshape", [mean, writer.constant("box_shape", [0, -1, 4])], "distances")


def _anchors(writer: GraphWriter, plan: HeadPlan) -> tuple[str, str]:
    """Return constants (A, 4): the centre of each cell in pixels, twice, and -+ its stride."""
    points, steps = [], []
    for stride, (height, width) in zip(plan.maps.strides, plan.sizes or (), strict=True):
        points.append(np.tile(centres(height, width), 2) * stride)
        steps.append(np.tile(np.multiply(_SIDES, stride), (height * width, 1)))
    return (
        writer.constant("points", np.concatenate(points), FLOAT),
        writer.constant("steps", np.concatenate(steps), FLOAT),
    )


def _open_anchors(writer: GraphWriter, plan: HeadPlan) -> tuple[str, str]:
    """Return the same as values, computed from the sizes of the maps."""
    parts = [_open_level(writer, stride) for stride in plan.maps.strides]
    points = writer.node("Concat", [point for point, _ in parts], "points", axis=0)
    steps = writer.node("Concat", [step for _, step in parts], "steps", axis=0)
    return points, steps


def _open_level(writer: GraphWriter, stride: int) -> tuple[str, str]:
    size = writer.dims(f"cls_{stride}", 2, 4, f"size_{stride}")
    ones = writer.filled(size, 1, FLOAT, f"ones_{stride}")
    column = writer.constant("column_shape", [-1, 1])
    parts = []
    for name, axis in (("x", 1), ("y", 0)):  # 1, 2, 3 ... along the axis
        counted = writer.node(
            "CumSum", [ones, writer.constant(f"axis_{axis}", axis)], f"{name}_count_{stride}"
        )
        parts.append(writer.node("Reshape", [counted, column], f"{name}_{stride}"))
    cells = writer.node("Concat", [*parts, *parts], f"cells_{stride}", axis=1)
    half = writer.constant("half", 0.5, FLOAT)
    middle = writer.node("Sub", [cells, half], f"centres_{stride}")
    scale = writer.constant(f"stride_{stride}", stride, FLOAT)
    points = writer.node("Mul", [middle, scale], f"points_{stride}")
    flat = writer.node("Reshape", [ones, column], f"flat_ones_{stride}")
    sides = writer.constant(f"sides_{stride}", np.multiply(_SIDES, stride), FLOAT)
    return points, writer.node("Mul", [flat, sides], f"steps_{stride}")
