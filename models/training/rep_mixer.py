"""The token mixer of FastViT and MobileCLIP. State dicts have the keys of their authors' code."""

from __future__ import annotations

from typing import Any

from reparam.conv import Affine, Block, Identity, Parallel, Sequential
from reparam.models.blocks import batch_norm_of, float64
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.training.base import SumBlock, conv_bn
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn

LAYER_SCALE = 1e-5  # FastViT's initial value


class _Norm(Layer):
    """A BatchNorm under the name that a block without convolutions gives it."""

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2D(channels, epsilon=epsilon)

    def forward(self, x: Any) -> Any:
        return self.rbr_skip(x)


class _Mixer(Layer):
    """KxK, 1x1 (unless K is 1) and the identity, each with BatchNorm, added."""

    def __init__(self, geometry: Geometry, epsilon: float) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2D(geometry.out_channels, epsilon=epsilon)
        self.rbr_conv = nn.LayerList([conv_bn(geometry, epsilon)])
        self.rbr_scale = None
        if geometry.kernel != (1, 1):
            self.rbr_scale = conv_bn(geometry.with_kernel(1), epsilon)

    def forward(self, x: Any) -> Any:
        y = self.rbr_conv[0](x) + self.rbr_skip(x)
        return y if self.rbr_scale is None else y + self.rbr_scale(x)

    def as_block(self) -> Parallel:
        branches = {
            "rbr_conv.0": self.rbr_conv[0].as_block(),
            "rbr_skip": batch_norm_of(self.rbr_skip),
        }
        if self.rbr_scale is not None:
            branches["rbr_scale"] = self.rbr_scale.as_block()
        return Parallel(branches)


class RepMixer(SumBlock):
    """The input plus a learned multiple of what a depthwise mixer adds to its normalised self.

        train-time:  y = x + layer_scale * (mixer(x) - norm(x))
        deploy:      y = reparam_conv KxK (x), depthwise

    ``mixer`` is a KxK and a 1x1 convolution and the identity, each with BatchNorm, added; ``norm``
    is a BatchNorm; ``layer_scale`` is one factor for each channel.

    Args:
        channels: C, in and out.
        kernel_size: odd on both axes.
        layer_scale: initial value.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.

    Source: Vasu et al. 2023, FastViT (arXiv 2303.14189), section 3.2.
    """

    deploy_name = "reparam_conv"
    branch_names = ("mixer", "norm", "layer_scale")

    def __init__(
        self,
        channels: int,
        kernel_size: PerAxis = 3,
        *,
        layer_scale: float = LAYER_SCALE,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(channels, channels, kernel_size, groups=channels)
        super().__init__(geometry, None, deploy)
        if deploy:
            return
        self.norm = _Norm(channels, epsilon)
        self.mixer = _Mixer(geometry, epsilon)
        initial = paddle.ParamAttr(initializer=nn.initializer.Constant(layer_scale))
        self.layer_scale = self.create_parameter([channels, 1, 1], attr=initial)

    def train_time(self, x: Any) -> Any:
        return x + self.layer_scale * (self.mixer(x) - self.norm(x))

    def branches(self) -> Block:
        scale = float64(self.layer_scale).reshape(-1)
        return Parallel(
            {
                "x": Identity(self.geometry.out_channels),
                "mixer": Sequential(self.mixer.as_block(), Affine(scale, 0 * scale)),
                "norm": Sequential(batch_norm_of(self.norm.rbr_skip), Affine(-scale, 0 * scale)),
            }
        )
