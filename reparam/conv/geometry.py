"""Shapes of convolutions without their numbers: what a sum or a chain of them would be.

The laws are decided here, for :mod:`reparam.conv.algebra` and :mod:`reparam.conv.composing`, and
for whoever has to know what a fusion costs before there is a weight to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd, prod

from reparam.conv.operators import Conv, Padding
from reparam.errors import NotFusibleError


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution (O, I/G, *kernel) with one entry a spatial axis in each of the rest."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    groups: int

    @classmethod
    def of(cls, conv: Conv) -> Geometry:
        """Return the geometry of a convolution."""
        return cls(
            conv.in_channels, conv.out_channels, conv.kernel,
            conv.stride, conv.dilation, conv.padding, conv.groups,
        )  # fmt: skip

    @classmethod
    def pointwise(cls, channels: int, axes: int) -> Geometry:
        """Return the geometry of a factor for each channel."""
        one = (1,) * axes
        return cls(channels, channels, one, one, one, ((0, 0),) * axes, channels)

    @property
    def extent(self) -> tuple[int, ...]:
        """Size of the spatial window on the input, dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one output position (all O channels)."""
        return self.out_channels * (self.in_channels // self.groups) * prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output value is a multiple of one input value of the same channel."""
        return (
            self.groups == self.in_channels == self.out_channels
            and set(self.kernel) == {1} == set(self.stride)
            and not any(map(any, self.padding))
        )

    def offsets(self, side: int) -> tuple[int, ...]:
        """How far the kernel reaches before (0) or after (1) the output position."""
        if side == 0:
            return tuple(pair[0] for pair in self.padding)
        return tuple(e - 1 - pair[0] for e, pair in zip(self.extent, self.padding, strict=True))

    @property
    def shrink(self) -> tuple[int, ...]:
        """How much smaller than the input the output is, before the stride."""
        return tuple(e - 1 - sum(pair) for e, pair in zip(self.extent, self.padding, strict=True))


def sum_of(parts: Sequence[Geometry]) -> Geometry:
    """Return what the sum of convolutions of the same input is.

    Each axis gets the widest grid that holds every tap of all: a kernel of one tap has no
    dilation, so it costs a dilated neighbour nothing.

    Raises:
        NotFusibleError: channels, strides or the sizes of their outputs differ.
    """
    _need_same_positions(parts)
    first = parts[0]
    kernel, dilation, padding = [], [], []
    for axis in range(len(first.kernel)):
        before = [part.offsets(0)[axis] for part in parts]
        after = [part.offsets(1)[axis] for part in parts]
        steps = [part.dilation[axis] for part in parts if part.kernel[axis] > 1]
        step = reduce(gcd, steps + [b - before[0] for b in before], 0) or 1
        reach = max(before) + max(after)
        kernel.append(reach // step + 1)
        dilation.append(step if reach else 1)
        padding.append((max(before), max(after) - first.shrink[axis]))
    groups = reduce(gcd, (part.groups for part in parts))
    return Geometry(
        first.in_channels, first.out_channels,
        tuple(kernel), first.stride, tuple(dilation), tuple(padding), groups,
    )  # fmt: skip


def chain_of(first: Geometry, second: Geometry, *, zero_bias: bool) -> Geometry:
    """Return what ``second(first(x))`` is.

    Args:
        zero_bias: the bias of ``first`` is exactly zero.

    Raises:
        NotFusibleError: the channel counts differ, or ``second`` pads what ``first`` would not
            have made zero.
    """
    need_channels(first.out_channels, second.in_channels, "the convolution that follows it")
    _need_zero_border(first, second, zero_bias)
    kernel, dilation = [], []
    for k1, k2, d1, d2, stride in zip(
        first.kernel, second.kernel, first.dilation, second.dilation, first.stride, strict=True
    ):
        steps = [step for k, step in ((k1, d1), (k2, d2 * stride)) if k > 1]
        step = reduce(gcd, steps, 0) or 1
        kernel.append(((k1 - 1) * d1 + (k2 - 1) * d2 * stride) // step + 1)
        dilation.append(step)
    padding = tuple(
        (own[0] + pair[0] * step, own[1] + pair[1] * step)
        for own, pair, step in zip(first.padding, second.padding, first.stride, strict=True)
    )
    # One channel at a time keeps apart what was apart before, or will be after.
    each = second.groups == second.in_channels == second.out_channels
    return Geometry(
        first.in_channels, second.out_channels, tuple(kernel),
        tuple(a * b for a, b in zip(first.stride, second.stride, strict=True)),
        tuple(dilation), padding,
        first.groups if each else gcd(first.groups, second.groups),
    )  # fmt: skip


def need_channels(found: int, needed: int, follower: str) -> None:
    """Refuse channel counts that do not fit.

    Raises:
        NotFusibleError: they differ.
    """
    if found != needed:
        raise NotFusibleError(
            f"a convolution with {found} output channels does not fit {follower}",
            found=f"{found} channels; needed: {needed}",
        )


def _need_same_positions(parts: Sequence[Geometry]) -> None:
    if not parts:
        raise NotFusibleError("a sum of no branches is not a convolution")
    first = parts[0]
    for index, part in enumerate(parts[1:], start=1):
        for what in ("in_channels", "out_channels", "stride"):
            if getattr(part, what) != getattr(first, what):
                raise NotFusibleError(
                    "branches of a sum do not fit each other",
                    found=f"branch 0 has {what} {getattr(first, what)}; "
                    f"branch {index} has {what} {getattr(part, what)}",
                    why="branches that are added must sample the same positions",
                )
        if part.shrink != first.shrink:
            raise NotFusibleError(
                "branches of a sum give outputs of different sizes",
                found=f"branch 0: kernel {first.kernel}, padding {first.padding}; "
                f"branch {index}: kernel {part.kernel}, padding {part.padding}",
                why="branches that are added must sample the same positions",
            )


def _need_zero_border(first: Geometry, second: Geometry, zero_bias: bool) -> None:
    """Refuse what makes anything but zeros of the zeros beyond the border where it is padded."""
    padded = [axis for axis, pair in enumerate(second.padding) if any(pair)]
    plain = all(first.kernel[axis] == 1 for axis in padded)
    if padded and not (zero_bias and plain):
        raise NotFusibleError(
            "a convolution that pads does not absorb what stands before it",
            found=f"the first has kernel {first.kernel} and {'no' if zero_bias else 'a'} bias",
            why="the second pads with zeros where the first would have given something else",
            hint="exact only if the first has no bias, and one tap on every axis that the second "
            "pads",
        )
