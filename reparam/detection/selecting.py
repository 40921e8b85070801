"""Which boxes are detections: non-maximum suppression class by class, written plainly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.detection.records import Selection

Array = npt.NDArray[Any]

NO_CLASS = -1
"""The class of a row that holds no detection."""


@dataclass(frozen=True)
class Detections:
    """The detections of some images, best first; rows after the last one are padding.

    Attributes:
        boxes: (N, K, 4), x1 y1 x2 y2; padding is 0.
        scores: (N, K); padding is 0.
        classes: (N, K); padding is -1.
        count: (N,), rows of each image that are detections.
    """

    boxes: Array
    scores: Array
    classes: Array
    count: Array


def select(boxes: Array, scores: Array, selection: Selection) -> Detections:
    """Return what class-wise non-maximum suppression keeps.

        a box takes part if its score is above the threshold, and it is among the ``candidates``
        best of its class; best first, it goes if its overlap with one kept before is above the
        threshold; of what is left the ``top_k`` best of an image are kept

    Thresholds are compared as float32, as a file holds them. Of equal scores the first anchor, and
    then the first class, counts as better.

    Args:
        boxes: (N, A, 4), x1 y1 x2 y2.
        scores: (N, C, A).
    """
    images, top_k = len(boxes), selection.top_k
    found = Detections(
        boxes=np.zeros((images, top_k, 4), boxes.dtype),
        scores=np.zeros((images, top_k), scores.dtype),
        classes=np.full((images, top_k), NO_CLASS, np.int64),
        count=np.zeros(images, np.int64),
    )
    for image in range(images):
        kept = _of_image(boxes[image], scores[image], selection)
        classes, anchors = kept[:, 0], kept[:, 1]
        found.count[image] = len(kept)
        found.boxes[image, : len(kept)] = boxes[image, anchors]
        found.scores[image, : len(kept)] = scores[image, classes, anchors]
        found.classes[image, : len(kept)] = classes
    return found


def overlaps(first: Array, second: Array) -> Array:
    """Return intersection over union (P, Q) of boxes (P, 4) and (Q, 4), in float64.

    A box is told by any two opposite corners; one without area, or with NaN, overlaps nothing.
    """
    low_p, high_p = _corners(first)
    low_q, high_q = _corners(second)
    low = np.maximum(low_p[:, None], low_q[None])
    high = np.minimum(high_p[:, None], high_q[None])
    with np.errstate(invalid="ignore", over="ignore"):
        shared = np.prod(np.maximum(high - low, 0.0), axis=-1)
        area_p, area_q = np.prod(high_p - low_p, axis=-1), np.prod(high_q - low_q, axis=-1)
        whole = area_p[:, None] + area_q[None] - shared
        some = (area_p[:, None] > 0) & (area_q[None] > 0) & (shared > 0)
        ratio: Array = np.divide(shared, whole, out=np.zeros_like(shared), where=some)
    return ratio


def _corners(boxes: Array) -> tuple[Array, Array]:
    exact = boxes.astype(np.float64).reshape(-1, 2, 2)
    return exact.min(axis=1), exact.max(axis=1)


def _of_image(boxes: Array, scores: Array, selection: Selection) -> Array:
    """Return class and anchor (M, 2) of the detections of one image, best first."""
    rows = [
        (-float(scores[label, anchor]), label, int(anchor))
        for label in range(len(scores))
        for anchor in _of_class(boxes, scores[label], selection)
    ]
    best = sorted(rows)[: selection.top_k]
    return np.array([row[1:] for row in best], dtype=np.int64).reshape(-1, 2)


def _of_class(boxes: Array, scores: Array, selection: Selection) -> list[int]:
    above = np.flatnonzero(scores > np.float32(selection.score_threshold))
    order = above[np.argsort(-scores[above], kind="stable")][: selection.candidates]
    limit = float(np.float32(selection.iou_threshold))
    kept: list[int] = []
    for anchor in order:
        shared = overlaps(boxes[anchor][None], boxes[kept])
        if not (shared > limit).any():
            kept.append(int(anchor))
    return kept
