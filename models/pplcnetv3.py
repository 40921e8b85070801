"""PP-LCNetV3, the backbone of PP-OCR's mobile models, in train-time form.

Source: PaddleOCR 2.9, rec_lcnetv3.py. State dicts have its keys.
"""

from __future__ import annotations

from typing import Any, ClassVar

from reparam.conv import Affine, Block, Parallel, Sequential
from reparam.models.attention import ChannelGate
from reparam.models.blocks import batch_norm_of, float64, linear_part
from reparam.models.layers import Activation, ConvBNLayer, activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.pplcnetv3_layout import (
    CONV_BRANCHES,
    SQUEEZE,
    VARIANTS,
    BlockShape,
    Structure,
)
from reparam.models.registry import register
from reparam.models.training.base import SumBlock, conv_bn
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn
F = paddle.nn.functional


class LearnableAffine(Layer):
    """One learned factor and one learned shift for all channels."""

    def __init__(self) -> None:
        super().__init__()
        one, zero = nn.initializer.Constant(1.0), nn.initializer.Constant(0.0)
        self.scale = self.create_parameter([1], attr=paddle.ParamAttr(initializer=one))
        self.bias = self.create_parameter([1], attr=paddle.ParamAttr(initializer=zero))

    def forward(self, x: Any) -> Any:
        return self.scale * x + self.bias

    def as_block(self, channels: int) -> Affine:
        """Return what it does to each of ``channels`` channels."""
        scale, shift = (float64(p).reshape(-1).repeat(channels) for p in (self.scale, self.bias))
        return Affine(scale, shift)

    def make_neutral(self) -> None:
        """Make it the identity."""
        self.scale.set_value(paddle.ones_like(self.scale))
        self.bias.set_value(paddle.zeros_like(self.bias))


class AffineActivation(Layer):
    """An activation, then a learned factor and shift, which no convolution before it can take."""

    def __init__(self, act: Activation) -> None:
        super().__init__()
        self.act = activation(act)
        self.lab = LearnableAffine()

    def forward(self, x: Any) -> Any:
        return self.lab(self.act(x))


class LearnableRepLayer(SumBlock):
    """Several KxK convolutions, a 1x1 one and the identity, each with BatchNorm; then an affine.

        train-time:  x -+- conv_kxk.0 KxK - bn -+- sum - lab - act - act.lab - y
                        +- ...                  |
                        +- conv_1x1 ------ bn --+   (K over 1)
                        +- identity: bn --------+   (stride 1 and as many channels out as in)
        deploy:      x --- reparam_conv KxK ----------- lab - act - act.lab - y

    ``lab`` is one factor and shift for all channels. The deploy form has it in the convolution,
    and keeps it as 1 and 0: so PaddleOCR, which applies it in either form, loads the weights.

    Args:
        kernel_size: odd on both axes.
        num_conv_branches: how many KxK convolutions.
        act: name of the activation, a function, or None for neither it nor its affine.
        idle_act: hold the parameters of ``act.lab`` and apply neither it nor the activation, as
            PaddleOCR does where the stride is 2 on both axes.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.
    """

    deploy_name = "reparam_conv"
    branch_names = ("identity", "conv_kxk", "conv_1x1")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 3,
        *,
        stride: PerAxis = 1,
        dilation: PerAxis = 1,
        groups: int = 1,
        num_conv_branches: int = CONV_BRANCHES,
        act: Activation = "hardswish",
        idle_act: bool = False,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        super().__init__(geometry, None, deploy)
        if not deploy:
            self._add_branches(num_conv_branches, epsilon)
        self.lab = LearnableAffine()
        if act is not None:
            self.act = AffineActivation(act)
        self.idle = idle_act or act is None

    def _add_branches(self, num_conv_branches: int, epsilon: float) -> None:
        geometry = self.geometry
        self.identity = None
        if geometry.keeps_positions:
            self.identity = nn.BatchNorm2D(geometry.in_channels, epsilon=epsilon)
        self.conv_kxk = nn.LayerList([conv_bn(geometry, epsilon) for _ in range(num_conv_branches)])
        self.conv_1x1 = None
        if geometry.kernel != (1, 1):
            self.conv_1x1 = conv_bn(geometry.with_kernel(1), epsilon)

    def forward(self, x: Any) -> Any:
        y = self.lab(self.reparam_conv(x) if self.deployed else self.train_time(x))
        return y if self.idle else self.act(y)

    def train_time(self, x: Any) -> Any:
        y = self.conv_kxk[0](x)
        for conv in self.conv_kxk[1:]:
            y = y + conv(x)
        for branch in (self.conv_1x1, self.identity):
            y = y if branch is None else y + branch(x)
        return y

    def as_block(self) -> Block:
        if not self.deployed:
            return self.branches()
        return Sequential(linear_part(self.reparam_conv), self._affine())

    def _affine(self) -> Affine:
        return self.lab.as_block(self.geometry.out_channels)

    def branches(self) -> Block:
        found: dict[str, Block] = {
            f"conv_kxk.{index}": conv.as_block() for index, conv in enumerate(self.conv_kxk)
        }
        if self.conv_1x1 is not None:
            found["conv_1x1"] = self.conv_1x1.as_block()
        if self.identity is not None:
            found["identity"] = batch_norm_of(self.identity)
        return Sequential(Parallel(found), self._affine())

    def install(self, conv: Any) -> None:
        super().install(conv)
        self.lab.make_neutral()


