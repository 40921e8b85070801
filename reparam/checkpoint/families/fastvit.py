"""FastViT and MobileCLIP: RepMixer and conditional position encoding.

Source: Vasu et al. 2023, FastViT (arXiv 2303.14189), section 3.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import NO_NORM, Epsilon, Family
from reparam.checkpoint.families.mobileone import branches
from reparam.checkpoint.families.terms import (
    ALWAYS,
    Chain,
    Input,
    Kernel,
    Maybe,
    Norm,
    Scale,
    Sum,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2d's default, which ml-fastvit, ml-mobileclip and timm keep")


def _mixer(convs: str, scale: str, skip: str, layer_scale: str) -> Sum:
    """Return x + layer_scale * (mixer(x) - norm(x)): a MobileOne block and a BatchNorm."""
    block = branches(f"mixer.{convs}", f"mixer.{scale}", f"mixer.{skip}")
    taken_away = Chain(Norm(f"norm.{skip}"), Scale(minus=True), label="norm")
    mixed = Sum(*block.branches, taken_away, label="mixer")
    return Sum(Input(), Chain(mixed, Maybe(Scale(layer_scale)), label="mixer"))


MIXER = Family(
    name="RepMixer",
    term=_mixer("rbr_conv", "rbr_scale", "rbr_skip", "layer_scale"),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("mixer.rbr_conv", "mixer.rbr_scale", "norm.rbr_skip"),
    source="ml-fastvit, models/fastvit.py; ml-mobileclip, modules/text/repmixer.py",
)

TIMM_MIXER = Family(
    name="RepMixer (timm)",
    term=_mixer("conv_kxk", "conv_scale", "identity", "layer_scale.gamma"),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("mixer.conv_kxk", "mixer.conv_scale", "norm.identity"),
    source="timm, models/fastvit.py, RepMixer",
)


def _position(name: str) -> Sum:
    kernel = Kernel(name, (7, 7), bias=ALWAYS, depthwise=True)
    return Sum(kernel, Input())


POSITION = Family(
    name="RepCPE",
    term=_position("pe"),
    deploy="reparam_conv",
    epsilon=NO_NORM,
    source="ml-fastvit, models/fastvit.py, RepCPE",
    remark="a lone depthwise convolution named 'pe' is taken for conv(x) + x, as in FastViT",
)

TIMM_POSITION = Family(
    name="RepConditionalPosEnc",
    term=_position("pos_enc"),
    deploy="reparam_conv",
    epsilon=NO_NORM,
    source="timm, models/fastvit.py, RepConditionalPosEnc",
    within="pos_emb",
)

FAMILIES = (MIXER, TIMM_MIXER, POSITION, TIMM_POSITION)
