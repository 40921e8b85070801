"""MobileOne in train-time form.

Source: Vasu et al. 2023, MobileOne (arXiv 2206.04040). State dicts have the keys of the authors'
code, a BatchNorm in Paddle's spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from reparam.conv import Block, Parallel
from reparam.models.attention import ChannelGate
from reparam.models.blocks import batch_norm_of
from reparam.models.layers import Activation
from reparam.models.layout import EPSILON
from reparam.models.mobileone_layout import NUM_BLOCKS, SQUEEZE, VARIANTS, Structure
from reparam.models.paddle_api import Layer, paddle
from reparam.models.registry import register
from reparam.models.training.base import SumBlock, conv_bn
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn
F = paddle.nn.functional


class ReduceExpand(ChannelGate):
    """Squeeze-excite with the names of MobileOne."""

    names = ("reduce", "expand")
    reduction = SQUEEZE


class MobileOneBlock(SumBlock):
    """Several KxK convolutions, a 1x1 one and the identity, each with BatchNorm, added, then ReLU.

        train-time:  x -+- rbr_conv.0 KxK - bn -+- sum - (se) - ReLU - y
                        +- ...                  |
                        +- rbr_scale 1x1 - bn --+   (K over 1)
                        +- rbr_skip: bn --------+   (stride 1 and as many channels out as in)
        deploy:      x --- reparam_conv KxK ---------- (se) - ReLU - y

    Args:
        kernel_size: odd on both axes.
        num_conv_branches: how many KxK convolutions.
        use_se: squeeze-excite between the sum and the ReLU, in both forms.
        act: what comes in the place of the ReLU: its name, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.

    Source: arXiv 2206.04040, section 3.3 and figure 3.
    """

    deploy_name = "reparam_conv"
    branch_names = ("rbr_skip", "rbr_conv", "rbr_scale")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 3,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        groups: int = 1,
        num_conv_branches: int = 1,
        use_se: bool = False,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        super().__init__(geometry, act, deploy)
        self.se = ReduceExpand(out_channels) if use_se else None
        if deploy:
            return
        self.rbr_skip = None
        if geometry.keeps_positions:
            self.rbr_skip = nn.BatchNorm2D(in_channels, epsilon=epsilon)
        self.rbr_conv = nn.LayerList([conv_bn(geometry, epsilon) for _ in range(num_conv_branches)])
        self.rbr_scale = None
        if geometry.kernel != (1, 1):
            self.rbr_scale = conv_bn(geometry.with_kernel(1), epsilon)

    def forward(self, x: Any) -> Any:
        y = self.reparam_conv(x) if self.deployed else self.train_time(x)
        return self.act(y if self.se is None else self.se(y))

    def train_time(self, x: Any) -> Any:
        y = self.rbr_conv[0](x)
        for conv in self.rbr_conv[1:]:
            y = y + conv(x)
        for branch in (self.rbr_scale, self.rbr_skip):
            y = y if branch is None else y + branch(x)
        return y

    def branches(self) -> Block:
        found: dict[str, Block] = {
            f"rbr_conv.{index}": conv.as_block() for index, conv in enumerate(self.rbr_conv)
        }
        if self.rbr_scale is not None:
            found["rbr_scale"] = self.rbr_scale.as_block()
        if self.rbr_skip is not None:
            found["rbr_skip"] = batch_norm_of(self.rbr_skip)
        return Parallel(found)


@register("mobileone")
class MobileOne(Layer):
    """Class scores (N, num_classes) of an image (N, in_channels, H, W).

    Args:
        num_blocks_per_stage: pairs of a depthwise and a 1x1 block in each of the four stages
            after the first block.
        width_multipliers: of 64, 128, 256 and 512 channels, one for each stage.
        num_conv_branches: of every block but the first, which has one.
        use_se: squeeze-excite in the second half of the third stage and in all of the fourth.
        deploy: build the deploy form, every block as one convolution.
        epsilon: of every BatchNorm.

    Raises:
        UnsupportedModelError: no network has these settings.
    """

    input_name: ClassVar[str] = "x"

    def __init__(
        self,
        width_multipliers: Sequence[float],
        num_blocks_per_stage: Sequence[int] = NUM_BLOCKS,
        num_conv_branches: int = 1,
        use_se: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.structure = Structure.of(
            width_multipliers,
            num_blocks_per_stage,
            num_conv_branches,
            use_se,
            num_classes,
            in_channels,
        )
        first, *rest = [
            MobileOneBlock(
                shape.in_channels,
                shape.channels,
                shape.kernel,
                stride=shape.stride,
                groups=shape.groups,
                num_conv_branches=shape.conv_branches,
                use_se=shape.use_se,
                deploy=deploy,
                epsilon=epsilon,
            )
            for shape in self.structure.blocks()
        ]
        self.stage0 = first
        blocks = iter(rest)
        for stage, pairs in enumerate(self.structure.num_blocks, start=1):
            setattr(self, f"stage{stage}", nn.Sequential(*(next(blocks) for _ in range(2 * pairs))))
        self.linear = nn.Linear(self.structure.widths[-1], num_classes)

    def forward(self, x: Any) -> Any:
        for stage in (self.stage0, self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
        return self.linear(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


for _name, _variant in VARIANTS.items():
    register(_name, **_variant)(MobileOne)
