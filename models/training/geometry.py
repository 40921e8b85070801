"""The convolution that a block stands for, and the branches that sample the same positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reparam.conv import Conv
from reparam.conv.operators import per_axis
from reparam.errors import ReparamError, UnsupportedModelError
from reparam.models.blocks import conv_of
from reparam.models.paddle_api import paddle

nn = paddle.nn

PerAxis: TypeAlias = "int | Sequence[int]"
Pair: TypeAlias = "tuple[int, int]"


@dataclass(frozen=True)
class Geometry:
    """A convolution whose output position is the centre of its window; H before W."""

    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    dilation: Pair
    groups: int

    @classmethod
    def of(
        cls,
        in_channels: int,
        out_channels: int,
        kernel: PerAxis,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> Geometry:
        """Return a Geometry; integers mean the same on both axes.

        Raises:
            UnsupportedModelError: no convolution has it, or the kernel is even: it has no centre.
        """
        try:
            sizes, steps, spread = (
                per_axis(value, 2, what, 1)
                for value, what in ((kernel, "kernel"), (stride, "stride"), (dilation, "dilation"))
            )
        except ReparamError as error:
            raise UnsupportedModelError(error.what, hint=error.hint) from error
        if any(size % 2 == 0 for size in sizes):
            raise UnsupportedModelError(
                f"a kernel of {sizes[0]}x{sizes[1]} has no centre to align branches at",
                hint="odd sizes",
            )
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups:
            raise UnsupportedModelError(f"{in_channels} input channels in {groups} groups")
        if out_channels % groups:
            raise UnsupportedModelError(f"{out_channels} output channels in {groups} groups")
        return cls(in_channels, out_channels, _pair(sizes), _pair(steps), _pair(spread), groups)

    @property
    def padding(self) -> Pair:
        """What keeps the size at stride 1."""
        return _pair([d * (k - 1) // 2 for k, d in zip(self.kernel, self.dilation, strict=True)])

    @property
    def keeps_positions(self) -> bool:
        """Whether the identity has the shape of the output."""
        return self.in_channels == self.out_channels and self.stride == (1, 1)

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved alone, into one channel."""
        return self.in_channels == self.out_channels == self.groups

    def with_kernel(self, kernel: PerAxis, dilation: PerAxis = 1) -> Geometry:
        """Return the geometry of a branch with another window."""
        return Geometry.of(
            self.in_channels,
            self.out_channels,
            kernel,
            stride=self.stride,
            dilation=dilation,
            groups=self.groups,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What nn.Conv2D and ConvBNLayer take besides the channels and the kernel."""
        return {
            "stride": list(self.stride),
            "padding": list(self.padding),
            "dilation": list(self.dilation),
            "groups": self.groups,
        }

    def conv(self, *, bias: bool = False) -> Any:
        """Return a new nn.Conv2D of this geometry."""
        return nn.Conv2D(
            self.in_channels,
            self.out_channels,
            list(self.kernel),
            bias_attr=None if bias else False,
            **self.arguments,
        )


def geometry_of(layer: Any) -> Geometry:
    """Return the geometry of an nn.Conv2D.

    Raises:
        UnsupportedModelError: it does not pad as a block does, or its kernel has no centre.
    """
    conv: Conv = conv_of(layer)
    height, width = conv.padding
    found = Geometry.of(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        stride=conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
    )
    if (height, width) != tuple((side, side) for side in found.padding):
        raise UnsupportedModelError(
            "its window is not centred at the output position",
            found=f"padding {height} and {width}; needed: {found.padding} on either side",
        )
    return found


def _pair(values: Sequence[int]) -> Pair:
    height, width = values
    return height, width
