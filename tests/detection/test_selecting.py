"""The plain reference of suppression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.detection.records import Selection
from reparam.detection.selecting import NO_CLASS, overlaps, select
from tests.detection.scenes import SELECTION, crowded

ROW = np.array([[[0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10], [50, 0, 60, 10]]], np.float32)


def scores_of(*classes: list[float]) -> np.ndarray:
    return np.array([classes], dtype=np.float32)


def test_overlaps_by_hand() -> None:
    found = overlaps(ROW[0], ROW[0])
    expected = np.array([[1, 8 / 12, 6 / 14, 0], [8 / 12, 1, 8 / 12, 0], [6 / 14, 8 / 12, 1, 0]])
    np.testing.assert_allclose(found[:3], expected, rtol=1e-15)


def test_boxes_without_area_or_numbers_overlap_nothing() -> None:
    odd = np.array([[0, 0, 0, 10], [np.nan, 0, 10, 10], [0, 0, np.inf, 10]], np.float64)
    assert not overlaps(odd, ROW[0])[:2].any()
    assert not np.nan_to_num(overlaps(odd, ROW[0])[2], nan=1.0).any()


def test_corners_may_be_swapped() -> None:
    np.testing.assert_array_equal(
        overlaps(ROW[0][:, [2, 1, 0, 3]], ROW[0]), overlaps(ROW[0], ROW[0])
    )


def test_a_suppressed_box_suppresses_nothing() -> None:
    found = select(ROW, scores_of([0.9, 0.8, 0.7, 0.6]), Selection(0.1, 0.5, 5))
    assert found.count.tolist() == [3]
    np.testing.assert_array_equal(found.boxes[0, :3], ROW[0, [0, 2, 3]])
    np.testing.assert_allclose(found.scores[0], [0.9, 0.7, 0.6, 0, 0], rtol=1e-6)
    assert found.classes[0].tolist() == [0, 0, 0, NO_CLASS, NO_CLASS]
    assert not found.boxes[0, 3:].any()


def test_classes_do_not_suppress_each_other() -> None:
    found = select(ROW, scores_of([0.9, 0, 0, 0], [0, 0.8, 0, 0]), Selection(0.1, 0.5, 5))
    assert found.classes[0, :2].tolist() == [0, 1]


def test_thresholds_are_strict() -> None:
    half = scores_of([0.5, 0.75, 0, 0])
    assert select(ROW, half, Selection(0.5, 0.9, 5)).count.tolist() == [1]
    quarter = np.array([[[0, 0, 4, 4], [0, 0, 2, 2]]], np.float32)  # the overlap is 1 / 4, exactly
    scores = scores_of([0.9, 0.8])
    assert select(quarter, scores, Selection(0.1, 0.25, 5)).count.tolist() == [2]
    assert select(quarter, scores, Selection(0.1, 0.249, 5)).count.tolist() == [1]


def test_candidates_are_counted_before_and_the_best_after() -> None:
    scores = scores_of([0.9, 0.8, 0.7, 0.6])
    assert select(ROW, scores, Selection(0.1, 0.5, 5, candidates=2)).count.tolist() == [1]
    assert select(ROW, scores, Selection(0.1, 0.5, 2)).count.tolist() == [2]


def test_each_image_is_by_itself() -> None:
    boxes, scores = crowded(1)
    together = select(boxes, scores, SELECTION)
    assert together.count[1] == 0
    for image in range(3):
        alone = select(boxes[image : image + 1], scores[image : image + 1], SELECTION)
        np.testing.assert_array_equal(together.boxes[image], alone.boxes[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 0.6]))
def test_selecting_again_changes_nothing(seed: int, threshold: float) -> None:
    boxes, scores = crowded(seed, images=1)
    chosen = replace(SELECTION, iou_threshold=threshold, top_k=200)
    first = select(boxes, scores, chosen)
    again = np.zeros((1, 3, 200), np.float32)
    rows = np.arange(first.count[0])
    again[0, first.classes[0, rows], rows] = first.scores[0, rows]
    second = select(first.boxes, again, chosen)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.classes, second.classes)
