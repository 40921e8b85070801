"""PP-LCNet's blocks: depthwise kernels of falling size, and LearnableRepLayer with its affine.

Source: Cui et al. 2021, PP-LCNet (arXiv 2109.15099), and the code of PaddleClas and PaddleOCR.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    ODD,
    POINT,
    SMALLER,
    Chain,
    Each,
    Maybe,
    Norm,
    Scale,
    Sum,
    conv_norm,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2D's default, which PaddleClas and PaddleOCR keep")

V2 = Family(
    name="PP-LCNetV2",
    term=Sum(Each(conv_norm("dw_conv_list.{i}", SMALLER))),
    deploy="dw_conv",
    epsilon=_EPSILON,
    anchors=("dw_conv_list",),
    stays=("se", "pw_conv", "pw_conv_1", "pw_conv_2", "shortcut_conv", "pw_bn", "act"),
    source="PaddleClas, legendary_models/pp_lcnet_v2.py",
)

V3 = Family(
    name="LearnableRepLayer",
    term=Chain(
        Sum(
            Each(conv_norm("conv_kxk.{i}", ODD)),
            Maybe(conv_norm("conv_1x1", POINT)),
            Maybe(Norm("identity")),
        ),
        Scale("lab.scale", "lab.bias", scalar=True, neutral=True),
    ),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("conv_kxk",),
    stays=("act",),
    source="PaddleOCR, rec_lcnetv3.py",
)

FAMILIES = (V2, V3)
