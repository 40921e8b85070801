"""Proof that a head model decodes and selects as it must: it is run, and its answers are checked.

What it decodes is compared with float64 under a derived bound, and what it selects is certified
against the very boxes and scores that it decoded, so no rounding stands between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.head_model import (
    INNER_BOXES,
    INNER_SCORES,
    PADDLEDETECTION,
    HeadPlan,
    require_plan,
)
from reparam.adapters.head_model_joining import with_inner_outputs
from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_runtime import run_all
from reparam.detection.certifying import certify
from reparam.detection.decoding import decode, rounding_bounds
from reparam.detection.records import DECODED
from reparam.detection.scenes import CROWDED, EMPTY, SPARSE, extreme_maps, made_up_maps
from reparam.detection.selecting import NO_CLASS, Detections
from reparam.errors import NotEquivalentError

Array = npt.NDArray[Any]

_SCALES = np.array([[1.0, 1.0], [0.5, 2.0], [1.5, 0.7]], dtype=np.float32)
"""Scale factors of PaddleDetection, y and x, of the images that a head is tried on."""

_OPEN_SIZE = (10, 13)  # of the maps of the largest stride, where a head takes any


def check_head(model: Any, plan: HeadPlan, seed: int = 0, prefix: str = "") -> None:
    """Refuse a head model that does not decode or select as it must.

    It sees a crowded, an empty and a sparse image together and the sparse one alone, or as its
    fixed batch allows, and extreme logits.

    Args:
        model: an ``onnx.ModelProto``, as ``build_head`` gives it.
        plan: what it is meant to be.
        prefix: before the names of its own values, if it was taken out of a file.

    Raises:
        NotEquivalentError: an answer is wrong.
        ExportError: onnxruntime refuses the model, warns about it, or cannot run it.
    """
    require_plan(plan)
    inner = [] if plan.head == DECODED else [prefix + INNER_BOXES, prefix + INNER_SCORES]
    session = load_strictly(with_inner_outputs(model, inner).SerializeToString())
    sizes = plan.sizes or _open_sizes(plan)
    for number, kinds in enumerate(_batches(plan.batch)):
        arrays = made_up_maps(plan.maps, sizes, plan.selection, kinds, seed + 100 * number)
        _check_run(session, plan, arrays, f"images: {', '.join(kinds)}")
    arrays = extreme_maps(plan.maps, sizes, plan.batch or 1, seed)
    _check_run(session, plan, arrays, "extreme logits")


def _open_sizes(plan: HeadPlan) -> list[tuple[int, int]]:
    largest = max(plan.maps.strides)
    height, width = _OPEN_SIZE
    return [(height * largest // s, width * largest // s) for s in plan.maps.strides]


def _batches(batch: int | None) -> list[list[str]]:
    """Return the kinds of images of each run."""
    kinds = [CROWDED, EMPTY, SPARSE]
    if batch is None:
        return [kinds, [SPARSE]]
    runs = -(-len(kinds) // batch)
    return [[kinds[(run * batch + n) % 3] for n in range(batch)] for run in range(runs)]


def _check_run(session: Any, plan: HeadPlan, arrays: Sequence[Array], what: str) -> None:
    feeds = dict(zip(plan.maps.names, arrays, strict=True))
    scales = _SCALES[np.arange(len(arrays[0])) % len(_SCALES)]
    if plan.layout == PADDLEDETECTION:
        feeds["scale_factor"] = scales
    outputs = run_all(session, feeds)
    check_answer(plan, arrays, outputs, outputs[-2:], scales, what)


def check_answer(
    plan: HeadPlan,
    arrays: Sequence[Array],
    outputs: Sequence[Array],
    decoded: Sequence[Array],
    scales: Array | None,
    what: str,
) -> None:
    """Refuse what a head answered to some maps if it is not what they mean.

    Args:
        plan: of the head.
        arrays: the maps.
        outputs: of the head, in order; more may follow.
        decoded: boxes (N, A, 4) and scores (N, C, A) inside it.
        scales: (N, 2), y and x, where its layout is that of PaddleDetection.
        what: was decoded, in words.

    Raises:
        NotEquivalentError: the answer is wrong.
    """
    boxes, scores = decoded
    wrong = _wrong_decoding(plan, arrays, boxes, scores)
    if not wrong and plan.head != DECODED:
        if plan.layout == PADDLEDETECTION and scales is not None:
            wrong = _wrong_table(outputs[0], outputs[1], plan, boxes, scores, scales)
        else:
            wrong = _wrong_selection(plan, boxes, scores, Detections(*outputs[:4]))
    if wrong:
        raise NotEquivalentError(
            f"the head of the detector does not compute what it must ({what})", found=wrong
        )


def _wrong_decoding(
    plan: HeadPlan, arrays: Sequence[Array], boxes: Array, scores: Array
) -> str | None:
    true_boxes, true_scores = decode(plan.maps, arrays)
    box_bound, score_bound = rounding_bounds(plan.maps, arrays)
    pairs = (
        ("boxes", boxes, true_boxes, box_bound),
        ("scores", scores, true_scores, np.full_like(true_scores, score_bound)),
    )
    for name, found, truth, bound in pairs:
        if found.dtype != np.float32 or found.shape != truth.shape:
            return f"{name} are {found.dtype} {found.shape}; needed float32 {truth.shape}"
        near = np.abs(found.astype(np.float64) - truth) <= bound  # NaN is not near
        if not near.all():
            at = tuple(map(int, np.unravel_index(int(np.argmin(near)), near.shape)))
            return (
                f"{name} {at}: {found[at]:.9g} instead of {truth[at]:.9g}; "
                f"rounding explains {bound[at]:.2g}"
            )
    return None


def _wrong_selection(plan: HeadPlan, boxes: Array, scores: Array, found: Detections) -> str | None:
    for name, array in (("classes", found.classes), ("count", found.count)):
        if array.dtype != np.int64:
            return f"{name} are {array.dtype}; needed int64"
    return certify(boxes, scores, plan.selection, found)


def _wrong_table(
    rows: Array, count: Array, plan: HeadPlan, boxes: Array, scores: Array, scales: Array
) -> str | None:
    """Say what is wrong with the outputs of PaddleDetection's layout.

    Its boxes are divided by the scale factor. Each row is led back to the box that gives the same
    numbers when it is divided: overlaps are those before the division.
    """
    if rows.ndim != 2 or rows.shape[1] != 6 or count.shape != (len(boxes),):
        return f"outputs of shapes {rows.shape} and {count.shape}; needed (M, 6), ({len(boxes)},)"
    if count.dtype != np.int32 or (count < 0).any() or count.sum() != len(rows):
        return f"counts {count.tolist()} ({count.dtype}) of {len(rows)} rows"
    if (count > plan.selection.top_k).any():
        return f"counts {count.tolist()}; {plan.selection.top_k} may be kept of an image"
    divided = boxes / scales[:, None, [1, 0, 1, 0]]
    starts = np.cumsum(count) - count
    parts = [rows[s : s + c].copy() for s, c in zip(starts, count, strict=True)]
    for image, part in enumerate(parts):
        later = np.diff(part[:, 0]) > 0
        same = np.diff(part[:, 0]) == 0
        if not (later | (same & (np.diff(part[:, 1]) <= 0))).all():
            return f"image {image}: rows are not in the order of their classes and scores"
        wrong = _undivide(part, divided[image], boxes[image], scores[image])
        if wrong:
            return f"image {image}: {wrong}"
    return certify(boxes, scores, plan.selection, _detections(parts, plan.selection.top_k))


def _undivide(part: Array, divided: Array, boxes: Array, scores: Array) -> str | None:
    """Put the boxes before the division into the rows of one image, or say which row has none."""
    for number, row in enumerate(part):
        label = int(row[0])
        if label != row[0] or not 0 <= label < len(scores):
            return f"row {number} has class {row[0]:g}; there are {len(scores)}"
        own = (scores[label] == row[1]) & (divided == row[2:]).all(axis=1)
        if not own.any():
            return f"row {number} is no box of class {label}, divided by the scale factor"
        row[2:] = boxes[int(np.argmax(own))]
    return None


def _detections(parts: Sequence[Array], top_k: int) -> Detections:
    """Return rows of each image (class, score, box), best first, as padded detections."""
    found = Detections(
        np.zeros((len(parts), top_k, 4), np.float32),
        np.zeros((len(parts), top_k), np.float32),
        np.full((len(parts), top_k), NO_CLASS, np.int64),
        np.array([len(part) for part in parts], np.int64),
    )
    for image, part in enumerate(parts):
        best = part[np.argsort(-part[:, 1], kind="stable")]
        found.classes[image, : len(best)] = best[:, 0].astype(np.int64)
        found.scores[image, : len(best)] = best[:, 1]
        found.boxes[image, : len(best)] = best[:, 2:]
    return found
