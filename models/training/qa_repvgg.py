"""RepVGG for quantisation. State dicts have the keys of the paper's code."""

from __future__ import annotations

from typing import Any

from reparam.conv import Block, Identity, Parallel, Sequential
from reparam.errors import UnsupportedModelError
from reparam.models.blocks import batch_norm_of, conv_of
from reparam.models.layers import Activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import paddle
from reparam.models.training.base import SumBlock, conv_bn
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn

VERSIONS = (1, 2)


class QARepVGGBlock(SumBlock):
    """RepVGG's three branches with a BatchNorm after the sum, so that int8 keeps its accuracy.

        version 2:  x -+- rbr_dense.conv KxK - bn -+- sum - bn - act - y
                       +- rbr_1x1 1x1 -------------+
                       +- identity ----------------+   (stride 1 and as many channels out as in)
        version 1:  rbr_1x1 and the identity have a BatchNorm of their own as well
        deploy:     x --- rbr_reparam KxK -------------------- act - y

    Args:
        kernel_size: odd on both axes.
        version: 2 is the paper's final block; 1 is RepVGG with a BatchNorm after the sum.
        act: name of the activation, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry, or there is no such version.

    Source: Chu et al. 2023, QARepVGG (arXiv 2212.01593), section 4.
    """

    deploy_name = "rbr_reparam"
    branch_names = ("rbr_dense", "rbr_1x1", "rbr_identity", "bn")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 3,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        groups: int = 1,
        version: int = 2,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        if version not in VERSIONS:
            raise UnsupportedModelError(f"QARepVGG has no version {version!r}", hint="1 or 2")
        geometry = Geometry.of(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        super().__init__(geometry, act, deploy)
        if deploy:
            return
        point = geometry.with_kernel(1)
        self.rbr_dense = conv_bn(geometry, epsilon)
        self.rbr_1x1 = conv_bn(point, epsilon) if version == 1 else point.conv()
        self.rbr_identity = None
        if geometry.keeps_positions:
            normed = nn.BatchNorm2D(in_channels, epsilon=epsilon) if version == 1 else nn.Identity()
            self.rbr_identity = normed
        self.bn = nn.BatchNorm2D(out_channels, epsilon=epsilon)
        self.version = version

    def train_time(self, x: Any) -> Any:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.bn(y if self.rbr_identity is None else y + self.rbr_identity(x))

    def branches(self) -> Block:
        normed = self.version == 1
        branches = {
            "rbr_dense": self.rbr_dense.as_block(),
            "rbr_1x1": self.rbr_1x1.as_block() if normed else conv_of(self.rbr_1x1),
        }
        if self.rbr_identity is not None:
            channels = self.geometry.in_channels
            branches["rbr_identity"] = (
                batch_norm_of(self.rbr_identity) if normed else Identity(channels)
            )
        return Sequential(Parallel(branches), batch_norm_of(self.bn))
