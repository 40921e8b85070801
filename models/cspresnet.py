"""CSPResNet, the backbone of PP-YOLOE, in train-time form.

Sources: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250), section 2.2; Wang et al. 2019, CSPNet
(arXiv 1911.11929). State dicts have the keys of PaddleDetection 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from reparam.errors import ReparamError, UnsupportedModelError
from reparam.models.cspresnet_layout import (
    CHANNELS,
    LAYERS,
    VARIANTS,
    Structure,
    returned,
    scaled,
)
from reparam.models.layers import Activation, BasicBlock, ConvBNLayer, EffectiveSELayer, activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.registry import register

nn = paddle.nn
F = paddle.nn.functional


class FeatureMap(NamedTuple):
    """Channels of a feature map, and its stride in pixels of the image."""

    channels: int
    stride: int


class CSPResStage(Layer):
    """Halve H and W, send half of the channels through ``blocks``, join, attend, widen.

    x - conv_down -+- conv1 ------------+- concat - attn - conv3 - y
                   +- conv2 - blocks ---+
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        *,
        act: Activation = "relu",
        use_alpha: bool = False,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        mid = (in_channels + out_channels) // 2
        half = mid // 2
        options: dict[str, Any] = {"act": act, "epsilon": epsilon}
        self.conv_down = ConvBNLayer(in_channels, mid, 3, stride=2, padding=1, **options)
        self.conv1 = ConvBNLayer(mid, half, 1, **options)
        self.conv2 = ConvBNLayer(mid, half, 1, **options)
        self.blocks = nn.Sequential(
            *(BasicBlock(half, alpha=use_alpha, deploy=deploy, **options) for _ in range(blocks))
        )
        self.attn = EffectiveSELayer(mid)
        self.conv3 = ConvBNLayer(mid, out_channels, 1, **options)

    def forward(self, x: Any) -> Any:
        x = self.conv_down(x)
        y = paddle.concat([self.conv1(x), self.blocks(self.conv2(x))], axis=1)
        return self.conv3(self.attn(y))


@register("cspresnet")
class CSPResNet(Layer):
    """Feature maps of an image (N, 3, H, W), or its class scores (N, num_classes).

    Args:
        layers: blocks of each stage, before ``depth_mult``.
        channels: of the stem, then of each stage, before ``width_mult``.
        act: name of the activation.
        return_idx: stages whose outputs are returned; if None those of PP-YOLOE, 1 to 3, that
            there are, else the last.
        use_large_stem: three convolutions in the stem, not two.
        use_alpha: learn a factor for the 1x1 branch of each block.
        trt: write swish as x * sigmoid(x).
        num_classes: add a classifier, ``head``; then class scores are returned.
        deploy: build the deploy form, every block as one convolution.
        epsilon: of every BatchNorm.

    Raises:
        UnsupportedModelError: no network has these settings.
    """

    input_name: ClassVar[str] = "image"

    def __init__(
        self,
        layers: Sequence[int] = LAYERS,
        channels: Sequence[int] = CHANNELS,
        act: Activation = "swish",
        return_idx: Sequence[int] | None = None,
        use_large_stem: bool = False,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        trt: bool = False,
        use_alpha: bool = False,
        in_channels: int = 3,
        num_classes: int | None = None,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.structure = Structure(
            layers=scaled(layers, depth_mult),
            channels=scaled(channels, width_mult),
            use_large_stem=use_large_stem,
            use_alpha=use_alpha,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        self.structure.check()
        stages = len(self.structure.layers)
        chosen = returned(stages) if return_idx is None else return_idx
        self.return_idx = _checked(chosen, stages)
        function = activation(act, trt)
        self.stem = _stem(self.structure, function, epsilon)
        self.stages = nn.Sequential(*_stages(self.structure, function, deploy, epsilon))
        self.head = None
        if num_classes is not None:
            self.head = nn.Linear(self.structure.channels[-1], num_classes)

    def forward(self, inputs: Any) -> Any:
        """Return the feature maps at ``return_idx``, or class scores where there is a head.

        Args:
            inputs: the image, or a dict that holds it as "image".
        """
        x = self.stem(_image(inputs, self.input_name))
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.return_idx:
                outputs.append(x)
        if self.head is not None:
            return self.head(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return outputs

    @property
    def out_shape(self) -> list[FeatureMap]:
        """Channels and stride of each feature map that is returned without a head."""
        channels = self.structure.channels
        return [FeatureMap(channels[i + 1], 4 * 2**i) for i in self.return_idx]


for _name, _variant in VARIANTS.items():
    register(_name, **_variant)(CSPResNet)


def _image(inputs: Any, name: str) -> Any:
    if not isinstance(inputs, dict):
        return inputs
    if name not in inputs:
        raise ReparamError(
            f"CSPResNet needs the input '{name}'", found=f"a dict with {', '.join(inputs)}"
        )
    return inputs[name]


def _stem(structure: Structure, act: Activation, epsilon: float) -> Any:
    widths = (structure.in_channels, *structure.stem)
    convs = []
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        stride = 2 if index == 1 else 1
        conv = ConvBNLayer(before, after, 3, stride=stride, padding=1, act=act, epsilon=epsilon)
        convs.append((f"conv{index}", conv))
    return nn.Sequential(*convs)


def _stages(
    structure: Structure, act: Activation, deploy: bool, epsilon: float
) -> list[CSPResStage]:
    return [
        CSPResStage(
            structure.channels[index],
            structure.channels[index + 1],
            blocks,
            act=act,
            use_alpha=structure.use_alpha,
            deploy=deploy,
            epsilon=epsilon,
        )
        for index, blocks in enumerate(structure.layers)
    ]


def _checked(return_idx: Sequence[int], stages: int) -> list[int]:
    if not return_idx or not all(0 <= index < stages for index in return_idx):
        raise UnsupportedModelError(
            f"'return_idx' {list(return_idx)} does not fit CSPResNet of {stages} stages",
            hint=f"one or more of 0 to {stages - 1}",
        )
    return sorted(set(return_idx))
