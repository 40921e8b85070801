"""Large kernels with smaller ones beside them: RepLKNet, FastViT's, and UniRepLKNet's dilated.

Source: Ding et al. 2022, RepLKNet (arXiv 2203.06717), section 3.1; Ding et al. 2024, UniRepLKNet
(arXiv 2311.15599), section 3.1.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    NEVER,
    SMALLER,
    Chain,
    Each,
    Kernel,
    Maybe,
    Norm,
    Sum,
    conv_norm,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2d's default, which no published large kernel changes")

REPLKNET = Family(
    name="RepLKNet",
    term=Sum(
        conv_norm("lkb_origin", bias=NEVER), Maybe(conv_norm("small_conv", SMALLER, bias=NEVER))
    ),
    deploy="lkb_reparam",
    epsilon=_EPSILON,
    anchors=("lkb_origin",),
    stays=("activation", "se"),
    source="RepLKNet-pytorch, replknet.py; ml-fastvit, models/modules/replknet.py",
)

TIMM = Family(
    name="timm-large-kernel",
    term=Sum(
        conv_norm("large_conv", bias=NEVER), Maybe(conv_norm("small_conv", SMALLER, bias=NEVER))
    ),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("large_conv",),
    stays=("se", "act"),
    source="pytorch-image-models, models/fastvit.py",
)


def _dilated(prefix: str = "") -> Sum:
    def branch(kernel: Kernel, norm: str) -> Chain:
        return Chain(kernel, Norm(norm), label=kernel.name)

    name = "dil_conv_k{k}_{r}"
    dilated = Kernel(f"{prefix}{name}", "{k}", dilation="{r}", bias=NEVER)
    return Sum(
        branch(Kernel(f"{prefix}lk_origin", bias=NEVER), f"{prefix}origin_bn"),
        Each(branch(dilated, f"{prefix}dil_bn_k{{k}}_{{r}}")),
    )


_NAMES = ("origin_bn", "dil_conv_k{k}_{r}", "dil_bn_k{k}_{r}")

DILATED = Family(
    name="DilatedReparamBlock",
    term=_dilated(),
    deploy="lk_origin",
    epsilon=_EPSILON,
    anchors=_NAMES,
    source="UniRepLKNet, unireplknet.py",
)

UNIREPLKNET = Family(
    name="UniRepLKNetBlock",
    term=Chain(_dilated("dwconv."), Norm("norm")),
    deploy="dwconv.lk_origin",
    epsilon=_EPSILON,
    anchors=tuple(f"dwconv.{name}" for name in _NAMES),
    stays=("se", "pwconv1", "act", "pwconv2", "gamma"),
    beside=("se.down.weight", "pwconv1.1.weight"),
    source="UniRepLKNet, unireplknet.py",
)

FAMILIES = (REPLKNET, TIMM, DILATED, UNIREPLKNET)
