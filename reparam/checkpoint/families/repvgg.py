"""RepVGG: a wide convolution, one of one tap and the identity, each with its BatchNorm.

Source: Ding et al. 2021, RepVGG (arXiv 2101.03697), section 3.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Choice, Epsilon, Family
from reparam.checkpoint.families.terms import (
    MAYBE,
    POINT,
    Chain,
    Kernel,
    Maybe,
    Norm,
    Scale,
    Sum,
    conv_norm,
)

_YOLO = (
    Choice(1e-5, "RepVGG, PaddleClas, DAMO-YOLO"),
    Choice(1e-3, "YOLOv6, mmyolo", "ERBlock_"),
)

REPVGG = Family(
    name="RepVGG",
    term=Sum(
        conv_norm("rbr_dense"),
        conv_norm("rbr_1x1", POINT),
        Maybe(Norm("rbr_identity")),
    ),
    deploy="rbr_reparam",
    epsilon=Epsilon(
        1e-5, None, "PaddleClas model_zoo/repvgg.py, BatchNorm2D's default", choices=_YOLO
    ),
    anchors=("rbr_dense", "rbr_1x1", "rbr_identity"),
    stays=("se", "nonlinearity", "post_se"),
    source="RepVGG, repvgg.py",
    remark="YOLOv6 spells its blocks the same way and uses 1e-3: give --epsilon 1e-3 there",
)

PPYOLOE = Family(
    name="RepVggBlock",
    term=Sum(
        conv_norm("conv1"),
        Chain(
            Kernel("conv2.conv", POINT, bias=MAYBE),
            Norm("conv2.bn"),
            Maybe(Scale("alpha", scalar=True)),
            label="conv2",
        ),
    ),
    deploy="conv",
    epsilon=Epsilon(
        1e-5,
        None,
        "PaddleDetection backbones/cspresnet.py, BatchNorm2D's default",
        choices=(
            Choice(1e-3, "RepConv of ultralytics and YOLOv9", "model."),
            Choice(1e-5, "PP-YOLOE rewritten for PyTorch"),
        ),
    ),
    source="PaddleDetection, ppdet/modeling/backbones/cspresnet.py",
)

FAMILIES = (REPVGG, PPYOLOE)
