"""Families of re-parameterizable blocks, as data: the names of their weights and what they mean.

A family is one record. Everything that recognises, fuses, checks and reports blocks reads these
records and knows no family by name.
"""

from __future__ import annotations

from reparam.checkpoint.families import (
    acnet,
    dbb,
    ecb,
    fastvit,
    ghost,
    implicit,
    large_kernels,
    lcnet,
    mobileone,
    orepa,
    qarepvgg,
    repnext,
    repvgg,
    repvit,
    yolo,
)
from reparam.checkpoint.families.family import Choice, Epsilon, Family
from reparam.checkpoint.families.terms import ODD, Chain, Kernel, Norm

__all__ = ["CONV_BN", "FAMILIES", "Choice", "Epsilon", "Family"]

FAMILIES: tuple[Family, ...] = (
    *repvgg.FAMILIES,
    *yolo.FAMILIES,
    *qarepvgg.FAMILIES,
    *mobileone.FAMILIES,
    *fastvit.FAMILIES,
    *ghost.FAMILIES,
    *lcnet.FAMILIES,
    *dbb.FAMILIES,
    *acnet.FAMILIES,
    *large_kernels.FAMILIES,
    *repvit.FAMILIES,
    *implicit.FAMILIES,
    *ecb.FAMILIES,
    *orepa.FAMILIES,
    *repnext.FAMILIES,
)

CONV_BN = Family(
    name="conv-bn",
    term=Chain(Kernel("conv", ODD), Norm("bn"), label="conv + bn"),
    deploy="conv",
    epsilon=Epsilon(
        1e-5,
        None,
        "paddle.nn.BatchNorm2D's default, which ConvBNLayer of PaddleDetection and "
        "PaddleClas keeps",
        choices=(Choice(1e-5, "most networks"), Choice(1e-3, "YOLO networks")),
    ),
)
"""A convolution and the BatchNorm after it, no block: folded when asked for, see find_pairs."""
