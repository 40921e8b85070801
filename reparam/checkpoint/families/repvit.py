"""RepViT and PP-LCNetV4: a depthwise kernel, one of one tap and the input itself; and its heads.

Source: Wang et al. 2024, RepViT (arXiv 2307.09283), section 3.3, and the code of PaddleOCR.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.terms import (
    POINT,
    Chain,
    Input,
    Kernel,
    Norm,
    Scale,
    Sum,
    conv_norm,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2d's default, which RepViT, timm and PaddleOCR keep")

REPVGGDW = Family(
    name="RepVGGDW (RepViT)",
    term=Chain(
        Sum(conv_norm("conv", conv="c"), Kernel("conv1", POINT), Input()),
        Norm("bn"),
    ),
    deploy="",
    epsilon=_EPSILON,
    source="RepViT, model/repvit.py; PaddleOCR, rec_repvit.py; timm, models/repvit.py",
)

LEGACY = Family(
    name="RepVggDw-legacy",
    term=Sum(conv_norm("conv", conv="c"), conv_norm("conv1", POINT, conv="c"), Input()),
    deploy="",
    epsilon=_EPSILON,
    within="token_mixer",
    source="timm, models/repvit.py, RepVggDw with legacy=True",
)

LCNETV4 = Family(
    name="RepDWConv",
    term=Chain(Sum(conv_norm("conv"), Kernel("conv1", POINT), Input()), Norm("bn")),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    source="PaddleOCR, ppocr/modeling/backbones/rec_lcnetv4.py",
)

RESIDUAL = Family(
    name="Residual",
    term=Sum(conv_norm("m", conv="c"), Input()),
    deploy="",
    epsilon=_EPSILON,
    source="RepViT, model/repvit.py; LeViT and SHViT have it too",
)


def _head(norm: str, linear: str) -> Chain:
    return Chain(Norm(norm), Kernel(linear, POINT, linear=True), label=linear)


def _heads(name: str, within: str, first: str, names: tuple[str, str], source: str) -> Family:
    """Return the record of two heads whose mean is taken, one layer in place of them all."""
    both = (_head(*(f"{stem}.{one}" for one in names)) for stem in (first, f"{first}_dist"))
    return Family(
        name=name,
        term=Chain(Sum(*both), Scale(constant=0.5)),
        deploy="",
        epsilon=_EPSILON,
        within=within,
        source=source,
    )


def _only_head(name: str, within: str, first: str, source: str) -> Family:
    """Return the record of one head, in place of the module that is there for two."""
    return Family(
        name=name,
        term=_head(f"{first}.bn", f"{first}.l"),
        deploy="",
        epsilon=_EPSILON,
        within=within,
        source=source,
    )


BN_LINEAR = Family(
    name="BN_Linear",
    term=_head("bn", "l"),
    deploy="",
    epsilon=_EPSILON,
    source="LeViT, levit.py; timm, models/levit.py; SHViT, model/shvit.py",
)

_THU, _TIMM = "RepViT, model/repvit.py", "timm, models/repvit.py"
_TWO = ("bn", "l")

FAMILIES = (
    REPVGGDW,
    LEGACY,
    LCNETV4,
    RESIDUAL,
    BN_LINEAR,
    _only_head("RepViT-classifier", "classifier", "classifier", _THU),
    _heads("RepViT-classifier-distilled", "classifier", "classifier", _TWO, _THU),
    _only_head("timm-RepViT-head", "head", "head", _TIMM),
    _heads("timm-RepViT-head-distilled", "head", "head", _TWO, _TIMM),
    _heads("RepNeXt-head", "head", "head", ("norm", "linear"), "RepNeXt, model/repnext.py"),
)
