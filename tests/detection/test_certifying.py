"""What certifies detections: right ones pass, every wrong way of selecting is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.detection.certifying import certify
from reparam.detection.records import Selection
from reparam.detection.selecting import Detections, overlaps, select
from tests.detection.scenes import SELECTION, crowded

SELECTIONS = [
    SELECTION,
    replace(SELECTION, top_k=200),
    replace(SELECTION, top_k=200, candidates=7),
    replace(SELECTION, top_k=5),
    replace(SELECTION, iou_threshold=0.0),
    replace(SELECTION, iou_threshold=1.0, score_threshold=0.0, top_k=7),
]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SELECTIONS))
def test_the_reference_is_certified(seed: int, selection: Selection) -> None:
    boxes, scores = crowded(seed)
    assert certify(boxes, scores, selection, select(boxes, scores, selection)) is None


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SELECTIONS))
def test_equal_scores_may_go_either_way(seed: int, selection: Selection) -> None:
    boxes, scores = crowded(seed)
    coarse = np.round(scores * 8) / np.float32(8)
    order = np.random.default_rng(seed).permutation(boxes.shape[1])
    shuffled = select(boxes[:, order], coarse[:, :, order], selection)
    assert certify(boxes, coarse, selection, shuffled) is None


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_overlaps_within_rounding_may_go_either_way(seed: int) -> None:
    """The threshold is an overlap that occurs; float32 sees it above or below."""
    boxes, scores = crowded(seed, images=1, classes=1)
    found = np.unique(overlaps(boxes[0], boxes[0]))
    middle = float(found[(found > 0.2) & (found < 0.8)][len(found) // 4])
    for threshold in (middle * (1 - 2e-7), middle, middle * (1 + 2e-7)):
        answer = select(boxes, scores, replace(SELECTION, iou_threshold=threshold))
        selection = replace(SELECTION, iou_threshold=middle)
        assert certify(boxes, scores, selection, answer) is None


def test_equal_boxes_with_equal_scores_are_told_apart() -> None:
    boxes = np.tile(np.float32([0, 0, 10, 10]), (1, 3, 1))
    scores = np.full((1, 1, 3), 0.5, np.float32)
    selection = Selection(0.1, 1.0, 4)
    found = select(boxes, scores, selection)
    assert found.count.tolist() == [3]
    assert certify(boxes, scores, selection, found) is None
    more = edited(found, lambda rows: rows[[0, 0, 1, 2]])
    assert "detection 3 is there twice" in str(certify(boxes, scores, selection, more))


def test_boxes_that_are_no_numbers_are_compared() -> None:
    boxes, scores = crowded(3)
    boxes[0, :5, 0] = np.nan
    found = select(boxes, scores, SELECTION)
    assert certify(boxes, scores, SELECTION, found) is None


def edited(found: Detections, change: Callable[[np.ndarray], np.ndarray]) -> Detections:
    """Return detections whose rows (class, score, box) of the first image are others."""
    n, k = found.count[0], found.scores.shape[1]
    rows = np.column_stack([found.classes[0, :n], found.scores[0, :n], found.boxes[0, :n]])
    rows = change(rows.astype(np.float64))
    boxes, scores, classes = found.boxes.copy(), found.scores.copy(), found.classes.copy()
    count = found.count.copy()
    boxes[0], scores[0], classes[0], count[0] = 0, 0, -1, len(rows)
    size = min(len(rows), k)
    boxes[0, :size], scores[0, :size] = rows[:size, 2:], rows[:size, 1]
    classes[0, :size] = rows[:size, 0]
    return Detections(boxes, scores, classes, count)


def wrong_threshold(boxes, scores, selection: Selection) -> Detections:
    return select(boxes, scores, replace(selection, iou_threshold=selection.iou_threshold + 0.02))


def wrong_threshold_below(boxes, scores, selection: Selection) -> Detections:
    return select(boxes, scores, replace(selection, iou_threshold=selection.iou_threshold - 0.02))


def wrong_score(boxes, scores, selection: Selection) -> Detections:
    return select(boxes, scores, replace(selection, score_threshold=0.3))


def wrong_score_below(boxes, scores, selection: Selection) -> Detections:
    return select(boxes, scores, replace(selection, score_threshold=0.2))


def class_agnostic(boxes, scores, selection: Selection) -> Detections:
    best = scores.max(axis=1, keepdims=True)
    found = select(boxes, best, selection)
    classes = found.classes.copy()
    for image, row in np.argwhere(found.classes >= 0):
        at = np.argwhere(scores[image] == found.scores[image, row])[0]
        classes[image, row] = at[0]
    return replace(found, classes=classes)


def with_one_pixel_more(boxes, scores, selection: Selection) -> Detections:
    """Suppress by overlaps of boxes whose sides count one pixel more."""
    larger = boxes + np.float32([0, 0, 1, 1])
    found = select(larger, scores, selection)
    back = found.boxes - np.float32([0, 0, 1, 1])
    back[found.classes < 0] = 0
    exact = [snapped(back[image], boxes[image]) for image in range(len(boxes))]
    return replace(found, boxes=np.stack(exact))


def snapped(found: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return found boxes as the nearest of the given ones, without the rounding on the way."""
    nearest = np.abs(found[:, None] - boxes[None]).max(axis=-1).argmin(axis=1)
    return np.where(found.any(axis=1, keepdims=True), boxes[nearest], 0).astype(np.float32)