class SELayer(ChannelGate):
    """Squeeze-excite with the names of PP-LCNet, and a gate of straight lines."""

    names = ("conv1", "conv2")
    reduction = SQUEEZE

    def __init__(self, channels: int) -> None:
        super().__init__(channels, gate=F.hardsigmoid)


class LCNetV3Block(Layer):
    """A depthwise LearnableRepLayer, squeeze-excite if any, and a 1x1 LearnableRepLayer."""

    def __init__(
        self,
        shape: BlockShape,
        conv_branches: int,
        *,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        inputs, kind = shape.in_channels, shape.kind
        options: dict[str, Any] = {"num_conv_branches": conv_branches, "deploy": deploy}
        self.dw_conv = LearnableRepLayer(
            inputs,
            inputs,
            kind.kernel,
            stride=kind.stride,
            groups=inputs,
            idle_act=kind.stride == 2,
            epsilon=epsilon,
            **options,
        )
        self.se = SELayer(inputs) if kind.use_se else None
        self.pw_conv = LearnableRepLayer(inputs, shape.channels, 1, epsilon=epsilon, **options)

    def forward(self, x: Any) -> Any:
        x = self.dw_conv(x)
        return self.pw_conv(x if self.se is None else self.se(x))


@register("pplcnetv3")
class PPLCNetV3(Layer):
    """What PP-OCR's heads read of an image (N, in_channels, H, W).

    A text detector's (``det``) are four feature maps, at strides 4, 8, 16 and 32. A text
    recogniser's is one map, its height divided by 48 and its width by 8; training makes it
    1 x 40 whatever the image.

    Args:
        scale: of all widths, each rounded to a multiple of 16.
        conv_kxk_num: convolutions of full size in every LearnableRepLayer.
        det: the text detector, else the recogniser.
        deploy: build the deploy form, every block as one convolution.
        epsilon: of every BatchNorm.

    Raises:
        UnsupportedModelError: no network has these settings.
    """

    input_name: ClassVar[str] = "x"

    def __init__(
        self,
        scale: float = 1.0,
        conv_kxk_num: int = CONV_BRANCHES,
        det: bool = False,
        in_channels: int = 3,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.structure = Structure.of(scale, det, conv_kxk_num, in_channels)
        channels = self.structure.channels
        self.conv1 = ConvBNLayer(in_channels, channels[0], 3, stride=2, padding=1, epsilon=epsilon)
        blocks = iter(self.structure.blocks())
        for stage, kinds in self.structure.stages.items():
            layers = [
                LCNetV3Block(next(blocks), conv_kxk_num, deploy=deploy, epsilon=epsilon)
                for _ in kinds
            ]
            setattr(self, f"blocks{stage}", nn.Sequential(*layers))
        self.layer_list = None
        if self.structure.detector_channels is not None:
            pairs = zip(channels[2:], self.structure.detector_channels, strict=True)
            self.layer_list = nn.LayerList([nn.Conv2D(i, o, 1) for i, o in pairs])

    def forward(self, x: Any) -> Any:
        x = self.blocks2(self.conv1(x))
        maps = []
        for stage in (self.blocks3, self.blocks4, self.blocks5, self.blocks6):
            x = stage(x)
            maps.append(x)
        if self.layer_list is not None:
            return [conv(one) for conv, one in zip(self.layer_list, maps, strict=True)]
        return F.adaptive_avg_pool2d(x, [1, 40]) if self.training else F.avg_pool2d(x, [3, 2])

    @property
    def default_size(self) -> tuple[int, int] | None:
        """(H, W) of the lines of text that a recogniser is fed; None of a detector."""
        return (48, 320) if self.layer_list is None else None


for _name, _variant in VARIANTS.items():
    register(_name, **_variant)(PPLCNetV3)
