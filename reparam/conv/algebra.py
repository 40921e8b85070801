"""The laws: when two linear operators are exactly one convolution, and which one.

Each law holds exactly, in real arithmetic and for every input of every size, or it raises
:class:`~reparam.errors.NotFusibleError`. All of them are computed in float64.

Sources: Ding et al. 2021, RepVGG (arXiv 2101.03697), section 3.3, for the sum of branches;
Ding et al. 2021, Diverse Branch Block (arXiv 2103.13425), section 3.2, transforms I to VI.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from math import gcd
from typing import Any

import numpy as np

from reparam.conv.operators import (
    Affine,
    Array,
    AvgPool,
    BatchNorm,
    Conv,
    Padding,
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
    _need_channels(conv.out_channels, affine.channels, "the affine that follows it")
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


def pad_kernel(conv: Conv, margins: Padding) -> Conv:
    """Return an equal convolution whose kernel has ``margins`` of extra zero taps.

        before:  kernel K,             padding (b, a)
        after:   kernel m0 + K + m1,   padding (b + m0 * dilation, a + m1 * dilation)

    Exact when: always; the padding grows with the kernel, so every old tap keeps its place.

    Args:
        margins: taps to add (before, after) on each spatial axis.

    Source: Diverse Branch Block, transform VI.
    """
    padding = tuple(
        (before + margin[0] * step, after + margin[1] * step)
        for (before, after), margin, step in zip(conv.padding, margins, conv.dilation, strict=True)
    )
    if not any(any(margin) for margin in margins):
        return conv
    weight = np.pad(conv.weight, ((0, 0), (0, 0), *margins))
    return replace(conv, weight=given_away(weight), padding=padding)


def expand_dilation(conv: Conv) -> Conv:
    """Return an equal convolution with dilation 1: zeros stand between the taps.

        kernel' = (kernel - 1) * dilation + 1

    Exact when: always.
    """
    if set(conv.dilation) == {1}:
        return conv
    weight = np.zeros(conv.weight.shape[:2] + conv.extent)
    grid: tuple[Any, ...] = (..., *(slice(None, None, step) for step in conv.dilation))
    weight[grid] = conv.weight
    return replace(conv, weight=weight, dilation=(1,) * len(conv.dilation))


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
    if not convs:
        raise NotFusibleError("a sum of no branches is not a convolution")
    _need_same_positions(convs)
    groups = reduce(gcd, (conv.groups for conv in convs))
    first, *others = _on_one_grid([expand_groups(conv, groups) for conv in convs])
    whole = pad_kernel(*first)
    weight, bias = whole.weight.copy(), whole.bias.copy()
    for conv, margins in others:
        weight[_inside(conv.kernel, margins)] += conv.weight
        bias += conv.bias
    return replace(whole, weight=given_away(weight), bias=given_away(bias))


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
    _need_channels(first.out_channels, second.in_channels, "the convolution that follows it")
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


def _on_one_grid(convs: list[Conv]) -> list[tuple[Conv, Padding]]:
    """Give all the same dilation, and each the margins by which it falls short of the largest.

    The offset of a tap from the output position runs from -before to extent - 1 - before.
    Positions are known to agree.
    """
    if len({conv.dilation for conv in convs}) > 1:
        convs = [expand_dilation(conv) for conv in convs]
    before = [max(sides) for sides in zip(*(_offsets(conv, 0) for conv in convs), strict=True)]
    after = [max(sides) for sides in zip(*(_offsets(conv, 1) for conv in convs), strict=True)]
    if any(_misfit(conv, before, after) for conv in convs):
        convs = [expand_dilation(conv) for conv in convs]
    return [(conv, _margins(conv, before, after)) for conv in convs]


def _inside(kernel: tuple[int, ...], margins: Padding) -> Any:
    """Index the last axes: where a kernel lies in the largest."""
    sides = zip(kernel, margins, strict=True)
    return (..., *(slice(before, before + size) for size, (before, _) in sides))


def _offsets(conv: Conv, side: int) -> tuple[int, ...]:
    """How far the kernel reaches before (0) or after (1) the output position, on the input."""
    if side == 0:
        return tuple(pair[0] for pair in conv.padding)
    return tuple(
        extent - 1 - pair[0] for extent, pair in zip(conv.extent, conv.padding, strict=True)
    )


def _misfit(conv: Conv, before: list[int], after: list[int]) -> bool:
    """Whether the new taps would not fall on the grid that the dilation of ``conv`` makes."""
    reach = zip(before, _offsets(conv, 0), after, _offsets(conv, 1), conv.dilation, strict=True)
    return any((b - own_b) % step or (a - own_a) % step for b, own_b, a, own_a, step in reach)


def _margins(conv: Conv, before: list[int], after: list[int]) -> Padding:
    reach = zip(before, _offsets(conv, 0), after, _offsets(conv, 1), conv.dilation, strict=True)
    return tuple(((b - own_b) // step, (a - own_a) // step) for b, own_b, a, own_a, step in reach)


def _need_same_positions(convs: tuple[Conv, ...]) -> None:
    first = convs[0]
    for index, conv in enumerate(convs[1:], start=1):
        for what in ("in_channels", "out_channels", "stride"):
            if getattr(conv, what) != getattr(first, what):
                raise NotFusibleError(
                    "branches of a sum do not fit each other",
                    found=f"branch 0 has {what} {getattr(first, what)}; "
                    f"branch {index} has {what} {getattr(conv, what)}",
                    why="branches that are added must sample the same positions",
                )
        if _shrink(conv) != _shrink(first):
            raise NotFusibleError(
                "branches of a sum give outputs of different sizes",
                found=f"branch 0: kernel {first.kernel}, padding {first.padding}; "
                f"branch {index}: kernel {conv.kernel}, padding {conv.padding}",
                why="branches that are added must sample the same positions",
            )


def _shrink(conv: Conv) -> tuple[int, ...]:
    """How much smaller than the input the output is, before the stride."""
    return tuple(e - 1 - sum(pair) for e, pair in zip(conv.extent, conv.padding, strict=True))


def _need_channels(found: int, needed: int, follower: str) -> None:
    if found != needed:
        raise NotFusibleError(
            f"a convolution with {found} output channels does not fit {follower}",
            found=f"{found} channels; needed: {needed}",
        )


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