def suppressed_suppress(boxes, scores, selection: Selection) -> Detections:
    """Let boxes that were suppressed themselves suppress others."""
    masked = scores.copy()
    for image in range(len(boxes)):
        for label in range(scores.shape[1]):
            shared = overlaps(boxes[image], boxes[image]) > selection.iou_threshold
            own = scores[image, label]
            better = (own[None] > own[:, None]) & (own[None] > selection.score_threshold)
            masked[image, label, (shared & better).any(axis=1)] = 0
    return select(boxes, masked, replace(selection, iou_threshold=1.0))


def all_candidates(boxes, scores, selection: Selection) -> Detections:
    return select(boxes, scores, replace(selection, candidates=None))


def fewer_candidates(boxes, scores, selection: Selection) -> Detections:
    return select(boxes, scores, replace(selection, candidates=9))


def swapped_axes(boxes, scores, selection: Selection) -> Detections:
    found = select(boxes, scores, selection)
    return replace(found, boxes=found.boxes[..., [1, 0, 3, 2]])


def swapped_images(boxes, scores, selection: Selection) -> Detections:
    found = select(boxes, scores, selection)
    order = [2, 1, 0]
    return Detections(
        found.boxes[order], found.scores[order], found.classes[order], found.count[order]
    )


def rows_changed(change: Callable[[np.ndarray], np.ndarray]):
    def version(boxes, scores, selection: Selection) -> Detections:
        return edited(select(boxes, scores, selection), change)

    return version


def field_changed(name: str, value: float, at: tuple[int, ...]):
    def version(boxes, scores, selection: Selection) -> Detections:
        found = select(boxes, scores, selection)
        array = getattr(found, name).copy()
        array[at] = value
        return replace(found, **{name: array})

    return version


