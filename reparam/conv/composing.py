"""The law of two convolutions in a row: when they are exactly one, and which one.

Source: Ding et al. 2021, Diverse Branch Block (arXiv 2103.13425), section 3.2, transform III.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.conv.algebra import expand_groups
from reparam.conv.geometry import Geometry, chain_of
from reparam.conv.operators import Array, Conv, given_away


def compose(first: Conv, second: Conv) -> Conv:
    """Return the one convolution equal to ``second(first(x))``.

        before:  x -- Conv 1x1 (M, I/G, 1, 1) -- Conv 3x3 (O, M/G, 3, 3) -- y
        after:   x ------------- Conv 3x3 (O, I/G, 3, 3) -------------- y

    Exact when: ``second`` does not pad; or what ``first`` makes of zero padding is zero, that is,
    ``first`` has no bias, and one tap on every axis that ``second`` pads. So a row of taps and the
    column after it, each padding its own axis, are one kernel, and so is padding before padding.

    Raises:
        NotFusibleError: the channel counts differ, or ``second`` pads what ``first`` would not
            have made zero.

    Source: Diverse Branch Block, transform III; the border condition is its "pad with the bias".
    """
    shape = chain_of(Geometry.of(first), Geometry.of(second), zero_bias=not first.bias.any())
    if Geometry.of(first).is_pointwise:
        weight, bias = _scaled_inputs(first, second)
    elif second.groups == second.in_channels == second.out_channels:
        weight, bias = _composed_by_channel(first, second, shape)
    else:
        inner = expand_groups(first, shape.groups)
        weight, bias = _composed(inner, expand_groups(second, shape.groups), shape)
    return Conv.of(
        given_away(weight), given_away(bias),
        stride=shape.stride, dilation=shape.dilation, padding=shape.padding, groups=shape.groups,
    )  # fmt: skip


def _scaled_inputs(scale: Conv, outer: Conv) -> tuple[Array, Array]:
    """The same where the first is one factor and one shift for each channel."""
    groups = outer.groups
    by_input = (groups, 1, -1) + (1,) * len(outer.kernel)
    weight = outer.weight.reshape(groups, -1, *outer.weight.shape[1:])
    taps = weight.reshape(*weight.shape[:3], -1).sum(axis=-1)
    bias = np.einsum("goi,gi->go", taps, scale.bias.reshape(groups, -1))
    scaled = weight * scale.weight.reshape(by_input)
    return scaled.reshape(outer.weight.shape), outer.bias + bias.reshape(-1)


def _composed(inner: Conv, outer: Conv, shape: Geometry) -> tuple[Array, Array]:
    """Convolve the two weights, one tap of ``outer`` at a time; both in the same groups."""
    groups = inner.groups
    windows = _windows(inner, outer, shape)
    middle = inner.weight.reshape(groups, -1, *inner.weight.shape[1:])
    by_group = outer.weight.reshape(groups, -1, *outer.weight.shape[1:])
    weight = np.zeros((groups, by_group.shape[1], inner.weight.shape[1], *shape.kernel))
    for one_tap, window in windows:
        weight[window] += np.einsum("gom,gmi...->goi...", by_group[one_tap], middle, optimize=True)
    taps = by_group.reshape(*by_group.shape[:3], -1).sum(axis=-1)
    bias = np.einsum("gom,gm->go", taps, inner.bias.reshape(groups, -1))
    return weight.reshape(-1, *weight.shape[2:]), outer.bias + bias.reshape(-1)


def _composed_by_channel(inner: Conv, outer: Conv, shape: Geometry) -> tuple[Array, Array]:
    """The same where ``outer`` is depthwise: its taps scale the output channels of ``inner``."""
    windows = _windows(inner, outer, shape)
    weight = np.zeros((*inner.weight.shape[:2], *shape.kernel))
    by_channel = (-1,) + (1,) * (inner.weight.ndim - 1)
    for one_tap, window in windows:
        weight[window] += outer.weight[one_tap].reshape(by_channel) * inner.weight
    taps = outer.weight.reshape(outer.out_channels, -1).sum(axis=-1)
    return weight, outer.bias + taps * inner.bias


def _windows(inner: Conv, outer: Conv, shape: Geometry) -> list[tuple[Any, Any]]:
    """Return each tap of ``outer``, and where in the result it puts the taps of ``inner``."""
    windows = []
    for tap in np.ndindex(*outer.kernel):
        window: list[Any] = [...]
        for axis, t in enumerate(tap):
            grid = shape.dilation[axis]
            start = t * outer.dilation[axis] * inner.stride[axis] // grid
            step = max(inner.dilation[axis] // grid, 1)
            window.append(slice(start, start + (inner.kernel[axis] - 1) * step + 1, step))
        windows.append(((..., *tap), tuple(window)))
    return windows
