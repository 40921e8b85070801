"""Channel attention from the mean of each channel, in the spellings of the networks that use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from reparam.models.paddle_api import Layer, paddle

nn = paddle.nn
F = paddle.nn.functional


class ChannelGate(Layer):
    """The input times a gate computed from its mean over H and W.

    A subclass names its two 1x1 convolutions and says how many channels go through the first.
    Implementations that pool a window as wide as the image compute the same mean.

    Args:
        channels: C, in and out.
        act: the function between the two convolutions.
        gate: the function after the second.

    Source: Hu et al. 2018, SENet (arXiv 1709.01507), section 3.
    """

    names: ClassVar[tuple[str, str]]
    reduction: ClassVar[int]

    def __init__(
        self,
        channels: int,
        *,
        act: Callable[[Any], Any] = F.relu,
        gate: Callable[[Any], Any] = F.sigmoid,
    ) -> None:
        super().__init__()
        squeezed = channels // self.reduction
        first, second = self.names
        setattr(self, first, nn.Conv2D(channels, squeezed, 1))
        setattr(self, second, nn.Conv2D(squeezed, channels, 1))
        self.act = act
        self.gate = gate

    def forward(self, x: Any) -> Any:
        first, second = (getattr(self, name) for name in self.names)
        return x * self.gate(second(self.act(first(x.mean((2, 3), keepdim=True)))))
