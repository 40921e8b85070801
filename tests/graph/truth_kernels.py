"""Convolutions and pooling of the tests in float64, a tap at a time."""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import Any

import numpy as np

from tests.graph.truth import Array, Attributes, Quantity


def _geometry(attributes: Attributes, x: Array, kernel: tuple[int, ...]) -> tuple[Any, Any, Any]:
    axes = x.ndim - 2
    stride = attributes.get("strides", [1] * axes)
    dilation = attributes.get("dilations", [1] * axes)
    pads = list(attributes.get("pads", [0] * 2 * axes))
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    if automatic.startswith("SAME"):
        for axis in range(axes):
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            outputs = ceil(x.shape[2 + axis] / stride[axis])
            total = max((outputs - 1) * stride[axis] + reach - x.shape[2 + axis], 0)
            small = total // 2
            first = small if automatic == "SAME_UPPER" else total - small
            pads[axis], pads[axis + axes] = first, total - first
    return stride, dilation, [(pads[axis], pads[axis + axes]) for axis in range(axes)]


def _windows(x: Array, kernel: tuple[int, ...], stride: Any, dilation: Any, sizes: Any = None):
    """Yield each tap and the values of padded ``x`` (N, C, ...) it meets, one an output."""
    outputs = sizes or [
        (x.shape[2 + a] - (kernel[a] - 1) * dilation[a] - 1) // stride[a] + 1
        for a in range(len(kernel))
    ]
    for tap in product(*(range(k) for k in kernel)):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        cut = tuple(
            slice(first, first + s * (n - 1) + 1, s)
            for first, s, n in zip(starts, stride, outputs, strict=True)
        )
        yield tap, x[(..., *cut)]


def conv(attributes: Attributes, opset: int, x: Array, weight: Array, bias: Any = None) -> Array:
    kernel, groups = weight.shape[2:], attributes.get("group", 1)
    if x.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"{x.shape[1]} channels, weight {weight.shape}, {groups} groups")
    stride, dilation, pads = _geometry(attributes, x, kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    total: Any = 0.0
    for tap, window in _windows(padded, kernel, stride, dilation):
        part = window.reshape(len(x), groups, weight.shape[1], -1)
        total = total + by_group[(..., *tap)] @ part
        shape = window.shape[2:]
    y = total.reshape(len(x), -1, *shape)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(kernel))


def conv_transpose(
    attributes: Attributes, opset: int, x: Array, weight: Array, bias: Any = None
) -> Array:
    kernel, groups = weight.shape[2:], attributes.get("group", 1)
    stride, dilation, pads = _geometry(attributes, x, kernel)
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{x.shape[1]} channels, weight {weight.shape}")
    more = attributes.get("output_padding", [0] * len(kernel))
    full = [
        (n - 1) * s + (k - 1) * d + 1 + extra
        for n, s, k, d, extra in zip(x.shape[2:], stride, kernel, dilation, more, strict=True)
    ]
    outputs = weight.shape[1] * groups
    y = np.zeros((len(x), outputs, *full))
    by_group = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    flat = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    for tap in product(*(range(k) for k in kernel)):
        part = (by_group[(..., *tap)] @ flat).reshape(len(x), outputs, *x.shape[2:])
        cut = tuple(
            slice(t * d, t * d + s * (n - 1) + 1, s)
            for t, d, s, n in zip(tap, dilation, stride, x.shape[2:], strict=True)
        )
        y[(..., *cut)] += part
    crop = tuple(slice(b, n - a) for (b, a), n in zip(pads, full, strict=True))
    y = y[(..., *crop)]
    return y if bias is None else y + bias.reshape(-1, *[1] * len(kernel))


def _pool(attributes: Attributes, x: Array, fill: float) -> tuple[Array, list[Array]]:
    """Return how many positions each output counts, and the values at each tap."""
    kernel = tuple(attributes["kernel_shape"])
    stride, dilation, pads = _geometry(attributes, x, kernel)
    inside = np.pad(np.ones_like(x), [(0, 0), (0, 0), *pads], constant_values=float(
        attributes.get("count_include_pad", 0)))  # fmt: skip
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    rounding = ceil if attributes.get("ceil_mode", 0) else int
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = []
    for axis, size in enumerate(padded.shape[2:]):
        count = rounding((size - reach[axis]) / stride[axis]) + 1
        last = (count - 1) * stride[axis]  # a window that would start in the padding is left out
        count -= attributes.get("ceil_mode", 0) and last >= size - pads[axis][1]
        sizes.append(count)
    over = [
        (0, max(0, (n - 1) * s + r - size))
        for n, s, r, size in zip(sizes, stride, reach, padded.shape[2:], strict=True)
    ]
    inside = np.pad(inside, [(0, 0), (0, 0), *over])
    padded = np.pad(padded, [(0, 0), (0, 0), *over], constant_values=fill)
    counts = sum(part for _, part in _windows(inside, kernel, stride, dilation, sizes))
    return counts, [part for _, part in _windows(padded, kernel, stride, dilation, sizes)]


def average_pool(attributes: Attributes, opset: int, x: Array) -> Array:
    counts, parts = _pool(attributes, x, 0.0)
    return sum(parts) / counts


def max_pool(attributes: Attributes, given: list[Any], opset: int) -> Quantity:
    x = given[0]
    _, parts = _pool(attributes, x.value, -np.inf)
    _, sizes = _pool(attributes, x.size, 0.0)
    return Quantity(np.maximum.reduce(parts), np.maximum.reduce(sizes))
