"""A small detector as a user would write one: a top-down path, pools in pyramids, maps out.

Written for these tests; ``tests.detector_network:build`` is what ``--model`` names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.adapters.paddle_models import import_paddle
from tests.own_network import Block, Branch, randomised

paddle = import_paddle()
nn, F = paddle.nn, paddle.nn.functional

UPS = ("scale", "scales", "bilinear", "corners", "bicubic", "size", "shape")


class Up(nn.Layer):
    """Twice as large, in one of the ways in which networks say so."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Any, like: Any) -> Any:
        if self.how == "scale":
            return F.interpolate(x, scale_factor=2.0)
        if self.how == "scales":
            return F.interpolate(x, scale_factor=[2, 2], mode="nearest")
        if self.how == "bilinear":
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if self.how == "corners":
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        if self.how == "bicubic":
            return F.interpolate(x, scale_factor=2, mode="bicubic")
        if self.how == "size":
            return F.interpolate(x, size=[8, 10], mode="bilinear")
        return F.interpolate(x, size=paddle.shape(like)[2:], mode="nearest")


class Pyramid(nn.Layer):
    """Maximum pools of several kernels side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pools = nn.LayerList([nn.MaxPool2D(k, 1, k // 2) for k in (5, 9, 13)])
        self.branch = Branch(4 * channels, channels, 1, 1, 1)

    def forward(self, x: Any) -> Any:
        return F.swish(self.branch(paddle.concat([x, *(pool(x) for pool in self.pools)], axis=1)))


class Stem(nn.Layer):
    """A map weighed by what is in all of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2D(channels, channels, 1)
        self.branch = Branch(channels, channels, 1, 1, 1)

    def forward(self, x: Any) -> Any:
        weight = F.sigmoid(self.weigh(F.adaptive_avg_pool2d(x, (1, 1))))
        return F.swish(self.branch(x * weight))


class Detector(nn.Layer):
    """Logits of classes and of distances for two levels, the coarser one first."""

    def __init__(self, how: str, width: int = 8, classes: int = 3, bins: int = 4) -> None:
        super().__init__()
        self.stem = Block(3, width, stride=2)
        self.fine, self.coarse = Block(width, width, stride=2), Block(width, width, stride=2)
        self.pyramid, self.up = Pyramid(width), Up(how)
        self.lateral, self.merge = Branch(width, width, 1, 1, 1), Block(2 * width, width)
        self.down, self.last = Branch(width, width, 3, 2, 1), Block(2 * width, width)
        self.stems = nn.LayerList([Stem(width) for _ in range(4)])
        self.classes = nn.LayerList([nn.Conv2D(width, classes, 3, padding=1) for _ in range(2)])
        self.distances = nn.LayerList([nn.Conv2D(width, 4 * bins, 3, padding=1) for _ in range(2)])

    def forward(self, image: Any) -> Any:
        fine = self.fine(self.stem(image))
        coarse = self.pyramid(self.coarse(fine))
        up = self.up(self.lateral(coarse), fine)
        fine = self.merge(paddle.concat([up, fine], axis=1))
        coarse = self.last(paddle.concat([F.swish(self.down(fine)), coarse], axis=1))
        maps = []
        for level, x in enumerate((coarse, fine)):
            weighed, other = self.stems[2 * level](x), self.stems[2 * level + 1](x)
            maps += [self.classes[level](weighed + x), self.distances[level](other)]
        return maps


def build(how: str = "scale") -> Any:
    return Detector(how)


def weights(seed: int = 0, **arguments: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a detector as a checkpoint of it would hold them."""
    layer = randomised(build(**arguments), seed)
    return {key: tensor.numpy() for key, tensor in layer.state_dict().items()}
