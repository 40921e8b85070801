"""Diverse Branch Block: four branches, of which one pools and two have kernels in a row.

Source: Ding et al. 2021, Diverse Branch Block (arXiv 2103.13425), figure 3 and section 3.3.

Where groups are fewer than output channels, the pooling branch pads before it pools, with what
its BatchNorm makes of zeros; so every project computes the same there. In a depthwise block the
pooling pads by itself. PyTorch's counts padding in the mean and Paddle's, by default, does not:
what a depthwise block of PaddleClas or PaddleSlim computes at the border is no convolution.
"""

from __future__ import annotations

from dataclasses import replace

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    NEVER,
    ODD,
    PADDLE,
    POINT,
    SAME,
    Chain,
    Either,
    Input,
    Kernel,
    Maybe,
    Mean,
    Norm,
    Sum,
    Term,
    conv_norm,
)

_FIRST_OF_TWO = Either(
    Sum(Kernel("dbb_1x1_kxk.idconv1", POINT, bias=NEVER), Input()),  # learned beside the identity
    Kernel("dbb_1x1_kxk.conv1", POINT, bias=NEVER),
)


def _term(pooling: str) -> Term:
    return Sum(
        conv_norm("dbb_origin", ODD, bias=NEVER),
        Maybe(conv_norm("dbb_1x1", POINT, bias=NEVER)),
        Chain(
            Maybe(Chain(Kernel("dbb_avg.conv", POINT, bias=NEVER), Norm("dbb_avg.bn.bn"))),
            Mean("dbb_origin.conv.weight", exclusive=pooling),
            Norm("dbb_avg.avgbn"),
            label="dbb_avg",
        ),
        Chain(
            _FIRST_OF_TWO,
            Norm("dbb_1x1_kxk.bn1.bn"),
            Kernel("dbb_1x1_kxk.conv2", SAME, bias=NEVER),
            Norm("dbb_1x1_kxk.bn2"),
            label="dbb_1x1_kxk",
        ),
    )


DBB = Family(
    name="DiverseBranchBlock",
    term=_term(PADDLE),
    deploy="dbb_reparam",
    epsilon=Epsilon.of(1e-5, "BatchNorm2d's default, which DBB, PaddleClas and PaddleSlim keep"),
    anchors=("dbb_origin", "dbb_1x1", "dbb_avg", "dbb_1x1_kxk"),
    stays=("nonlinear",),
    source="DiverseBranchBlock, diversebranchblock.py; PaddleClas, backbone/base/dbb/dbb_block.py",
)

INCLUSIVE = replace(
    DBB,
    name="DiverseBranchBlock-inclusive",
    term=_term(""),
    remark="the pooling of a depthwise block is taken to count padding (exclusive=False); with "
    "Paddle's default the fused block differs from the trained one along the border",
    on_request=True,
)

FAMILIES = (DBB, INCLUSIVE)
