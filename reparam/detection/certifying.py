"""Whether given detections are the right ones of given boxes and scores.

Suppression has one right answer: of the boxes that take part, a box is kept if and only if no
better kept one of its class overlaps it too much. So an answer is certified without suppressing
anything: what was kept must not overlap, and what was not kept must be overlapped. Only where the
decision itself is within rounding may it go either way: an overlap beside the threshold, equal
scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.conv.bounds import gamma
from reparam.detection.records import Selection
from reparam.detection.selecting import NO_CLASS, Detections, overlaps

Array = npt.NDArray[Any]

OVERLAP_ROUNDINGS = 18
"""Of one overlap in float32: 3 of the shared area (two differences, a product), 3 of each of the
three areas in the union, whose magnitudes are three unions at most, 2 of sums of up to two unions,
1 of the division, and 1 where it is compared as a product: 3 + 9 + 4 + 1 + 1."""


@dataclass(frozen=True)
class _Image:
    """One image: boxes (A, 4), scores (C, A), and the rows that were given for it."""

    boxes: Array
    scores: Array
    found_boxes: Array
    found_scores: Array
    found_classes: Array


def certify(boxes: Array, scores: Array, selection: Selection, found: Detections) -> str | None:
    """Return the first thing that is wrong with some detections, in words; None if nothing is.

    Args:
        boxes: (N, A, 4) x1 y1 x2 y2, the very values that were selected from.
        scores: (N, C, A), likewise.
        found: what was made of them.
    """
    wrong = _wrong_form(len(boxes), selection.top_k, found)
    if wrong:
        return wrong
    for index, count in enumerate(found.count):
        padding = _wrong_padding(found, index, int(count))
        image = _Image(
            boxes[index], scores[index],
            found.boxes[index, :count], found.scores[index, :count], found.classes[index, :count],
        )  # fmt: skip
        wrong = padding or _wrong_rows(image, selection) or _wrong_choice(image, selection)
        if wrong:
            return f"image {index}: {wrong}"
    return None


def _wrong_form(images: int, top_k: int, found: Detections) -> str | None:
    needed = {
        "boxes": (images, top_k, 4),
        "scores": (images, top_k),
        "classes": (images, top_k),
        "count": (images,),
    }
    for name, shape in needed.items():
        given = getattr(found, name).shape
        if given != shape:
            return f"'{name}' has shape {given}; needed {shape}"
    for index, count in enumerate(found.count):
        if not 0 <= count <= top_k:
            return f"image {index}: {count} detections; from 0 to {top_k} are possible"
    return None


def _wrong_padding(found: Detections, index: int, count: int) -> str | None:
    if found.boxes[index, count:].any() or found.scores[index, count:].any():
        return f"rows after the {count} detections are not zero"
    if (found.classes[index, count:] != NO_CLASS).any():
        return f"rows after the {count} detections have a class that is not {NO_CLASS}"
    return None


def _wrong_rows(image: _Image, selection: Selection) -> str | None:
    """Say what is wrong with rows by themselves: their order, their scores, their classes."""
    scores, classes = image.found_scores, image.found_classes
    low = ~(scores > np.float32(selection.score_threshold))
    if low.any():
        row = int(np.argmax(low))
        return f"detection {row} has score {scores[row]:g}, not above the threshold"
    unknown = (classes < 0) | (classes >= len(image.scores))
    if unknown.any():
        row = int(np.argmax(unknown))
        return f"detection {row} has class {classes[row]}; there are {len(image.scores)}"
    rising = scores[1:] > scores[:-1]
    if rising.any():
        row = int(np.argmax(rising))
        return f"detections {row} and {row + 1} are not in the order of their scores"
    return None


def _wrong_choice(image: _Image, selection: Selection) -> str | None:
    last = np.inf
    if len(image.found_scores) < selection.top_k:
        last = -np.inf  # nothing was cut off: what is missing must be suppressed
    elif len(image.found_scores):
        last = float(image.found_scores[-1])
    for label in range(len(image.scores)):
        wrong = _wrong_class(image, label, selection, last)
        if wrong:
            return f"class {label}: {wrong}"
    return None


def _wrong_class(image: _Image, label: int, selection: Selection, last: float) -> str | None:
    """Say what is wrong with the detections of one class.

    Args:
        last: the worst score of the image's detections where others may have been cut off.
    """
    scores = image.scores[label]
    rows = np.flatnonzero(image.found_classes == label)
    must, may = _taking_part(scores, selection)
    kept, wrong = _anchors_of(image, rows, may)
    if wrong:
        return wrong
    limit = float(np.float32(selection.iou_threshold))
    slack = gamma(OVERLAP_ROUNDINGS, "float32")
    among = np.triu(overlaps(image.boxes[kept], image.boxes[kept]), 1)
    if (among > limit * (1 + slack)).any():
        first, second = np.unravel_index(int(np.argmax(among)), among.shape)
        return (
            f"detections {rows[first]} and {rows[second]} overlap by {among[first, second]:.6g}; "
            f"the threshold is {limit:g}"
        )
    must[kept] = False
    missing = np.flatnonzero(must & (scores > last))
    if not len(missing):
        return None
    shared = overlaps(image.boxes[missing], image.boxes[kept])
    better = scores[kept][None] >= scores[missing][:, None]
    free = ~(better & (shared >= limit * (1 - slack)) & (shared > 0)).any(axis=1)
    if free.any():
        anchor = int(missing[np.argmax(free)])
        return f"anchor {anchor} with score {scores[anchor]:g} is missing; nothing suppresses it"
    return None


def _taking_part(scores: Array, selection: Selection) -> tuple[Array, Array]:
    """Return which anchors take part for certain, and which may, by their scores in one class."""
    above = scores > np.float32(selection.score_threshold)
    if selection.candidates is None or above.sum() <= selection.candidates:
        return above.copy(), above
    worst = np.sort(scores[above])[-selection.candidates]
    may = above & (scores >= worst)
    if may.sum() == selection.candidates:
        return may.copy(), may
    return above & (scores > worst), may  # of equally good ones, any may be the last


def _anchors_of(image: _Image, rows: Array, may: Array) -> tuple[Array, str | None]:
    """Return the anchor of each row (R,) of one class, or say which one has none."""
    anchors: list[int] = []
    label = image.found_classes[rows[0]] if len(rows) else 0
    for row in rows:
        box = image.found_boxes[row]
        places = np.flatnonzero(may & (image.scores[label] == image.found_scores[row]))
        boxes = image.boxes[places]
        same = (boxes == box) | (np.isnan(boxes) & np.isnan(box))
        own = [int(place) for place in places[same.all(axis=1)]]
        free = [place for place in own if place not in anchors]
        if not free:
            why = "is there twice" if own else "is no box of this class that takes part"
            return np.array(anchors, dtype=np.int64), f"detection {row} {why}"
        anchors.append(free[0])
    return np.array(anchors, dtype=np.int64), None
