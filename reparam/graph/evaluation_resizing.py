"""Resize and Upsample, nearest, linear and cubic: one axis after the other."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np

from reparam.graph.evaluation_calls import Array, Call, Inputs, axis_within, given, integers, need

_ROUNDED: dict[str, Callable[[Array], Any]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    mode, how = _modes(call)
    for name, plain in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch")):
        if call.attributes.get(name, plain) != plain:
            raise call.refuse(f"with {name}")
    for axis, scale, size in _scaled(call, x, inputs):
        if scale == 1.0:
            continue
        at = _positions(call, how, x.shape[axis], size, scale)
        x = _along(call, x, at, axis, mode)
    return x


def _modes(call: Call) -> tuple[str, str]:
    mode = call.text("mode", "nearest")
    old = call.operator == "Upsample" or call.opset < 11
    if mode not in ("nearest", "linear", "cubic") or (old and mode == "cubic"):
        raise call.refuse(f"mode '{mode}'")
    return mode, "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")


def _scaled(call: Call, x: Array, inputs: Inputs) -> list[tuple[int, float, int]]:
    """Return axis, scale and new size of every axis that is named."""
    late = call.operator == "Resize" and call.opset >= 11
    scales, sizes = given(inputs, 2 if late else 1), given(inputs, 3) if late else None
    axes = [axis_within(call, a, x.ndim) for a in call.ints("axes", range(x.ndim))]
    if sizes is not None and sizes.size:
        wanted = integers(sizes)
        return [(a, n / x.shape[a], n) for a, n in zip(axes, wanted, strict=True)]
    if scales is None or not scales.size:
        raise call.refuse("without scales and without sizes")
    found = [float(scale) for scale in scales]
    return [(a, s, floor(x.shape[a] * s)) for a, s in zip(axes, found, strict=True)]


def _positions(call: Call, how: str, length: int, size: int, scale: float) -> Array:
    """Return where each new element lies among the old ones."""
    at = np.arange(size, dtype=np.float64)
    if how == "half_pixel":
        return (at + 0.5) / scale - 0.5
    if how == "pytorch_half_pixel":
        return (at + 0.5) / scale - 0.5 if size > 1 else 0 * at
    if how == "asymmetric":
        return at / scale
    if how == "align_corners":
        return at * (length - 1) / (size - 1) if size > 1 else 0 * at
    raise call.refuse(f"coordinates '{how}'")


def _along(call: Call, x: Array, at: Array, axis: int, mode: str) -> Array:
    last = x.shape[axis] - 1
    if mode == "nearest":
        default = "round_prefer_floor"
        name = call.text("nearest_mode", default) if call.opset >= 11 else "floor"
        if name not in _ROUNDED:
            raise call.refuse(f"nearest_mode '{name}'")
        nearest: Array = np.clip(_ROUNDED[name](at), 0, last).astype(np.int64)
        return x.take(nearest, axis=axis)
    if mode == "cubic":
        return _cubic(call, x, at, axis)
    at = np.clip(at, 0, last)
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, last)
    share = (at - below).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    found: Array = np.take(x, below, axis=axis) * (1 - share) + np.take(x, above, axis=axis) * share
    return found


def _cubic(call: Call, x: Array, at: Array, axis: int) -> Array:
    """Sum the four nearest elements, weighted by Keys' kernel; the border repeats.

    Source: Keys 1981, Cubic convolution interpolation for digital image processing.
    """
    a, last = call.float("cubic_coeff_a", -0.75), x.shape[axis] - 1
    first = np.floor(at).astype(np.int64) - 1
    taps = first + np.arange(4).reshape(-1, 1)  # (4, new size)
    off = np.abs(at - taps)
    near = ((a + 2) * off - (a + 3)) * off**2 + 1
    far = ((off - 5) * off + 8) * off * a - 4 * a
    weights = np.where(off <= 1, near, np.where(off < 2, far, 0.0))
    if call.int("exclude_outside", 0):
        weights = np.where((taps >= 0) & (taps <= last), weights, 0.0)
        weights = weights / weights.sum(axis=0)
    matrix = np.zeros((at.size, last + 1))
    rows = np.broadcast_to(np.arange(at.size), taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, last)), weights)
    found: Array = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return found
