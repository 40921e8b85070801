"""The laws: when two linear operators are exactly one convolution, and which one.

Each law holds exactly, in real arithmetic and for every input of every size, or it raises
:class:`~reparam.errors.NotFusibleError`. All of them are computed in float64.

Sources: Ding et al. 2021, RepVGG (arXiv 2101.03697), section 3.3, for the sum of branches;
Ding et al. 2021, Diverse Branch Block (arXiv 2103.13425), section 3.2, transforms I to VI.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from reparam.conv.geometry import Geometry, need_channels, sum_of
from reparam.conv.operators import (
    Affine,
    AvgPool,
    BatchNorm,
    Conv,
    given_away,
)
from reparam.errors import NotFusibleError


def affine_of(norm: BatchNorm) -> Affine:
    """Return the scale and shift that ``norm`` applies to each channel.

        scale = gamma / sqrt(variance + epsilon)
        shift = beta - mean * scale

    Exact when: always (inference statistics are constants).
    """
    scale = norm.gamma / np.sqrt(norm.variance + norm.epsilon)
    return Affine(scale, norm.beta - norm.mean * scale)


def scale_and_shift(conv: Conv, affine: Affine) -> Conv:
    """Return the one convolution equal to ``affine(conv(x))``.

        before:  x -- Conv (O, I/G, *kernel) -- Affine (O,) -- y
        after:   x -- Conv (O, I/G, *kernel) ----------------- y

        weight'[o] = scale[o] * weight[o],  bias'[o] = scale[o] * bias[o] + shift[o]

    Exact when: always; the affine comes after the padding.

    Raises:
        NotFusibleError: the channel counts differ.

    Source: Diverse Branch Block, transform I.
    """
    need_channels(conv.out_channels, affine.channels, "the affine that follows it")
    scale = affine.scale.reshape((-1,) + (1,) * (conv.weight.ndim - 1))
    weight, bias = conv.weight * scale, conv.bias * affine.scale + affine.shift
    return replace(conv, weight=given_away(weight), bias=given_away(bias))


def identity_as_conv(channels: int, axes: int = 2) -> Conv:
    """Return the depthwise convolution with a kernel of one tap that changes nothing.

    :func:`expand_groups` gives the identity of any other group count; writing the depthwise
    array into a dense weight directly is the error that broadcasts ones over all inputs.

    Exact when: always.
    """
    return Conv.of(np.ones((channels, 1) + (1,) * axes), groups=channels)


def average_pool_as_conv(pool: AvgPool) -> Conv:
    """Return the depthwise convolution equal to ``pool``: every tap is 1 / (KH * KW).

    Exact when: padding counts in the mean, or there is none. Where it does not count, windows at
    the border divide by fewer taps, which no convolution does.

    Raises:
        NotFusibleError: padding that does not count (Paddle's default, ``exclusive=True``).

    Source: Diverse Branch Block, transform V.
    """
    if not pool.count_include_pad and any(any(pair) for pair in pool.padding):
        raise NotFusibleError(
            "average pooling that leaves padding out of the mean is not a convolution",
            found=f"padding {pool.padding} with count_include_pad=False",
            why="windows at the border divide by fewer taps than those inside",
        )
    weight = np.full((pool.channels, 1, *pool.kernel), 1.0 / pool.taps)
    return Conv.of(weight, stride=pool.stride, padding=pool.padding, groups=pool.channels)


def expand_groups(conv: Conv, groups: int = 1) -> Conv:
    """Return an equal convolution in fewer ``groups``: zeros between groups that were apart.

        before:  weight (O, I/G, *kernel), G groups
        after:   weight (O, I/groups, *kernel), block diagonal

    Exact when: always, for a divisor ``groups`` of G.

    Raises:
        NotFusibleError: ``groups`` does not divide the group count there is.
    """
    if groups == conv.groups:
        return conv
    if groups < 1 or conv.groups % groups:
        raise NotFusibleError(f"a convolution in {conv.groups} groups has no form in {groups}")
    per_group, width = conv.out_channels // conv.groups, conv.weight.shape[1]
    merged = conv.groups // groups
    weight = np.zeros((conv.out_channels, width * merged, *conv.kernel))
    for group in range(conv.groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        start = (group % merged) * width
        weight[rows, start : start + width] = conv.weight[rows]
    return replace(conv, weight=weight, groups=groups)


def add(*convs: Conv) -> Conv:
    """Return the one convolution equal to the sum of ``convs`` applied to the same input.

        before:  x -+- Conv KxK, padding p -+
                    |- Conv 1x1 ------------+- Sum -- y
        after:   x --- Conv KxK, padding p ---------- y

    Kernels are aligned by the input offset of each tap, not by their centres, so even and
    non-square kernels, asymmetric padding and dilation are right as well.

    Exact when: all sample the same positions: equal channels, equal stride, and outputs of equal
    size for every input size.

    Raises:
        NotFusibleError: one of those differs; the message says which.

    Source: RepVGG, section 3.3; Diverse Branch Block, transform II.
    """
    shapes = [Geometry.of(conv) for conv in convs]
    whole = sum_of(shapes)
    weight = np.zeros((whole.out_channels, whole.in_channels // whole.groups, *whole.kernel))
    bias = np.zeros(whole.out_channels)
    for conv, shape in zip(convs, shapes, strict=True):
        weight[_place_of(shape, whole)] += expand_groups(conv, whole.groups).weight
        bias += conv.bias
    return Conv(
        given_away(weight), given_away(bias),
        whole.stride, whole.dilation, whole.padding, whole.groups,
    )  # fmt: skip


def _place_of(part: Geometry, whole: Geometry) -> Any:
    """Index the last axes: where the taps of one kernel lie in that of the sum."""
    window: list[Any] = [...]
    for axis, taps in enumerate(part.kernel):
        start = (whole.padding[axis][0] - part.padding[axis][0]) // whole.dilation[axis]
        step = max(part.dilation[axis] // whole.dilation[axis], 1)
        window.append(slice(start, start + (taps - 1) * step + 1, step))
    return tuple(window)
