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

MOBILEONE = Family(
    name="MobileOne",
    term=Sum(
        Each(conv_norm("rbr_conv.{i}", ODD)),
        Maybe(conv_norm("rbr_scale", POINT)),
        Maybe(Norm("rbr_skip")),
    ),
    deploy="reparam_conv",
    epsilon=_EPSILON,
    anchors=("rbr_conv", "rbr_scale"),
    stays=("se",),
    source="ml-mobileone, mobileone.py",
)

FAMILIES = (MOBILEONE,)
