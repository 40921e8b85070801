"""PP-LCNetV2 in train-time form. State dicts have the keys of PaddleClas 2.6.

Source: PaddleClas, legendary_models/pp_lcnet_v2.py; after Cui et al. 2021, PP-LCNet (arXiv
2109.15099).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from reparam.conv import Block, Parallel
from reparam.models.attention import ChannelGate
from reparam.models.blocks import ReparamBlock
from reparam.models.layers import Activation, ConvBNLayer, activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.pplcnetv2_layout import (
    CLASS_EXPAND,
    DROPOUT,
    SQUEEZE,
    VARIANTS,
    BlockShape,
    Structure,
    branch_kernels,
)
from reparam.models.registry import register
from reparam.models.training.base import conv_bn
from reparam.models.training.geometry import Geometry

nn = paddle.nn
F = paddle.nn.functional

Function = Callable[[Any], Any]


class SEModule(ChannelGate):
    """Squeeze-excite with the names of PP-LCNet."""

    names = ("conv1", "conv2")
    reduction = SQUEEZE


class _Separable(Layer):
    """A depthwise part, which a subclass adds; then squeeze-excite, and 1x1 once or twice."""

    def _add_pointwise(
        self,
        in_channels: int,
        out_channels: int,
        *,
        split_pw: bool,
        use_se: bool,
        act: Function,
        epsilon: float,
    ) -> None:
        self.se = SEModule(in_channels, act=act) if use_se else None
        middle = [("pw_conv_1", out_channels // 2), ("pw_conv_2", out_channels)]
        self.pointwise = []  # names of the layers that follow, in order
        inputs = in_channels
        for name, outputs in middle if split_pw else [("pw_conv", out_channels)]:
            setattr(self, name, ConvBNLayer(inputs, outputs, 1, act=act, epsilon=epsilon))
            self.pointwise.append(name)
            inputs = outputs

    def _pointwise(self, x: Any) -> Any:
        if self.se is not None:
            x = self.se(x)
        for name in self.pointwise:
            x = getattr(self, name)(x)
        return x


class DepthwiseSeparable(_Separable):
    """A depthwise ConvBNLayer, then 1x1: no branches.

    PaddleClas gives the depthwise layer a ReLU, whatever the activation of the network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        act: Activation = "relu",
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.dw_conv = ConvBNLayer(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=in_channels,
            act="relu",
            epsilon=epsilon,
        )
        self._add_pointwise(
            in_channels,
            out_channels,
            split_pw=False,
            use_se=False,
            act=activation(act),
            epsilon=epsilon,
        )

    def forward(self, x: Any) -> Any:
        return self._pointwise(self.dw_conv(x))


