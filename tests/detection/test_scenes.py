"""Made-up maps show what they are made to show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reparam.detection.decoding import decode
from reparam.detection.records import Maps, Selection
from reparam.detection.scenes import BESIDE, CROWDED, EMPTY, SPARSE, extreme_maps, made_up_maps
from reparam.detection.selecting import overlaps, select

MAPS = Maps((32, 16, 8), 3, tuple(float(value) for value in range(17)))
SIZES = ((5, 6), (10, 12), (20, 24))
SELECTION = Selection(score_threshold=0.1, iou_threshold=0.6, top_k=40)


def shown(kinds: list[str], selection: Selection = SELECTION, maps: Maps = MAPS):
    return decode(maps, made_up_maps(maps, SIZES, selection, kinds, seed=0))


def test_maps_have_the_shapes_of_a_network() -> None:
    arrays = made_up_maps(MAPS, SIZES, SELECTION, [SPARSE, EMPTY], seed=0)
    assert [a.shape[:2] for a in arrays] == [(2, 3), (2, 68)] * 3
    assert [a.shape[2:] for a in arrays[::2]] == list(SIZES)
    assert all(array.dtype == np.float32 for array in arrays)
    again = made_up_maps(MAPS, SIZES, SELECTION, [SPARSE, EMPTY], seed=0)
    other = made_up_maps(MAPS, SIZES, SELECTION, [SPARSE, EMPTY], seed=1)
    for one, same, different in zip(arrays, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != different).any()


@pytest.mark.parametrize("classes", [1, 3, 80])
@pytest.mark.parametrize("threshold", [0.01, 0.5])
def test_a_crowd_is_cut_an_empty_image_is_empty(classes: int, threshold: float) -> None:
    selection = replace(SELECTION, score_threshold=threshold)
    maps = replace(MAPS, classes=classes)
    boxes, scores = shown([CROWDED, EMPTY, SPARSE], selection, maps)
    found = select(boxes, scores, replace(selection, top_k=10**4))
    above = (scores > threshold).sum(axis=(1, 2))
    assert above[0] > found.count[0] > selection.top_k  # some suppressed, some cut off
    assert above[1] == found.count[1] == 0
    assert 0 < found.count[2] < above[2] < selection.top_k
    some = scores[scores > threshold]
    assert len(np.unique(some)) == len(some)


def test_scores_and_overlaps_lie_beside_their_thresholds() -> None:
    boxes, scores = shown([SPARSE])
    near = np.abs(scores / SELECTION.score_threshold - 1)
    near_scores = scores[near < 1.01 * BESIDE]
    assert sorted(near_scores > SELECTION.score_threshold) == [False, True]
    taking = boxes[0, (scores[0, 0] > SELECTION.score_threshold)]
    shared = overlaps(taking, taking)
    close = shared[np.abs(shared / SELECTION.iou_threshold - 1) < 1.01 * BESIDE]
    assert sorted(close > SELECTION.iou_threshold) == [False, False, True, True]  # each both ways


def test_a_crowd_has_more_boxes_of_a_class_than_may_take_part() -> None:
    selection = replace(SELECTION, candidates=100)
    _, scores = shown([CROWDED], selection)
    assert (scores[0] > selection.score_threshold).sum(axis=1).max() > 100


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_there_are_scenes_for_any_selection(threshold: float) -> None:
    selection = Selection(min(threshold, 0.99), threshold, 3, 2)
    for maps in (MAPS, Maps((32, 16, 8), 1, (0.0, 1.0)), Maps((32, 16, 8), 1, (-1.0, 0.5))):
        for sizes in (SIZES, ((1, 1), (1, 2), (2, 4))):
            arrays = made_up_maps(maps, sizes, selection, [CROWDED, EMPTY, SPARSE], seed=3)
            assert all(np.isfinite(array).all() for array in arrays)


def test_extreme_maps_are_finite_and_reach_far() -> None:
    arrays = extreme_maps(MAPS, SIZES, 2, seed=0)
    assert all(np.isfinite(array).all() for array in arrays)
    assert arrays[0].max() > 9e3
    assert arrays[0].min() < -9e3