def reclassed(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([(rows[:, 0] + 1) % 3, rows[:, 1:]])


def nudged(rows: np.ndarray) -> np.ndarray:
    rows[0, 2] = np.nextafter(np.float32(rows[0, 2]), np.float32(np.inf))
    return rows


FULL = replace(SELECTION, top_k=200)
FEW = replace(SELECTION, top_k=200, candidates=10)
WRONG = {
    "a larger overlap allowed": (wrong_threshold, FULL, "overlap by"),
    "a smaller overlap allowed": (wrong_threshold_below, FULL, "is missing"),
    "scores from higher on": (wrong_score, FULL, "is missing"),
    "scores from lower on": (wrong_score_below, FULL, "not above the threshold"),
    "classes suppress each other": (class_agnostic, FULL, "is missing"),
    "sides one pixel longer": (with_one_pixel_more, FULL, "is missing"),
    "the suppressed suppress": (suppressed_suppress, FULL, "is missing"),
    "all take part": (all_candidates, FEW, "no box of this class that takes part"),
    "fewer take part": (fewer_candidates, FEW, "is missing"),
    "x and y swapped": (swapped_axes, FULL, "no box of this class"),
    "images swapped": (swapped_images, FULL, "no box of this class"),
    "classes shifted": (rows_changed(reclassed), FULL, "no box of this class"),
    "unsorted": (rows_changed(lambda r: r[::-1]), FULL, "order of their scores"),
    "the first dropped": (rows_changed(lambda r: r[1:]), FULL, "is missing"),
    "one dropped": (rows_changed(lambda r: np.delete(r, 4, axis=0)), FULL, "is missing"),
    "the last dropped": (rows_changed(lambda r: r[:-1]), FULL, "is missing"),
    "one dropped of the best": (
        rows_changed(lambda r: np.delete(r, 4, axis=0)),
        replace(SELECTION, top_k=8),
        "is missing",
    ),
    "one there twice": (rows_changed(lambda r: r[[0, 0, *range(1, len(r))]]), FULL, "there twice"),
    "a box off by one rounding": (rows_changed(nudged), FULL, "no box of this class"),
    "an unknown class": (field_changed("classes", 3, (0, 0)), FULL, "has class 3; there are 3"),
    "no class": (field_changed("classes", -1, (0, 0)), FULL, "has class -1"),
    "a count too high": (field_changed("count", 5, (1,)), FULL, "not above the threshold"),
    "a count too low": (field_changed("count", 3, (0,)), FULL, "are not zero"),
    "a count out of range": (field_changed("count", 201, (0,)), FULL, "201 detections"),
    "a negative count": (field_changed("count", -1, (0,)), FULL, "-1 detections"),
    "padding with a box": (field_changed("boxes", 1, (1, 5, 2)), FULL, "are not zero"),
    "padding with a score": (field_changed("scores", 1, (1, 5)), FULL, "are not zero"),
    "padding with a class": (field_changed("classes", 0, (1, 5)), FULL, "that is not -1"),
    "a score of NaN": (field_changed("scores", np.nan, (0, 0)), FULL, "not above the threshold"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ways_of_selecting_are_told(name: str) -> None:
    version, selection, words = WRONG[name]
    boxes, scores = crowded(11)
    assert certify(boxes, scores, selection, select(boxes, scores, selection)) is None
    wrong = certify(boxes, scores, selection, version(boxes, scores, selection))
    assert wrong is not None
    assert words in wrong


def test_a_strict_overlap_threshold_is_not_told_from_one_that_is_not() -> None:
    """Right on the threshold, rounding decides, and both answers are right ones."""
    boxes = np.array([[[0, 0, 4, 4], [0, 0, 2, 2]]], np.float32)
    scores = np.array([[[0.9, 0.8]]], np.float32)
    on_it = Selection(0.1, 0.25, 5)
    for other in (0.2499, 0.25):
        found = select(boxes, scores, replace(on_it, iou_threshold=other))
        assert certify(boxes, scores, on_it, found) is None


def test_a_score_on_the_threshold_is_below() -> None:
    boxes = np.array([[[0, 0, 4, 4], [10, 10, 12, 12]]], np.float32)
    scores = np.array([[[0.9, 0.5]]], np.float32)
    strict = Selection(0.5, 0.5, 5)
    kept = select(boxes, scores, replace(strict, score_threshold=0.499))
    assert kept.count.tolist() == [2]
    assert "not above" in str(certify(boxes, scores, strict, kept))


def test_another_number_of_places_is_told() -> None:
    boxes, scores = crowded(0)
    found = select(boxes, scores, replace(SELECTION, top_k=31))
    assert "'boxes' has shape (3, 31, 4); needed (3, 30, 4)" in str(
        certify(boxes, scores, SELECTION, found)
    )