class RepDepthwiseSeparable(ReparamBlock, _Separable):
    """Depthwise convolutions of falling size, each with BatchNorm, added; then SE and 1x1.

        train-time:  x -+- dw_conv_list.0 KxK -------- bn -+- sum - act - (se) - 1x1 - y
                        +- dw_conv_list.1 (K-2)x(K-2) - bn -+
                        +- ... down to 1x1 ----------- bn -+   (1x1 at stride 1 only)
        deploy:      x --- dw_conv KxK ------------------------ act - (se) - 1x1 - y

    A checkpoint of PaddleClas in train-time form holds a ``dw_conv`` too: random, and of no use.

    Args:
        kernel_size: K, odd.
        split_pw: two 1x1 convolutions, with half of the output channels between them.
        use_se: squeeze-excite before the 1x1 convolution.
        use_shortcut: add the input to y, where the block keeps its shape.
        act: name of the activation, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.
    """

    deploy_name = "dw_conv"
    branch_names = ("dw_conv_list",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        *,
        stride: int = 1,
        split_pw: bool = False,
        use_se: bool = False,
        use_shortcut: bool = False,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        geometry = Geometry.of(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels
        )
        if deploy:
            self.dw_conv = geometry.conv(bias=True)
        else:
            sizes = branch_kernels(kernel_size, stride)
            self.dw_conv_list = nn.LayerList(
                [conv_bn(geometry.with_kernel(size), epsilon) for size in sizes]
            )
        self.act = activation(act)
        self.shortcut = use_shortcut and stride == 1 and in_channels == out_channels
        self._add_pointwise(
            in_channels,
            out_channels,
            split_pw=split_pw,
            use_se=use_se,
            act=self.act,
            epsilon=epsilon,
        )

    def forward(self, x: Any) -> Any:
        y = self._pointwise(self.act(self._depthwise(x)))
        return x + y if self.shortcut else y

    def _depthwise(self, x: Any) -> Any:
        if self.deployed:
            return self.dw_conv(x)
        y = self.dw_conv_list[0](x)
        for conv in self.dw_conv_list[1:]:
            y = y + conv(x)
        return y

    def branches(self) -> Block:
        return Parallel(
            {f"dw_conv_list.{i}": conv.as_block() for i, conv in enumerate(self.dw_conv_list)}
        )


@register("pplcnetv2")
class PPLCNetV2(Layer):
    """Class scores (N, class_num) of an image (N, in_channels, H, W).

    Args:
        scale: of all widths, each rounded to a multiple of 8.
        depths: blocks of each of the four stages.
        dropout_prob: of what the classifier reads. PaddleClas scales by 1 - dropout_prob in
            evaluation, not in training, so that this decides the scores.
        use_last_conv: a 1x1 convolution to ``class_expand`` channels before the classifier.
        act: name of the activation.
        deploy: build the deploy form, every block as one convolution.
        epsilon: of every BatchNorm.

    Raises:
        UnsupportedModelError: no network has these settings.
    """

    input_name: ClassVar[str] = "x"

    def __init__(
        self,
        scale: float,
        depths: Sequence[int],
        class_num: int = 1000,
        dropout_prob: float = DROPOUT,
        use_last_conv: bool = True,
        class_expand: int = CLASS_EXPAND,
        act: Activation = "relu",
        in_channels: int = 3,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.structure = Structure.of(
            scale, depths, class_num, use_last_conv, class_expand, in_channels
        )
        self.act = activation(act)
        first, *rest = [self._block(shape, deploy, epsilon) for shape in self.structure.blocks()]
        stem = ConvBNLayer(
            in_channels,
            self.structure.channels[0],
            3,
            stride=2,
            padding=1,
            act=self.act,
            epsilon=epsilon,
        )
        self.stem = nn.Sequential(stem, first)
        blocks = iter(rest)
        self.stages = nn.LayerList(
            [nn.Sequential(*(next(blocks) for _ in range(n))) for n in self.structure.depths]
        )
        self.last_conv = None
        if use_last_conv:
            channels = self.structure.channels[-1]
            self.last_conv = nn.Conv2D(channels, class_expand, 1, bias_attr=False)
            self.dropout = nn.Dropout(dropout_prob, mode="downscale_in_infer")
        self.fc = nn.Linear(self.structure.features, class_num)

    def _block(self, shape: BlockShape, deploy: bool, epsilon: float) -> Any:
        kind = shape.kind
        options: dict[str, Any] = {"stride": shape.stride, "act": self.act, "epsilon": epsilon}
        if not kind.branches:
            return DepthwiseSeparable(shape.in_channels, shape.channels, kind.kernel, **options)
        return RepDepthwiseSeparable(
            shape.in_channels,
            shape.channels,
            kind.kernel,
            split_pw=kind.split,
            use_se=kind.use_se,
            use_shortcut=kind.shortcut,
            deploy=deploy,
            **options,
        )

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        x = F.adaptive_avg_pool2d(x, 1)
        if self.last_conv is not None:
            x = self.dropout(self.act(self.last_conv(x)))
        return self.fc(paddle.flatten(x, 1))


for _name, _variant in VARIANTS.items():
    register(_name, **_variant)(PPLCNetV2)
