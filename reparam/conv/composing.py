"""The law of two convolutions in a row: when they are exactly one, and which one.

Source: Ding et al. 2021, Diverse Branch Block (arXiv 2103.13425), section 3.2, transform III.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from reparam.conv.algebra import expand_dilation, expand_groups, need_channels
from reparam.conv.operators import Array, Conv
from reparam.errors import NotFusibleError


def compose(first: Conv, second: Conv) -> Conv:
    """Return the one convolution equal to ``second(first(x))``.

        before:  x -- Conv 1x1 (M, I/G, 1, 1) -- Conv 3x3 (O, M/G, 3, 3) -- y
        after:   x ------------- Conv 3x3 (O, I/G, 3, 3) -------------- y

    Exact when: ``second`` does not pad; or what ``first`` makes of zero padding is zero, that is,
    ``first`` has no bias, and on every axis that ``second`` pads one tap and no padding of its own.
    So a row of taps and the column after it, each padding its own axis, are one kernel.

    Raises:
        NotFusibleError: the channel counts differ, or ``second`` pads what ``first`` would not
            have made zero.

    Source: Diverse Branch Block, transform III; the border condition is its "pad with the bias".
    """
    need_channels(first.out_channels, second.in_channels, "the convolution that follows it")
    padded = [axis for axis, pair in enumerate(second.padding) if any(pair)]
    if padded:
        _need_zero_border(first, padded)
    if second.groups == second.in_channels == second.out_channels:
        groups = first.groups  # each channel by itself: whatever was apart before stays apart
        weight, bias = _composed_by_channel(expand_dilation(first), second)
    else:
        groups = gcd(first.groups, second.groups)
        inner = expand_groups(expand_dilation(first), groups)
        weight, bias = _composed(inner, expand_groups(second, groups))
    padding = tuple(
        (own[0] + pair[0] * step, own[1] + pair[1] * step)
        for own, pair, step in zip(first.padding, second.padding, first.stride, strict=True)
    )
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    return Conv.of(weight, bias, stride=stride, padding=padding, groups=groups)


def _composed(inner: Conv, outer: Conv) -> tuple[Array, Array]:
    """Convolve the two weights, one tap of ``outer`` at a time; both in the same groups."""
    groups = inner.groups
    kernel, windows = _windows(inner, outer)
    middle = inner.weight.reshape(groups, -1, *inner.weight.shape[1:])
    by_group = outer.weight.reshape(groups, -1, *outer.weight.shape[1:])
    weight = np.zeros((groups, by_group.shape[1], inner.weight.shape[1], *kernel))
    for one_tap, window in windows:
        weight[window] += np.einsum("gom,gmi...->goi...", by_group[one_tap], middle, optimize=True)
    taps = by_group.reshape(*by_group.shape[:3], -1).sum(axis=-1)
    bias = np.einsum("gom,gm->go", taps, inner.bias.reshape(groups, -1))
    return weight.reshape(-1, *weight.shape[2:]), outer.bias + bias.reshape(-1)


def _composed_by_channel(inner: Conv, outer: Conv) -> tuple[Array, Array]:
    """The same where ``outer`` is depthwise: its taps scale the output channels of ``inner``."""
    kernel, windows = _windows(inner, outer)
    weight = np.zeros((*inner.weight.shape[:2], *kernel))
    by_channel = (-1,) + (1,) * (inner.weight.ndim - 1)
    for one_tap, window in windows:
        weight[window] += outer.weight[one_tap].reshape(by_channel) * inner.weight
    taps = outer.weight.reshape(outer.out_channels, -1).sum(axis=-1)
    return weight, outer.bias + taps * inner.bias


def _windows(inner: Conv, outer: Conv) -> tuple[tuple[int, ...], list[tuple[Any, Any]]]:
    """Return the kernel of ``outer(inner(x))``, and where each tap of ``outer`` puts ``inner``."""
    reach = tuple(d * s for d, s in zip(outer.dilation, inner.stride, strict=True))
    kernel = tuple(
        k + (taps - 1) * step
        for k, taps, step in zip(inner.kernel, outer.kernel, reach, strict=True)
    )
    windows = []
    for tap in np.ndindex(*outer.kernel):
        corner = zip(tap, reach, inner.kernel, strict=True)
        window = (..., *(slice(t * step, t * step + k) for t, step, k in corner))
        windows.append(((..., *tap), window))
    return kernel, windows


def _need_zero_border(first: Conv, padded: list[int]) -> None:
    """Refuse what makes anything but zeros of the zeros beyond the border on axes ``padded``."""
    plain = all(first.kernel[axis] == 1 and not any(first.padding[axis]) for axis in padded)
    if first.bias.any() or not plain:
        raise NotFusibleError(
            "a convolution that pads does not absorb what stands before it",
            found=f"the first has kernel {first.kernel}, padding {first.padding} and "
            f"{'a' if first.bias.any() else 'no'} bias",
            why="the second pads with zeros where the first would have given something else",
            hint="exact only if the first has no bias, and one tap without padding on the axes "
            "that the second pads",
        )
