"""Decoding in float64, and the bound on what float32 makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.detection.decoding import decode, rounding_bounds, sigmoid
from reparam.detection.records import Maps

MAPS = Maps((16, 8), 3, tuple(float(v) for v in range(6)))
SIZES = ((2, 3), (4, 6))


def drawn(seed: int, scale: float = 2.0, batch: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.normal(0.0, scale, (batch, channels, *size)).astype(np.float32)
        for size in SIZES
        for channels in (MAPS.classes, 4 * MAPS.bins)
    ]


def one_cell(array: np.ndarray, image: int, row: int, column: int, projection) -> list[float]:
    """Return the distances of one cell, written out bin by bin."""
    logits = array[image, :, row, column].astype(np.float64).reshape(4, -1)
    found = []
    for side in logits:
        weights = [np.exp(value - max(side)) for value in side]
        found.append(sum(w * p for w, p in zip(weights, projection, strict=True)) / sum(weights))
    return found


def test_each_cell_is_what_the_definition_says() -> None:
    arrays = drawn(0)
    boxes, scores = decode(MAPS, arrays)
    assert boxes.shape == (2, 30, 4)
    assert scores.shape == (2, 3, 30)
    anchor = 0
    for level, stride in enumerate(MAPS.strides):
        cls, reg = arrays[2 * level], arrays[2 * level + 1]
        for row in range(SIZES[level][0]):
            for column in range(SIZES[level][1]):
                left, top, right, bottom = one_cell(reg, 1, row, column, MAPS.projection)
                x, y = column + 0.5, row + 0.5
                expected = np.array([x - left, y - top, x + right, y + bottom]) * stride
                np.testing.assert_allclose(boxes[1, anchor], expected, rtol=1e-13, atol=1e-12)
                logits = cls[1, :, row, column].astype(np.float64)
                np.testing.assert_allclose(scores[1, :, anchor], 1 / (1 + np.exp(-logits)), 1e-14)
                anchor += 1


def test_a_certain_distribution_gives_its_bin() -> None:
    arrays = drawn(1)
    for array in arrays[1::2]:
        array[:] = 0
        for side, index in enumerate((0, 1, 2, 5)):
            array[:, side * MAPS.bins + index] = 500
    boxes, _ = decode(MAPS, arrays)
    np.testing.assert_array_equal(boxes[0, 0], [0.5 * 16, -0.5 * 16, 2.5 * 16, 5.5 * 16])


def test_the_projection_is_used_as_given() -> None:
    shifted = Maps(MAPS.strides, MAPS.classes, tuple(v - 2 for v in MAPS.projection))
    plain, _ = decode(MAPS, drawn(2))
    moved, _ = decode(shifted, drawn(2))
    strides = np.repeat(MAPS.strides, [6, 24])[None, :, None]
    np.testing.assert_allclose(moved - plain, 2 * strides * [1, 1, -1, -1] + 0 * plain, atol=1e-10)


def float32_decode(arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the same in float32, every step in another order than the reference takes."""
    boxes, scores = [], []
    for level, stride in enumerate(MAPS.strides):
        cls, reg = arrays[2 * level : 2 * level + 2]
        n, _, h, w = reg.shape
        logits = reg.reshape(n, 4, MAPS.bins, h * w)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        chances = weights / weights.sum(axis=2, keepdims=True)
        projection = np.float32(MAPS.projection)[None, None, :, None]
        left, top, right, bottom = np.moveaxis((chances * projection)[:, :, ::-1].sum(axis=2), 1, 0)
        y, x = np.mgrid[0:h, 0:w].reshape(2, -1).astype(np.float32) + np.float32(0.5)
        box = np.stack([x - left, y - top, x + right, y + bottom], axis=-1) * np.float32(stride)
        boxes.append(box)
        with np.errstate(over="ignore"):
            scores.append(1 / (1 + np.exp(-cls.reshape(n, MAPS.classes, -1))))
    assert boxes[0].dtype == scores[0].dtype == np.float32
    return np.concatenate(boxes, axis=1), np.concatenate(scores, axis=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 5.0, 30.0, 1e3]))
def test_float32_stays_under_the_bound(seed: int, scale: float) -> None:
    arrays = drawn(seed, scale)
    boxes, scores = decode(MAPS, arrays)
    box_bound, score_bound = rounding_bounds(MAPS, arrays)
    found_boxes, found_scores = float32_decode(arrays)
    assert (np.abs(found_boxes - boxes) <= box_bound).all()
    assert np.abs(found_scores - scores).max() <= score_bound


def test_the_bound_is_small() -> None:
    # 44 roundings of a distance of up to 5 strides, a little more where logits are far apart.
    box_bound, score_bound = rounding_bounds(MAPS, drawn(3))
    assert box_bound.max() < 16 * 5 * 44 * 2.0**-24
    assert score_bound < 17 * 2.0**-24


def test_sigmoid_overflows_nowhere() -> None:
    found = sigmoid(np.array([-1e4, -1.0, 0.0, 1.0, 1e4]))
    e = np.exp(-1.0)
    np.testing.assert_allclose(found, [0.0, e / (1 + e), 0.5, 1 / (1 + e), 1.0], rtol=1e-15)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays: arrays[:3], "3 maps; needed 4"),
        (lambda arrays: [a[:, 1:] if i == 2 else a for i, a in enumerate(arrays)], "cls_8"),
        (lambda arrays: [a[:, 1:] if i == 3 else a for i, a in enumerate(arrays)], "reg_8"),
        (lambda arrays: [a[..., 1:] if i == 1 else a for i, a in enumerate(arrays)], "reg_16"),
        (lambda arrays: [a[:1] if i == 2 else a for i, a in enumerate(arrays)], "cls_8"),
    ],
)
def test_arrays_that_are_not_the_maps_are_refused(change, match: str) -> None:
    for function in (decode, rounding_bounds):
        with pytest.raises(ValueError, match=match):
            function(MAPS, change(drawn(0)))
