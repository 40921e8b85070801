"""Operators as frozen records of read-only float64 arrays.

Axis letters: N batch, O output channels, I input channels, G groups, KH and KW the kernel window.
Every record takes one, two or three spatial axes; a geometry has one entry a spatial axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reparam.errors import ReparamError

Array: TypeAlias = npt.NDArray[np.float64]
Padding: TypeAlias = tuple[tuple[int, int], ...]
PerAxis: TypeAlias = int | Sequence[int]


def frozen(values: npt.ArrayLike) -> Array:
    """Return ``values`` read-only in float64 and C order; a copy, unless nobody can change them."""
    if isinstance(values, np.ndarray) and _cannot_change(values):
        return values
    array = np.array(values, dtype=np.float64, order="C")
    array.flags.writeable = False
    return array


def _cannot_change(values: npt.NDArray[Any]) -> bool:
    """Whether this is what :func:`frozen` returns, or an array that a law gave away."""
    alone = values.base is None and values.dtype == np.float64
    return alone and values.flags.c_contiguous and not values.flags.writeable


def given_away(values: Array) -> Array:
    """Make a fresh array read-only, so that :func:`frozen` need not copy it."""
    values.flags.writeable = False
    return values


def per_axis(value: PerAxis, axes: int, what: str, least: int) -> tuple[int, ...]:
    """Return ``value`` with one entry a spatial axis, each at least ``least``."""
    entries = (value,) * axes if isinstance(value, int) else tuple(int(entry) for entry in value)
    if len(entries) != axes or min(entries, default=least) < least:
        raise ReparamError(
            f"{what} {value!r} does not fit a kernel of {axes} spatial axes",
            hint=f"give one integer, or one for each axis, none under {least}",
        )
    return entries


def per_side(value: Any, axes: int) -> Padding:
    """Return padding as a (before, after) pair a spatial axis."""
    if isinstance(value, int):
        value = (value,) * axes
    pairs = tuple((side, side) if isinstance(side, int) else tuple(side) for side in value)
    if len(pairs) != axes or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ReparamError(
            f"padding {value!r} does not fit a kernel of {axes} spatial axes",
            hint="give one integer, one for each axis, or a (before, after) pair for each axis",
        )
    return pairs


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution (cross-correlation) with zero padding: weight (O, I/G, *kernel), bias (O,).

    Build one with :meth:`of`, which fills in what is not given.

    Raises:
        ReparamError: shapes or geometry contradict each other.
    """

    weight: Array
    bias: Array
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    groups: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", frozen(self.weight))
        object.__setattr__(self, "bias", frozen(self.bias))
        axes = self.weight.ndim - 2
        if not 1 <= axes <= 3 or 0 in self.weight.shape:
            raise ReparamError(
                f"a convolution weight cannot have the shape {self.weight.shape}",
                found="needed: (O, I/G, *kernel), one to three spatial axes, none of them empty",
            )
        if self.bias.shape != self.weight.shape[:1]:
            raise ReparamError(
                f"bias of shape {self.bias.shape} does not fit weight {self.weight.shape}",
                found=f"needed: ({self.weight.shape[0]},)",
            )
        if self.groups < 1 or self.weight.shape[0] % self.groups:
            raise ReparamError(f"{self.weight.shape[0]} channels in {self.groups} groups")
        object.__setattr__(self, "stride", per_axis(self.stride, axes, "stride", 1))
        object.__setattr__(self, "dilation", per_axis(self.dilation, axes, "dilation", 1))
        object.__setattr__(self, "padding", per_side(self.padding, axes))

    @classmethod
    def of(
        cls,
        weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        padding: Any = 0,
        groups: int = 1,
    ) -> Conv:
        """Return a Conv; integers mean the same on every axis, no bias means zero."""
        weight = frozen(weight)
        axes = weight.ndim - 2
        return cls(
            weight,
            given_away(np.zeros(weight.shape[:1])) if bias is None else frozen(bias),
            per_axis(stride, axes, "stride", 1),
            per_axis(dilation, axes, "dilation", 1),
            per_side(padding, axes),
            groups,
        )

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1]) * self.groups

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size of the spatial window, before dilation."""
        return self.weight.shape[2:]

    @property
    def extent(self) -> tuple[int, ...]:
        """Size of the spatial window on the input, dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one output position (all O channels)."""
        return int(self.weight.size)

    @property
    def parameters(self) -> int:
        """Number of stored values, bias included."""
        return int(self.weight.size + self.bias.size)


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Batch normalization in inference: gamma * (x - mean) / sqrt(variance + epsilon) + beta.

    ``epsilon`` has no default: no checkpoint stores it.
    Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), section 3.1.
    """

    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    epsilon: float

    def __post_init__(self) -> None:
        for name in ("gamma", "beta", "mean", "variance"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
            if getattr(self, name).shape != (self.gamma.size,):
                raise ReparamError(
                    f"BatchNorm {name} has the shape {getattr(self, name).shape}",
                    found=f"needed: ({self.gamma.size},), as gamma has",
                )
        if not self.epsilon >= 0:
            raise ReparamError(f"BatchNorm epsilon must be zero or more, not {self.epsilon}")
        if not (self.variance + self.epsilon > 0).all():
            channel = int(np.argmin(self.variance))
            raise ReparamError(
                f"BatchNorm variance {self.variance[channel]:g} at channel {channel} is not usable",
                found=f"needed: variance + epsilon ({self.epsilon:g}) above zero",
            )

    @property
    def channels(self) -> int:
        return int(self.gamma.size)


@dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift for each channel: scale * x + shift, both (C,)."""

    scale: Array
    shift: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", frozen(self.scale))
        object.__setattr__(self, "shift", frozen(self.shift))
        if self.scale.ndim != 1 or self.scale.shape != self.shift.shape:
            raise ReparamError(
                f"scale {self.scale.shape} and shift {self.shift.shape} must both be (C,)"
            )

    @classmethod
    def scalar(cls, factor: float, channels: int) -> Affine:
        """Return the multiplication of ``channels`` channels by one factor, which may be 0."""
        return cls(np.full(channels, factor, dtype=np.float64), np.zeros(channels))

    @property
    def channels(self) -> int:
        return int(self.scale.size)


@dataclass(frozen=True)
class AvgPool:
    """Average pooling of ``channels`` channels.

    ``count_include_pad`` says whether zeros of the padding count in the mean. PyTorch counts
    them by default, Paddle does not (its ``exclusive=True``).
    """

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    count_include_pad: bool

    @classmethod
    def of(
        cls,
        channels: int,
        kernel: Sequence[int],
        *,
        stride: PerAxis = 1,
        padding: Any = 0,
        count_include_pad: bool,
    ) -> AvgPool:
        """Return an AvgPool; integers mean the same on every axis."""
        axes = len(kernel)
        return cls(
            channels,
            per_axis(kernel, axes, "kernel", 1),
            per_axis(stride, axes, "stride", 1),
            per_side(padding, axes),
            count_include_pad,
        )

    @property
    def taps(self) -> int:
        return prod(self.kernel)


@dataclass(frozen=True)
class Identity:
    """The value itself, ``channels`` channels."""

    channels: int


Operator: TypeAlias = Conv | BatchNorm | Affine | AvgPool | Identity
