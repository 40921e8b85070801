"""PP-YOLOE and PP-YOLOE+, the detectors, in train-time form.

Source: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250). State dicts have the keys of PaddleDetection
2.6. Losses and label assignment are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from reparam.detection.records import DECODED, RAW, Maps
from reparam.errors import UnsupportedModelError
from reparam.models.csppan import CustomCSPPAN
from reparam.models.cspresnet import CSPResNet
from reparam.models.cspresnet_layout import CHANNELS, LAYERS
from reparam.models.layers import Activation, ConvBNLayer, RepVggBlock, activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.ppyoloe_layout import (
    BINS,
    CLASSES,
    CONV_BN,
    NECK_BLOCKS,
    NECK_CHANNELS,
    REP_VGG,
    VARIANTS,
    Structure,
)
from reparam.models.registry import register

nn = paddle.nn
F = paddle.nn.functional


class ESEAttn(Layer):
    """Channel attention of the head: a gate from the mean of the map, then a convolution.

    Source: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250), section 2.2, "ET-head".
    """

    def __init__(
        self, channels: int, attn_conv: str | None, *, act: Activation, deploy: bool, epsilon: float
    ) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1)
        self.conv: Any = None
        if attn_conv == CONV_BN:
            self.conv = ConvBNLayer(channels, channels, 1, act=act, epsilon=epsilon)
        elif attn_conv == REP_VGG:
            self.conv = RepVggBlock(channels, channels, act=act, deploy=deploy, epsilon=epsilon)

    def forward(self, x: Any, mean: Any) -> Any:
        y = x * F.sigmoid(self.fc(mean))
        return y if self.conv is None else self.conv(y)


class PPYOLOEHead(Layer):
    """The efficient task-aligned head: for each level, class logits and logits of distances."""

    def __init__(
        self, structure: Structure, *, act: Activation, deploy: bool, epsilon: float
    ) -> None:
        super().__init__()
        widths, bins = structure.neck_channels, structure.bins
        self.bins, self.strides = bins, structure.strides
        options: dict[str, Any] = {"act": act, "deploy": deploy, "epsilon": epsilon}
        attention = structure.attn_conv
        self.stem_cls = nn.LayerList([ESEAttn(n, attention, **options) for n in widths])
        self.stem_reg = nn.LayerList([ESEAttn(n, attention, **options) for n in widths])
        classes = structure.num_classes
        self.pred_cls = nn.LayerList([nn.Conv2D(n, classes, 3, padding=1) for n in widths])
        self.pred_reg = nn.LayerList([nn.Conv2D(n, 4 * bins, 3, padding=1) for n in widths])
        self.proj_conv = nn.Conv2D(bins, 1, 1, bias_attr=False)
        values = np.arange(bins, dtype="float32").reshape(1, bins, 1, 1)
        self.proj_conv.weight.set_value(paddle.to_tensor(values))
        self.proj_conv.weight.stop_gradient = True

    def forward(self, features: Sequence[Any]) -> list[Any]:
        """Return the maps of :class:`reparam.detection.Maps`, in its order."""
        maps = []
        for level, x in enumerate(features):
            mean = x.mean((2, 3), keepdim=True)
            maps.append(self.pred_cls[level](self.stem_cls[level](x, mean) + x))
            maps.append(self.pred_reg[level](self.stem_reg[level](x, mean)))
        return maps

    def decoded(self, maps: Sequence[Any]) -> tuple[Any, Any]:
        """Return boxes (N, A, 4), x1 y1 x2 y2 in pixels of the input, and scores (N, C, A)."""
        boxes, scores = [], []
        for stride, cls, reg in zip(self.strides, maps[::2], maps[1::2], strict=True):
            height, width = reg.shape[2:]
            bins = reg.reshape([reg.shape[0], 4, self.bins, height * width])
            distance = self.proj_conv(F.softmax(bins.transpose([0, 2, 1, 3]), axis=1)).squeeze(1)
            sides = distance.transpose([0, 2, 1]) * stride  # (N, H * W, 4)
            centre = _centres(height, width, stride, reg.dtype)
            boxes.append(paddle.concat([centre - sides[..., :2], centre + sides[..., 2:]], axis=-1))
            scores.append(F.sigmoid(cls).flatten(2))
        return paddle.concat(boxes, axis=1), paddle.concat(scores, axis=2)

    def for_losses(self, maps: Sequence[Any]) -> tuple[Any, Any]:
        """Return scores (N, A, C) and logits of distances (N, A, 4 * bins), as losses take them."""
        scores = [F.sigmoid(cls).flatten(2) for cls in maps[::2]]
        distances = [reg.flatten(2) for reg in maps[1::2]]
        return (
            paddle.concat(scores, axis=2).transpose([0, 2, 1]),
            paddle.concat(distances, axis=2).transpose([0, 2, 1]),
        )


@register("ppyoloe")
class PPYOLOE(Layer):
    """Boxes and scores of an image (N, 3, H, W), H and W multiples of 32.

    In training mode: scores (N, A, C) and logits of distances (N, A, 4 * bins), for losses. A is
    the number of cells of all levels, those of the largest stride first.

    Args:
        layers: blocks of each stage of the backbone, before ``depth_mult``.
        channels: of the stem, then of each stage, before ``width_mult``.
        use_large_stem: three convolutions in the stem, not two.
        use_alpha: blocks of the backbone learn a factor for their 1x1 branch, as in PP-YOLOE+.
        neck_channels: of the neck's outputs, the largest stride first, before ``width_mult``; one
            level for each, of the last stages of the backbone.
        neck_blocks: basic blocks in each stage of the neck, before ``depth_mult``.
        neck_stages: such stages after one another at each level.
        neck_alpha: as use_alpha, for the neck.
        spp: pool over 5, 9 and 13 pixels at the first level.
        attn_conv: what follows the attention of the head: "convbn", "repvgg", or None.
        num_classes: of the detector.
        bins: of the distribution of a distance.
        act: name of the activation.
        trt: write swish as x * sigmoid(x).
        head: "decoded" for boxes and scores, or "raw" for the maps of each level, which
            :attr:`maps` describes.
        deploy: build the deploy form, every block as one convolution.
        epsilon: of every BatchNorm.

    Raises:
        UnsupportedModelError: no network has these settings.
    """

    input_name: ClassVar[str] = "image"
    default_size: ClassVar[tuple[int, int]] = (640, 640)
    size_multiple: ClassVar[int] = 32

    def __init__(
        self,
        layers: Sequence[int] = LAYERS,
        channels: Sequence[int] = CHANNELS,
        use_large_stem: bool = True,
        use_alpha: bool = False,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        in_channels: int = 3,
        neck_channels: Sequence[int] = NECK_CHANNELS,
        neck_blocks: int = NECK_BLOCKS,
        neck_stages: int = 1,
        neck_alpha: bool = False,
        spp: bool = True,
        attn_conv: str | None = CONV_BN,
        num_classes: int = CLASSES,
        bins: int = BINS,
        act: Activation = "swish",
        trt: bool = False,
        head: str = DECODED,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        if head not in (RAW, DECODED):
            raise UnsupportedModelError(
                f"there is no head '{head}'", hint=f"'{DECODED}' or '{RAW}'"
            )
        self.head = head
        self.structure = Structure.of(
            layers=layers, channels=channels, use_large_stem=use_large_stem, use_alpha=use_alpha,
            width_mult=width_mult, depth_mult=depth_mult, in_channels=in_channels,
            neck_channels=neck_channels, neck_blocks=neck_blocks, neck_stages=neck_stages,
            neck_alpha=neck_alpha, spp=spp, attn_conv=attn_conv, num_classes=num_classes, bins=bins,
        )  # fmt: skip
        self.structure.check()
        backbone = self.structure.backbone
        self.backbone = CSPResNet(
            layers=backbone.layers, channels=backbone.channels, act=act, trt=trt,
            return_idx=list(self.structure.levels), use_large_stem=use_large_stem,
            use_alpha=use_alpha, in_channels=in_channels, deploy=deploy, epsilon=epsilon,
        )  # fmt: skip
        options: dict[str, Any] = {
            "act": activation(act, trt), "deploy": deploy, "epsilon": epsilon
        }  # fmt: skip
        self.neck = CustomCSPPAN(self.structure, **options)
        self.yolo_head = PPYOLOEHead(self.structure, **options)

    def forward(self, image: Any) -> Any:
        maps = self.yolo_head(self.neck(self.backbone(image)))
        if self.training:
            return self.yolo_head.for_losses(maps)
        return maps if self.head == RAW else self.yolo_head.decoded(maps)

    @property
    def maps(self) -> Maps:
        """What the maps of each level mean."""
        projection = self.yolo_head.proj_conv.weight.astype("float64").numpy().ravel()
        return Maps(
            self.structure.strides, self.structure.num_classes, tuple(map(float, projection))
        )


for _name, _variant in VARIANTS.items():
    register(_name, **_variant)(PPYOLOE)


def _centres(height: int, width: int, stride: int, dtype: Any) -> Any:
    """Return the centres (H * W, 2) of the cells of a map, x and y in pixels."""
    x = (paddle.arange(width).astype(dtype) + 0.5) * stride
    y = (paddle.arange(height).astype(dtype) + 0.5) * stride
    rows, columns = paddle.meshgrid(y, x)
    return paddle.stack([columns.flatten(), rows.flatten()], axis=-1)
