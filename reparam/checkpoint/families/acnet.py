"""Asymmetric convolution blocks: a square kernel, a column and a row, each with its BatchNorm.

Source: Ding et al. 2019, ACNet (arXiv 1908.03930), section 3.2. Where a block pads less than
half its kernel, it crops the input of column and row instead, which keeps them in the centre.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    COLUMN,
    MAYBE,
    NEVER,
    ROW,
    WIDE,
    Chain,
    Kernel,
    Norm,
    Sum,
    conv_norm,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2d's default, which ACNet and PaddleSlim keep")


def _branch(name: str, size: str = WIDE) -> Chain:
    kernel = Kernel(f"{name}_conv", size, bias=NEVER)
    return Chain(kernel, Norm(f"{name}_bn", affine=MAYBE), label=f"{name}_conv")


ACNET = Family(
    name="ACNet",
    term=Sum(_branch("square"), _branch("ver", COLUMN), _branch("hor", ROW)),
    deploy="fused_conv",
    epsilon=_EPSILON,
    anchors=("square_conv", "square_bn", "ver_conv", "ver_bn", "hor_conv", "hor_bn"),
    source="ACNet, acnet/acb.py",
)

PADDLESLIM = Family(
    name="ACBlock",
    term=Sum(
        conv_norm("square_branch", bias=NEVER),
        conv_norm("ver_branch", COLUMN, bias=NEVER),
        conv_norm("hor_branch", ROW, bias=NEVER),
    ),
    deploy="fused_branch",
    epsilon=_EPSILON,
    anchors=("square_branch",),
    source="PaddleSlim, dygraph/rep/reper/acblock.py",
)

FAMILIES = (ACNET, PADDLESLIM)
