"""The numbers of a form: a factor and a shift for each channel, or a convolution.

All of them float64. A linear layer is a convolution with one spatial axis of one tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from reparam.conv.algebra import add, identity_as_conv, scale_and_shift
from reparam.conv.operators import Affine, Array, Conv, given_away


@dataclass(frozen=True, eq=False)
class Pointwise:
    """scale * x + shift, each of them one number or one for each channel."""

    scale: Array
    shift: Array

    @classmethod
    def nothing(cls) -> Pointwise:
        """Return what changes nothing."""
        return cls(np.ones(()), np.zeros(()))

    @property
    def changes_nothing(self) -> bool:
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    def stored(self, dtype: np.dtype[Any]) -> Pointwise:
        """Return what is left of it in a dtype: s - s + 1 may be one only once it is rounded."""
        with np.errstate(over="ignore", under="ignore"):
            scale, shift = (np.asarray(part).astype(dtype) for part in (self.scale, self.shift))
        return Pointwise(scale.astype(np.float64), shift.astype(np.float64))

    def then(self, scale: Array, shift: Array) -> Pointwise:
        """Return this, and then another factor and shift."""
        return Pointwise(self.scale * scale, self.shift * scale + shift)

    def as_conv(self, channels: int, axes: int) -> Conv:
        """Return the depthwise convolution of one tap that does the same."""
        affine = Affine(
            np.broadcast_to(self.scale, (channels,)), np.broadcast_to(self.shift, (channels,))
        )
        return scale_and_shift(identity_as_conv(channels, axes), affine)


@dataclass(frozen=True, eq=False)
class Kept:
    """A convolution that keeps its geometry: weight (O, I/G, *kernel), and bias (O,).

    The weight of a transposed one is (I, O/G, *kernel).
    """

    weight: Array
    bias: Array
    groups: int
    transposed: bool

    def then(self, scale: Array, shift: Array) -> Kept:
        """Return this, and then a factor and a shift for each output channel."""
        scale = np.broadcast_to(scale, self.bias.shape)
        taps = (1,) * (self.weight.ndim - 2)
        if not self.transposed:
            weight = self.weight * scale.reshape(-1, 1, *taps)
            return replace(self, weight=weight, bias=self.bias * scale + shift)
        by_group = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
        weight = (by_group * scale.reshape(self.groups, 1, -1, *taps)).reshape(self.weight.shape)
        return replace(self, weight=weight, bias=self.bias * scale + shift)


Numbers: TypeAlias = Pointwise | Conv | Kept


def scaled(part: Numbers, scale: Array, shift: Array) -> Numbers:
    """Return a factor and a shift after something."""
    if not isinstance(part, Conv):
        return part.then(scale, shift)
    channels = (part.out_channels,)
    return scale_and_shift(
        part, Affine(np.broadcast_to(scale, channels), np.broadcast_to(shift, channels))
    )


def summed(parts: Sequence[Numbers], signs: Sequence[int]) -> Numbers:
    """Return the sum of things that read the same value."""
    signed = [
        part if sign > 0 else scaled(part, np.full((), -1.0), np.zeros(()))
        for part, sign in zip(parts, signs, strict=True)
    ]
    convs = [part for part in signed if isinstance(part, Conv)]
    if convs:
        first = convs[0]
        return add(*(as_conv(p, first.in_channels, len(first.kernel)) for p in signed))
    kept = [part for part in signed if isinstance(part, Kept)]
    if kept:
        return replace(
            kept[0],
            weight=np.sum([part.weight for part in kept], axis=0),
            bias=np.sum([part.bias for part in kept], axis=0),
        )
    plain = [part for part in signed if isinstance(part, Pointwise)]
    scale, shift = plain[0].scale, plain[0].shift
    for part in plain[1:]:
        scale, shift = scale + part.scale, shift + part.shift
    return Pointwise(scale, shift)


def as_conv(part: Numbers, channels: int, axes: int) -> Conv:
    """Return a part as a convolution."""
    if isinstance(part, Conv):
        return part
    assert isinstance(part, Pointwise)  # one that keeps its geometry has been refused by its shape
    return part.as_conv(channels, axes)


def frozen(values: Array) -> Array:
    """Return a fresh array that a convolution need not copy."""
    return given_away(np.ascontiguousarray(values, dtype=np.float64))
