"""MobileOne: several convolutions of one size, one of one tap and the identity, all normalized.

Source: Vasu et al. 2022, MobileOne (arXiv 2206.04040), section 3.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    ODD,
    POINT,
    Each,
    Maybe,
    Norm,
    Sum,
    conv_norm,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2d's default, which no published MobileOne changes")


def branches(convs: str, scale: str, skip: str, norm: str = "bn") -> Sum:
    """Return the three kinds of branches under the names that a project gives them."""
    return Sum(
        Each(conv_norm(f"{convs}.{{i}}", ODD, norm=norm)),
        Maybe(conv_norm(scale, POINT, norm=norm)),
        Maybe(Norm(skip)),
    )


MOBILEONE = Family(
    name="MobileOne",
    term=branches("rbr_conv", "rbr_scale", "rbr_skip"),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("rbr_conv", "rbr_scale"),
    stays=("se",),
    source="ml-mobileone, mobileone.py",
)

TIMM = Family(
    name="MobileOne (timm)",
    term=branches("conv_kxk", "conv_scale", "identity"),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("conv_kxk",),
    stays=("attn", "se", "act"),
    source="timm, models/byobnet.py and models/fastvit.py, MobileOneBlock",
)

MMPRETRAIN = Family(
    name="MobileOne (mmpretrain)",
    term=branches("branch_conv_list", "branch_scale", "branch_norm", norm="norm"),
    deploy="branch_reparam",
    epsilon=_EPSILON,
    anchors=("branch_conv_list",),
    stays=("se", "act"),
    source="mmpretrain, models/backbones/mobileone.py",
)

_PADDLEDETECTION = "PaddleDetection, ppdet/modeling/backbones/mobileone.py"

DEPTHWISE = Family(
    name="MobileOne (PaddleDetection)",
    part="conv1",
    term=Sum(
        Each(conv_norm("depth_conv.{i}", ODD, norm="norm", depthwise=True)),
        conv_norm("rbr_1x1", POINT, norm="norm", depthwise=True),
        Maybe(Norm("rbr_identity_st1")),
    ),
    deploy="conv1",
    epsilon=_EPSILON,
    anchors=("depth_conv", "rbr_identity_st1"),
    stays=("point_conv", "rbr_identity_st2", "conv2"),
    source=_PADDLEDETECTION,
)

POINTWISE = Family(
    name="MobileOne (PaddleDetection)",
    part="conv2",
    term=Sum(
        Each(conv_norm("point_conv.{i}", POINT, norm="norm", dense=True)),
        Maybe(Norm("rbr_identity_st2")),
    ),
    deploy="conv2",
    epsilon=_EPSILON,
    anchors=("point_conv", "rbr_identity_st2"),
    stays=("depth_conv", "rbr_1x1", "rbr_identity_st1", "conv1"),
    source=_PADDLEDETECTION,
)

FAMILIES = (MOBILEONE, TIMM, MMPRETRAIN, DEPTHWISE, POINTWISE)
