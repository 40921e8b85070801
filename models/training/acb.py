"""The asymmetric convolution block. State dicts have the keys of ACNet."""

from __future__ import annotations

from typing import Any

from reparam.conv import Block, Parallel, Sequential
from reparam.models.blocks import batch_norm_of, conv_of
from reparam.models.layers import Activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import paddle
from reparam.models.training.base import SumBlock
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn


class ACBlock(SumBlock):
    """A square kernel, and the column and the row through its centre, each with BatchNorm.

        train-time:  x -+- square_conv KHxKW - square_bn -+- sum - act - y
                        +- ver_conv KHx1 ----- ver_bn ----+
                        +- hor_conv 1xKW ----- hor_bn ----+
        deploy:      x --- fused_conv KHxKW ------------------- act - y

    Args:
        kernel_size: odd on both axes.
        act: name of the activation, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.

    Source: Ding et al. 2019, ACNet (arXiv 1908.03930), section 3.
    """

    deploy_name = "fused_conv"
    branch_names = ("square_conv", "square_bn", "ver_conv", "ver_bn", "hor_conv", "hor_bn")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 3,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        groups: int = 1,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        super().__init__(geometry, act, deploy)
        if deploy:
            return
        (height, width), dilation = geometry.kernel, geometry.dilation
        self.square_conv = geometry.conv()
        self.square_bn = nn.BatchNorm2D(out_channels, epsilon=epsilon)
        self.ver_conv = geometry.with_kernel((height, 1), dilation).conv()
        self.ver_bn = nn.BatchNorm2D(out_channels, epsilon=epsilon)
        self.hor_conv = geometry.with_kernel((1, width), dilation).conv()
        self.hor_bn = nn.BatchNorm2D(out_channels, epsilon=epsilon)

    def train_time(self, x: Any) -> Any:
        y = self.square_bn(self.square_conv(x)) + self.ver_bn(self.ver_conv(x))
        return y + self.hor_bn(self.hor_conv(x))

    def branches(self) -> Block:
        return Parallel(
            {
                "square_conv": Sequential(conv_of(self.square_conv), batch_norm_of(self.square_bn)),
                "ver_conv": Sequential(conv_of(self.ver_conv), batch_norm_of(self.ver_bn)),
                "hor_conv": Sequential(conv_of(self.hor_conv), batch_norm_of(self.hor_bn)),
            }
        )
