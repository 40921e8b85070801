"""What the maps of a detector say, in float64: a box and a score of each class for every cell.

    cls (N, C, H, W) -- sigmoid ------------------------------------------- scores (N, C, A)
    reg (N, 4 * bins, H, W) -- softmax over the bins -- mean -- centre -+ -- boxes (N, A, 4)

A is the cells of all maps, map after map and row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.conv.bounds import SMALLEST_NORMAL, gamma
from reparam.detection.records import Maps

Array = npt.NDArray[Any]

EXP_ROUNDINGS = 4
"""Roundings that a runtime's float32 exponential is worth; the good ones are within two."""

SIGMOID_ROUNDINGS = 16
"""Roundings of a float32 sigmoid, relative to 1 and not to its value: runtimes compute it as
1/2 + p(x) / q(x), where both polynomials take about six products and sums each."""

_SIDES = np.array([-1.0, -1.0, 1.0, 1.0])


def decode(maps: Maps, arrays: Sequence[Array]) -> tuple[Array, Array]:
    """Return the boxes and the scores that maps stand for.

        distance = sum(projection * softmax(reg over its bins))     left, top, right, bottom
        box = stride * (centre -+ distance)                         centre = (column, row) + 0.5

    Args:
        arrays: cls (N, C, H, W) and reg (N, 4 * bins, H, W) for each stride, in order.

    Returns:
        Boxes (N, A, 4), x1 y1 x2 y2 in pixels of the input, and scores (N, C, A), in float64.

    Raises:
        ValueError: the arrays are not what ``maps`` says.

    Source: Li et al. 2020, Generalized Focal Loss (arXiv 2006.04388), section 3.1.
    """
    require_maps(maps, arrays)
    pairs = list(zip(maps.strides, arrays[::2], arrays[1::2], strict=True))
    boxes = [_boxes(maps, reg, stride) for stride, _, reg in pairs]
    scores = [sigmoid(_flat(cls)) for _, cls, _ in pairs]
    return np.concatenate(boxes, axis=1), np.concatenate(scores, axis=2)


def rounding_bounds(maps: Maps, arrays: Sequence[Array]) -> tuple[Array, float]:
    """Return by how much right float32 boxes and scores may differ from those of ``decode``.

    With p the probabilities, d their logits less the largest one and n the bins, a probability is
    off by the factor 1 + gamma(|d| + EXP_ROUNDINGS + n + 1): of the subtraction, the exponential,
    the sum and the division. The mean adds n, its scaling and its sum with the centre two:

        stride * sum(p * |projection| * gamma(|d| + EXP_ROUNDINGS + 2n + 2))
        + gamma(2) * (stride * distance + |centre|)

    and probabilities below the smallest normal may be zero.

    Returns:
        Of the boxes, (N, A, 4), and of all scores.

    Raises:
        ValueError: the arrays are not what ``maps`` says.
    """
    require_maps(maps, arrays)
    pairs = zip(maps.strides, arrays[1::2], strict=True)
    bounds = np.concatenate([_box_bound(maps, reg, stride) for stride, reg in pairs], axis=1)
    return bounds, gamma(SIGMOID_ROUNDINGS, "float32")


def require_maps(maps: Maps, arrays: Sequence[Array]) -> None:
    """Refuse arrays that are not the maps of ``maps``.

    Raises:
        ValueError: another number of them, or a shape that does not fit.
    """
    if len(arrays) != len(maps.names):
        raise ValueError(f"{len(arrays)} maps; needed {len(maps.names)}")
    for name, array, (cls, _) in zip(maps.names, arrays, _paired(arrays), strict=True):
        channels = maps.classes if name.startswith("cls") else 4 * maps.bins
        needed = (arrays[0].shape[0], channels, *cls.shape[2:])
        if array.ndim != 4 or array.shape != needed:
            raise ValueError(f"map '{name}' has shape {array.shape}; needed {needed}")


def centres(height: int, width: int) -> Array:
    """Return the centres (H * W, 2) of cells, x and y in strides, row after row."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) in float64, without overflow."""
    exact = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(exact))
    return np.where(exact >= 0, 1.0, small) / (1.0 + small)


def _paired(arrays: Sequence[Array]) -> list[tuple[Array, Array]]:
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return [pair for pair in pairs for _ in range(2)]


def _flat(array: Array) -> Array:
    return array.reshape(*array.shape[:2], -1)


def _probabilities(maps: Maps, reg: Array) -> tuple[Array, Array]:
    """Return probabilities and shifted logits, both (N, H * W, 4, bins)."""
    count, _, height, width = reg.shape
    logits = reg.astype(np.float64).reshape(count, 4, maps.bins, height * width)
    logits = logits.transpose(0, 3, 1, 2)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    return weights / weights.sum(axis=-1, keepdims=True), shifted


def _boxes(maps: Maps, reg: Array, stride: int) -> Array:
    probabilities, _ = _probabilities(maps, reg)
    distances = probabilities @ np.asarray(maps.projection)
    centre = np.tile(centres(*reg.shape[2:]), 2)
    boxes: Array = (centre + _SIDES * distances) * stride
    return boxes


def _box_bound(maps: Maps, reg: Array, stride: int) -> Array:
    probabilities, shifted = _probabilities(maps, reg)
    weight = np.abs(np.asarray(maps.projection))
    roundings = np.minimum(-shifted, 1e4) + EXP_ROUNDINGS + 2 * maps.bins + 2
    distance = probabilities @ weight
    moved = (probabilities * _gamma(roundings)) @ weight
    flushed = SMALLEST_NORMAL["float32"] * float(weight.sum())
    centre = np.tile(centres(*reg.shape[2:]), 2)
    bound: Array = stride * (moved + flushed + gamma(2, "float32") * (distance + centre))
    return bound


def _gamma(n: Array) -> Array:
    per = gamma(1, "float32")
    return n * per / (1.0 - n * per)
