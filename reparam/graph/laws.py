"""The laws of the graph: what each kind of linear node makes of the forms it reads.

Every law refuses with the reason where its result is not exactly one convolution. The algebra
itself is in :mod:`reparam.conv`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reparam.conv.algebra import expand_groups
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.conv.composing import compose
from reparam.conv.geometry import Geometry, chain_of, sum_of
from reparam.conv.operators import Array, Conv
from reparam.errors import NotFusibleError
from reparam.graph.forms import Opaque, Shaped
from reparam.graph.numbers import (
    Kept,
    Numbers,
    Pointwise,
    as_conv,
    frozen,
    scaled,
    summed,
)

_ROUNDINGS = 64  # of float32, in computing the bias of a convolution and a BatchNorm


@dataclass(frozen=True)
class Scaling:
    """A factor and a shift, each one number or one for each channel along ``axis``.

    Exact when: the channels are those of what stands before it; the shift comes after any padding.
    """

    scale: Array
    shift: Array
    axis: int | None = None

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        (part,) = parts
        axis = one_axis((part.axis, self.axis))
        geometry = part.geometry
        size = max(self.scale.size, self.shift.size)
        if geometry is not None and size not in (1, geometry.out_channels):
            raise NotFusibleError(
                "a factor for each channel does not fit the convolution before it",
                found=f"{size} factors; needed: {geometry.out_channels}",
            )
        return replace(part, axis=axis, zero_bias=part.zero_bias and not self.shift.any())

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        return scaled(parts[0], self.scale, self.shift)

    def cost(self) -> int:
        return 0


@dataclass(frozen=True)
class Convolving:
    """A convolution, a linear layer, average pooling or padding with zeros.

    Exact when: :func:`reparam.conv.geometry.chain_of` says so.

    Attributes:
        geometry: its own; without spatial axes for a linear layer.
        make: returns the operator in numbers.
        zero_bias: it adds nothing.
        axis: of the channels.
        macs: what it costs for one output position; pooling and padding cost nothing.
    """

    geometry: Geometry
    make: Callable[[], Conv]
    zero_bias: bool
    axis: int = 1
    macs: int = 0

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        (part,) = parts
        one_axis((part.axis, self.axis))
        first = with_kernel(part, self.geometry)
        geometry = chain_of(first, self.geometry, zero_bias=part.zero_bias)
        return Shaped(self.axis, geometry, part.zero_bias and self.zero_bias)

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        part, own = parts[0], self.make()
        if isinstance(part, Pointwise) and part.changes_nothing:
            return own
        return compose(as_conv(part, own.in_channels, len(own.kernel)), own)

    def cost(self) -> int:
        return self.macs


@dataclass(frozen=True)
class BorderFilling:
    """Padding with the very numbers, one for each channel, that come out for an input of zero.

    Exact when: what stands before it has one tap on the axes that it pads, so padding its input
    with zeros makes the same border, if the number is its bias. That was rounded before it was
    written into the graph, so it is compared to some roundings of float32. What that lets through
    is up to the proof of the region, which then is a question and no check: where it does not hold
    the region is left.
    """

    channels: int
    padding: tuple[tuple[int, int], ...]
    fill: Array

    def need_same_border(self, before: Numbers) -> None:
        """Refuse what would make another number of zeros.

        Raises:
            NotFusibleError: it does.
        """
        bias = as_conv(before, self.channels, len(self.padding)).bias
        fill = np.broadcast_to(self.fill, bias.shape)
        off = np.abs(bias - fill)
        size = float(np.abs(bias).max() + np.abs(fill).max())  # one channel may cancel to nothing
        if (off > _ROUNDINGS * UNIT_ROUNDOFF["float32"] * size).any():
            channel = int(np.argmax(off))
            raise NotFusibleError(
                "the border is filled with another number than the convolution makes of zeros",
                found=f"{fill[channel]:g} in channel {channel}; needed: {bias[channel]:g}",
            )

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        (part,) = parts
        one_axis((part.axis, 1))
        first = with_kernel(part, Geometry.pointwise(self.channels, len(self.padding)))
        if self.fill.size not in (1, first.out_channels):
            raise NotFusibleError("the border has other channels than the convolution")
        if any(k > 1 and any(pair) for k, pair in zip(first.kernel, self.padding, strict=True)):
            raise NotFusibleError(
                "padding with a number continues only a convolution of one tap",
                found=f"kernel {first.kernel}",
            )
        return Shaped(1, replace(first, padding=self._widened(first)), part.zero_bias)

    def _widened(self, conv: Geometry | Conv) -> tuple[tuple[int, int], ...]:
        return tuple(
            (own[0] + pair[0] * step, own[1] + pair[1] * step)
            for own, pair, step in zip(conv.padding, self.padding, conv.stride, strict=True)
        )

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        conv = as_conv(parts[0], self.channels, len(self.padding))
        return replace(conv, padding=self._widened(conv))

    def cost(self) -> int:
        return 0


@dataclass(frozen=True)
class Summing:
    """A sum or difference of values made of the same source.

    Exact when: :func:`reparam.conv.geometry.sum_of` says so; then no operand is broadcast.
    """

    signs: tuple[int, ...]

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        axis = one_axis(part.axis for part in parts)
        zero = all(part.zero_bias for part in parts)
        if any(part.opaque for part in parts):
            if len({part.opaque for part in parts}) > 1:
                raise NotFusibleError(
                    "convolutions that keep their own geometry are added, and it differs"
                )
            return replace(parts[0], zero_bias=zero)
        kernel = next((part.geometry for part in parts if part.geometry is not None), None)
        if kernel is None:
            return Shaped(axis, None, zero)
        return Shaped(axis, sum_of([with_kernel(part, kernel) for part in parts]), zero)

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        return summed(parts, self.signs)

    def cost(self) -> int:
        return 0


@dataclass(frozen=True)
class Stacking:
    """Values made of the same source, concatenated along the channels.

    Exact when: all are convolutions that sample the same positions.
    """

    axis: int

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        one_axis((*(part.axis for part in parts), self.axis))
        kernels = [part.geometry for part in parts if part.geometry is not None]
        if len(kernels) < len(parts):
            raise NotFusibleError("what is concatenated is not a convolution throughout")
        alike = sum_of([replace(kernel, out_channels=1, groups=1) for kernel in kernels])
        geometry = replace(alike, out_channels=sum(kernel.out_channels for kernel in kernels))
        return Shaped(self.axis, geometry, all(part.zero_bias for part in parts))

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        convs = [expand_groups(part) for part in parts if isinstance(part, Conv)]
        total = sum(conv.out_channels for conv in convs)
        start, placed = 0, []
        for conv in convs:
            weight = np.zeros((total, *conv.weight.shape[1:]))
            bias = np.zeros(total)
            weight[start : start + conv.out_channels] = conv.weight
            bias[start : start + conv.out_channels] = conv.bias
            placed.append(replace(conv, weight=frozen(weight), bias=frozen(bias)))
            start += conv.out_channels
        return summed(placed, (1,) * len(placed))

    def cost(self) -> int:
        return 0


@dataclass(frozen=True)
class Picking:
    """Some of the channels, from ``start`` on, ``count`` of them."""

    start: int
    count: int
    axis: int

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        (part,) = parts
        one_axis((part.axis, self.axis))
        if part.geometry is None:
            raise NotFusibleError("there is no convolution before the slice")
        return replace(
            part, axis=self.axis, geometry=replace(part.geometry, out_channels=self.count, groups=1)
        )

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        assert isinstance(parts[0], Conv)
        conv = expand_groups(parts[0])
        rows = slice(self.start, self.start + self.count)
        return replace(conv, weight=frozen(conv.weight[rows]), bias=frozen(conv.bias[rows]))

    def cost(self) -> int:
        return 0


@dataclass(frozen=True)
class Keeping:
    """A convolution that keeps its geometry; what may follow is a factor, a shift, its like."""

    opaque: Opaque
    make: Callable[[], Kept]
    zero_bias: bool

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        (part,) = parts
        if part.geometry is not None or part.axis is not None or not part.zero_bias:
            raise NotFusibleError(
                "this convolution absorbs nothing that stands before it",
                why="it is transposed, or its padding depends on the size of the input",
            )
        return Shaped(1, None, self.zero_bias, self.opaque)

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        part, own = parts[0], self.make()
        assert isinstance(part, Pointwise)  # one factor for every element
        return replace(own, weight=own.weight * part.scale)

    def cost(self) -> int:
        return self.opaque.macs


def one_axis(axes: Iterable[int | None]) -> int | None:
    """Return the one channel axis among these.

    Raises:
        NotFusibleError: there are two.
    """
    found = {axis for axis in axes if axis is not None}
    if len(found) > 1:
        raise NotFusibleError(
            "the channels are on different axes",
            found=" and ".join(map(str, sorted(found))),
            why="a convolution mixes and scales along one axis",
        )
    return next(iter(found), None)


def with_kernel(part: Shaped, like: Geometry) -> Geometry:
    """Return the geometry of a part that meets a kernel with the axes of ``like``.

    Raises:
        NotFusibleError: it has other axes, or keeps its own geometry.
    """
    if part.opaque is not None:
        raise NotFusibleError(
            "this convolution is not continued by another",
            why="it is transposed, or its padding depends on the size of the input",
        )
    if part.geometry is None:
        return Geometry.pointwise(like.in_channels, len(like.kernel))
    if len(part.geometry.kernel) != len(like.kernel):
        raise NotFusibleError(
            "kernels have different numbers of axes",
            found=f"{part.geometry.kernel} and {like.kernel}",
        )
    return part.geometry
