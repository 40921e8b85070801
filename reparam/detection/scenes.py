"""Made-up maps of a detector that show what its decoding and selection do.

Three kinds of images: ``CROWDED``, with more boxes than are kept, most of them overlapped;
``EMPTY``; and ``SPARSE``, with few boxes and, among them, scores right beside the threshold and
overlaps right beside theirs, so that another threshold gives another answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.detection.records import Maps, Selection

Array = npt.NDArray[Any]
Sizes = Sequence[tuple[int, int]]

CROWDED, EMPTY, SPARSE = "crowded", "empty", "sparse"

BESIDE = 2e-3
"""How far from a threshold what is right beside it is, relative to it. Rounding is a hundredth."""

_BACKGROUND = -6.0  # logits below the threshold's
_FEW = 24


@dataclass(frozen=True)
class _Canvas:
    """The maps of one image while they are filled: classes (C, A), distances (A, 4, bins)."""

    maps: Maps
    sizes: Sizes
    selection: Selection
    logits: Array
    distributions: Array

    def first(self, level: int) -> int:
        """Return the number of the first cell of a level."""
        return sum(height * width for height, width in self.sizes[:level])


def made_up_maps(
    maps: Maps, sizes: Sizes, selection: Selection, kinds: Sequence[str], seed: int
) -> list[Array]:
    """Return maps of a batch of images, float32, in the order of ``maps.names``.

    Args:
        sizes: (H, W) of the maps of each stride.
        selection: whose thresholds the images are made for.
        kinds: of each image.
    """
    images = [_image(maps, sizes, selection, kind, seed + n) for n, kind in enumerate(kinds)]
    arrays = []
    for level, (height, width) in enumerate(sizes):
        start = images[0].first(level)
        cells = slice(start, start + height * width)
        cls = [image.logits[:, cells].reshape(-1, height, width) for image in images]
        reg = [
            image.distributions[cells].transpose(1, 2, 0).reshape(-1, height, width)
            for image in images
        ]
        arrays += [np.stack(cls).astype(np.float32), np.stack(reg).astype(np.float32)]
    return arrays


def extreme_maps(maps: Maps, sizes: Sizes, batch: int, seed: int) -> list[Array]:
    """Return maps of logits whose exponentials overflow and vanish, beside common ones."""
    rng = np.random.default_rng(seed)
    levels = np.array([0.0, 1.0, -1.0, 20.0, -20.0, 90.0, -90.0, 1e4, -1e4])
    arrays = []
    for height, width in sizes:
        for channels in (maps.classes, 4 * maps.bins):
            shape = (batch, channels, height, width)
            values = rng.choice(levels, shape) + rng.normal(0.0, 0.5, shape)
            arrays.append(values.astype(np.float32))
    return arrays


def _image(maps: Maps, sizes: Sizes, selection: Selection, kind: str, seed: int) -> _Canvas:
    rng = np.random.default_rng(seed)
    anchors = sum(height * width for height, width in sizes)
    logits = rng.normal(_BACKGROUND, 0.5, (maps.classes, anchors)) + _limit(selection)
    distributions = rng.normal(0.0, 1.0, (anchors, 4, maps.bins))
    peaks = rng.integers(0, maps.bins, (anchors, 4, 1))
    np.put_along_axis(distributions, peaks, 5.0, axis=2)
    canvas = _Canvas(maps, sizes, selection, logits, distributions)
    if kind == CROWDED:
        _crowd(canvas, rng)
    elif kind == SPARSE:
        _spread(canvas, rng)
        _beside_score(canvas)
        _beside_overlap(canvas)
    return canvas


def _limit(selection: Selection) -> float:
    score = min(max(selection.score_threshold, 1e-6), 1 - 1e-6)
    return float(np.log(score / (1 - score)))


def _crowd(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Add many boxes: of all classes and places, and one class in every cell of its level."""
    classes, anchors = canvas.logits.shape
    many = min(4 * canvas.selection.top_k + 64, classes * anchors)
    places = rng.choice(classes * anchors, many, replace=False)
    canvas.logits.reshape(-1)[places] = _limit(canvas.selection) + rng.uniform(0.1, 8.0, many)
    wanted = canvas.selection.candidates or 0
    crowd = min(anchors, wanted + anchors // 8)
    cells = rng.choice(anchors, crowd, replace=False)
    canvas.logits[classes - 1, cells] = _limit(canvas.selection) + rng.uniform(0.1, 8.0, crowd)


def _spread(canvas: _Canvas, rng: np.random.Generator) -> None:
    classes, anchors = canvas.logits.shape
    few = min(_FEW, canvas.selection.top_k // 4, anchors)
    cells = rng.choice(anchors, few, replace=False)
    labels = rng.integers(0, classes, few)
    canvas.logits[labels, cells] = _limit(canvas.selection) + rng.uniform(0.5, 8.0, few)


def _beside_score(canvas: _Canvas) -> None:
    """Give two cells of the middle level a score right above and right below the threshold."""
    level = len(canvas.sizes) // 2
    height, width = canvas.sizes[level]
    threshold = canvas.selection.score_threshold
    if threshold == 0:
        return
    for cell, factor in ((0, 1 + BESIDE), (height * width - 1, 1 - BESIDE)):
        score = threshold * factor
        logit = np.log(score / (1 - score)) if score < 1 else 18.0
        canvas.logits[:, canvas.first(level) + cell] = _limit(canvas.selection) + _BACKGROUND
        canvas.logits[0, canvas.first(level) + cell] = logit


def _beside_overlap(canvas: _Canvas) -> None:
    """Add two pairs of boxes that overlap by right below and right above the threshold."""
    threshold = canvas.selection.iou_threshold
    last = len(canvas.sizes) - 1
    for level, factor in ((0, 1 - BESIDE), (last, 1 + BESIDE)):
        if 0 < threshold * factor < 1:
            _pair(canvas, level, threshold * factor)


def _pair(canvas: _Canvas, level: int, overlap: float) -> None:
    """Add two equal boxes of class 0, one shifted to the right so that they overlap as asked.

    Boxes of width w that are shifted by t overlap by (w - t) / (w + t).
    """
    low, high = min(canvas.maps.projection), max(canvas.maps.projection)
    half = low + 0.45 * (high - low)
    shift = 2 * half * (1 - overlap) / (1 + overlap)
    height, width = canvas.sizes[level]
    columns = min(max(round(shift), 1), width - 1)
    rest = columns - shift  # the second cell lies this much further than its box does
    if half <= 0 or columns < 1 or not low <= half - abs(rest) <= half + abs(rest) <= high:
        return
    start = canvas.first(level) + (height // 2) * width
    best = 4.0 - 0.3 * level  # no two scores are equal
    pair = ((0, half, half, best), (columns, half + rest, half - rest, best - 1))
    for cell, left, right, score in pair:
        canvas.logits[:, start + cell] = _limit(canvas.selection) + _BACKGROUND
        canvas.logits[0, start + cell] = _limit(canvas.selection) + score
        for side, distance in enumerate((left, half, right, half)):
            canvas.distributions[start + cell, side] = _peaked(canvas.maps, distance)


def _peaked(maps: Maps, distance: float) -> Array:
    """Return logits (bins,) of a distribution with that mean, over the two bins around it."""
    values = np.asarray(maps.projection)
    below = int(np.argmax(np.where(values <= distance, values, -np.inf)))
    above = int(np.argmin(np.where(values >= distance, values, np.inf)))
    logits = np.full(maps.bins, -40.0)
    if below == above:
        logits[below] = 0.0
        return logits
    part = (distance - values[below]) / (values[above] - values[below])
    logits[below], logits[above] = np.log([1 - part, part])
    return logits
