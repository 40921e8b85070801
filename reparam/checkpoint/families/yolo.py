"""The RepVGG blocks of object detectors, most of them with an epsilon of 1e-3.

Source: the code of each project; the block is that of RepVGG (arXiv 2101.03697).
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    NEVER,
    POINT,
    Chain,
    Kernel,
    Maybe,
    Norm,
    Sum,
    conv_norm,
)

_ULTRALYTICS = Epsilon.of(1e-3, "ultralytics utils/torch_utils.py, initialize_weights")

YOLOV7 = Family(
    name="RepConv",
    term=Sum(
        conv_norm("rbr_dense", conv="0", norm="1"),
        conv_norm("rbr_1x1", POINT, conv="0", norm="1"),
        Maybe(Norm("rbr_identity")),
    ),
    deploy="rbr_reparam",
    epsilon=Epsilon.of(
        1e-3, "YOLOv7 utils/torch_utils.py, initialize_weights, and PaddleYOLO's trainer"
    ),
    anchors=("rbr_dense", "rbr_1x1", "rbr_identity"),
    source="YOLOv7, models/common.py; PaddleYOLO, ppdet/modeling/backbones/efficientrep.py",
)

ULTRALYTICS = Family(
    name="RepConv (ultralytics)",
    term=Sum(conv_norm("conv1"), conv_norm("conv2", POINT), Norm("bn", label="identity")),
    deploy="conv",
    epsilon=_ULTRALYTICS,
    source="ultralytics, nn/modules/conv.py, RepConv with bn=True",
)

CONV2 = Family(
    name="Conv2",
    term=Chain(
        Sum(Kernel("conv", bias=NEVER), Kernel("cv2", POINT, bias=NEVER)),
        Norm("bn"),
        label="conv",
    ),
    deploy="conv",
    epsilon=_ULTRALYTICS,
    source="ultralytics, nn/modules/conv.py, Conv2",
)

YOLOV10 = Family(
    name="RepVGGDW",
    term=Sum(
        conv_norm("conv", (7, 7), depthwise=True),
        conv_norm("conv1", (3, 3), depthwise=True),
    ),
    deploy="conv",
    epsilon=_ULTRALYTICS,
    source="YOLOv10 and ultralytics, nn/modules/block.py, RepVGGDW",
)

RTDETR = Family(
    name="RepVggBlock (RT-DETR)",
    term=Sum(conv_norm("conv1", norm="norm"), conv_norm("conv2", POINT, norm="norm")),
    deploy="conv",
    epsilon=Epsilon.of(1e-5, "BatchNorm2d's default, which RT-DETR and D-FINE keep"),
    source="RT-DETR, hybrid_encoder.py, RepVggBlock; D-FINE, VGGBlock",
)

FAMILIES = (YOLOV7, ULTRALYTICS, CONV2, YOLOV10, RTDETR)
