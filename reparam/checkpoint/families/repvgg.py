"""RepVGG: a wide convolution, one of one tap and the identity, each with its BatchNorm.

The projects that rewrote it gave the same three branches other names. Those of object detectors
are in :mod:`reparam.checkpoint.families.yolo`.

Source: Ding et al. 2021, RepVGG (arXiv 2101.03697), section 3.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Choice, Epsilon, Family
from reparam.checkpoint.families.terms import (
    ALWAYS,
    COLUMN,
    MAYBE,
    ODD,
    POINT,
    ROW,
    SMALLER,
    Chain,
    Each,
    Kernel,
    Maybe,
    Norm,
    Scale,
    Sum,
    conv_norm,
)

YOLO_OR_NOT = (
    Choice(1e-5, "RepVGG, PaddleClas, DAMO-YOLO"),
    Choice(1e-3, "YOLOv6, mmyolo", "ERBlock_"),
)
_DEFAULT = "BatchNorm2d's default, which {} keeps"


def _scaled(name: str) -> Chain:
    """Return the term of the branch of one tap, times the learned ``alpha`` where there is one."""
    parts = conv_norm(name, POINT).parts
    return Chain(*parts, Maybe(Scale("alpha", scalar=True)), label=name)


REPVGG = Family(
    name="RepVGG",
    term=Sum(
        conv_norm("rbr_dense"),
        _scaled("rbr_1x1"),
        Maybe(Norm("rbr_identity")),
    ),
    deploy="rbr_reparam",
    epsilon=Epsilon(
        1e-5, None, "PaddleClas model_zoo/repvgg.py, BatchNorm2D's default", choices=YOLO_OR_NOT
    ),
    anchors=("rbr_dense", "rbr_1x1", "rbr_identity"),
    stays=("se", "nonlinearity", "post_se"),
    source="RepVGG, repvgg.py; PaddleClas, model_zoo/repvgg.py; alpha: mmyolo, yolo_bricks.py",
    remark="YOLOv6 spells its blocks the same way and uses 1e-3: give --epsilon 1e-3 there",
)

FOLDED = Family(
    name="RepVGG with folded BatchNorms",
    term=Sum(
        Kernel("rbr_dense.conv", bias=ALWAYS, label="rbr_dense"),
        Kernel("rbr_1x1.conv", POINT, bias=ALWAYS, label="rbr_1x1"),
        Maybe(Norm("rbr_identity")),
    ),
    deploy="rbr_reparam",
    epsilon=Epsilon.of(1e-3, "YOLOv6 utils/torch_utils.py, initialize_weights"),
    anchors=REPVGG.anchors,
    stays=REPVGG.stays,
    source="YOLOv6, layers/common.py after utils/torch_utils.py has fused its conv-bn pairs",
)

PPYOLOE = Family(
    name="RepVggBlock",
    term=Sum(conv_norm("conv1"), _scaled("conv2")),
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

MMPRETRAIN = Family(
    name="RepVGG (mmpretrain)",
    term=Sum(
        conv_norm("branch_3x3", norm="norm"),
        conv_norm("branch_1x1", POINT, norm="norm"),
        Maybe(Norm("branch_norm")),
    ),
    deploy="branch_reparam",
    epsilon=Epsilon.of(1e-5, _DEFAULT.format("mmpretrain backbones/repvgg.py")),
    anchors=("branch_3x3", "branch_1x1"),
    stays=("se_layer", "act"),
    source="mmpretrain, models/backbones/repvgg.py",
)

SUPER_GRADIENTS = Family(
    name="RepVGG (super-gradients)",
    term=Sum(
        conv_norm("branch_3x3"),
        _scaled("branch_1x1"),
        Maybe(Norm("no_conv_branch")),
    ),
    deploy="rbr_reparam",
    epsilon=Epsilon(
        1e-5,
        None,
        _DEFAULT.format("super-gradients modules/repvgg_block.py"),
        choices=(
            Choice(1e-5, "RepVGG and PP-YOLOE of super-gradients"),
            Choice(1e-3, "a recipe with bn_eps: 1e-3"),
        ),
    ),
    anchors=("branch_3x3", "branch_1x1", "no_conv_branch"),
    stays=("se", "nonlinearity"),
    source="super-gradients, modules/repvgg_block.py",
)

TIMM = Family(
    name="RepVGG (timm)",
    term=Sum(
        conv_norm("conv_kxk", ODD),
        conv_norm("conv_1x1", POINT),
        Maybe(Norm("identity")),
    ),
    deploy="reparam_conv",
    epsilon=Epsilon.of(1e-5, _DEFAULT.format("timm models/byobnet.py")),
    stays=("attn", "act"),
    source="timm, models/byobnet.py, RepVggBlock",
)

REPOPTIMIZERS = Family(
    name="RepVGG (RepOptimizers)",
    term=Sum(
        Chain(Kernel("conv_3x3", bias=MAYBE), Norm("bn_3x3"), label="3x3"),
        Chain(Kernel("conv_1x1", POINT, bias=MAYBE), Norm("bn_1x1"), label="1x1"),
        Maybe(Norm("bn_identity")),
    ),
    deploy="conv",
    epsilon=Epsilon.of(1e-5, _DEFAULT.format("RepOptimizers repoptvgg_model.py")),
    stays=("post_se",),
    source="RepOptimizers, repoptimizer/repoptvgg_model.py, RepVGGBlock",
)

PADDLESLIM = Family(
    name="RepVGG (PaddleSlim)",
    term=Sum(
        conv_norm("rbr_conv", ODD),
        Maybe(conv_norm("rbr_scale", POINT)),
        Maybe(Norm("rbr_skip")),
    ),
    deploy="reparam_conv",
    epsilon=Epsilon.of(1e-5, _DEFAULT.format("PaddleSlim dygraph/rep")),
    anchors=("rbr_conv", "rbr_scale"),
    source="PaddleSlim, dygraph/rep/reper/repvgg.py",
)

SLIMREP = Family(
    name="SlimRep",
    term=Sum(
        Each(conv_norm("rbr_conv.{i}", SMALLER)),
        conv_norm("ver_branch", COLUMN),
        conv_norm("hor_branch", ROW),
        Maybe(Norm("rbr_skip")),
    ),
    deploy="reparam_conv",
    epsilon=Epsilon.of(1e-5, _DEFAULT.format("PaddleSlim dygraph/rep")),
    anchors=("rbr_conv",),
    source="PaddleSlim, dygraph/rep/reper/slimrep.py",
)

FAMILIES = (
    REPVGG,
    FOLDED,
    PPYOLOE,
    MMPRETRAIN,
    SUPER_GRADIENTS,
    TIMM,
    REPOPTIMIZERS,
    PADDLESLIM,
    SLIMREP,
)
