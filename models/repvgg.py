"""RepVGG in train-time form.

Source: Ding et al. 2021, RepVGG (arXiv 2101.03697). State dicts have the keys of PaddleClas 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from reparam.conv import Block, Parallel
from reparam.models.attention import ChannelGate
from reparam.models.blocks import ReparamBlock, batch_norm_of
from reparam.models.layers import Activation, activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.registry import register
from reparam.models.repvgg_layout import SQUEEZE, VARIANTS, Structure
from reparam.models.training.base import conv_bn
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn
F = paddle.nn.functional


class SqueezeExcite(ChannelGate):
    """Squeeze-excite with the names of PaddleClas' RepVGG."""

    names = ("down", "up")
    reduction = SQUEEZE


class RepVGGBlock(ReparamBlock):
    """A KxK and a 1x1 convolution and the identity, each with BatchNorm, added, then ReLU.

    K is 3 in the paper's networks.

        train-time:  x -+- rbr_dense KxK - bn -+- sum - (se) - ReLU - y
                        +- rbr_1x1 ------- bn -+
                        +- rbr_identity: bn ---+   (stride 1 and as many channels out as in)
        deploy:      x --- rbr_reparam KxK ------------ (se) - ReLU - y

    Args:
        kernel_size: odd on both axes.
        use_se: squeeze-excite between the sum and the ReLU, in both forms.
        act: what comes in the place of the ReLU: its name, a function, or None.

    Source: arXiv 2101.03697, section 3.2 and figure 4.
    """

    deploy_name = "rbr_reparam"
    branch_names = ("rbr_identity", "rbr_dense", "rbr_1x1")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 3,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        groups: int = 1,
        use_se: bool = False,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        geometry = Geometry.of(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        self.se = SqueezeExcite(out_channels) if use_se else None
        self.act = activation(act)
        if deploy:
            self.rbr_reparam = geometry.conv(bias=True)
            return
        self.rbr_identity = None
        if geometry.keeps_positions:
            self.rbr_identity = nn.BatchNorm2D(in_channels, epsilon=epsilon)
        self.rbr_dense = conv_bn(geometry, epsilon)
        self.rbr_1x1 = conv_bn(geometry.with_kernel(1), epsilon)

    def forward(self, x: Any) -> Any:
        y = self._sum(x)
        return self.act(y if self.se is None else self.se(y))

    def _sum(self, x: Any) -> Any:
        if self.deployed:
            return self.rbr_reparam(x)
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return y if self.rbr_identity is None else y + self.rbr_identity(x)

    def branches(self) -> Block:
        branches = {"rbr_dense": self.rbr_dense.as_block(), "rbr_1x1": self.rbr_1x1.as_block()}
        if self.rbr_identity is not None:
            branches["rbr_identity"] = batch_norm_of(self.rbr_identity)
        return Parallel(branches)


@register("repvgg")
class RepVGG(Layer):
    """Class scores (N, class_num) of an image (N, in_channels, H, W).

    Args:
        num_blocks: blocks of each of the four stages after the first block.
        width_multiplier: of 64, 128, 256 and 512 channels, one for each stage.
        override_groups_map: groups of a layer where not 1, by its index; the first block is 0.
        use_se: squeeze-excite in every block.
        deploy: build the deploy form, every block as one convolution.
        epsilon: of every BatchNorm.

    Raises:
        UnsupportedModelError: no network has these settings.
    """

    input_name: ClassVar[str] = "x"

    def __init__(
        self,
        num_blocks: Sequence[int],
        width_multiplier: Sequence[float],
        override_groups_map: Mapping[int, int] | None = None,
        class_num: int = 1000,
        in_channels: int = 3,
        use_se: bool = False,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.structure = Structure.of(
            num_blocks, width_multiplier, override_groups_map, class_num, in_channels, use_se
        )
        first, *rest = [
            RepVGGBlock(
                shape.in_channels,
                shape.channels,
                stride=shape.stride,
                groups=shape.groups,
                use_se=use_se,
                deploy=deploy,
                epsilon=epsilon,
            )
            for shape in self.structure.blocks()
        ]
        self.stage0 = first
        blocks = iter(rest)
        for stage, count in enumerate(self.structure.num_blocks, start=1):
            setattr(self, f"stage{stage}", nn.Sequential(*(next(blocks) for _ in range(count))))
        self.linear = nn.Linear(self.structure.widths[-1], class_num)

    def forward(self, x: Any) -> Any:
        for stage in (self.stage0, self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
        return self.linear(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


for _name, _variant in VARIANTS.items():
    register(_name, **_variant)(RepVGG)
