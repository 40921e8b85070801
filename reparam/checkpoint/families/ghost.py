"""RepGhost and GhostNetV3: cheap depthwise branches over what a first convolution made.

Source: Chen et al. 2022, RepGhost (arXiv 2211.06088); Liu et al. 2024, GhostNetV3
(arXiv 2404.11202).
"""

from __future__ import annotations

from reparam.checkpoint.families.family import Epsilon, Family
from reparam.checkpoint.families.mobileone import branches
from reparam.checkpoint.families.terms import (
    NEVER,
    Chain,
    Each,
    Kernel,
    Norm,
    Sum,
)

_EPSILON = Epsilon.of(1e-5, "BatchNorm2d's default, which the published GhostNets keep")

REPGHOST = Family(
    name="RepGhost",
    term=Sum(
        Chain(
            Kernel("cheap_operation.0", bias=NEVER, depthwise=True),
            Norm("cheap_operation.1"),
            label="cheap_operation",
        ),
        Each(Norm("fusion_bn.{i}")),
    ),
    deploy="cheap_operation",
    epsilon=_EPSILON,
    anchors=("fusion_bn",),
    stays=("primary_conv",),
    source="RepGhost, model/repghost.py; timm, models/repghost.py",
)


_REGIONS = {"primary": "primary_conv.0", "cheap": "cheap_operation.0", "dw": "conv_dw"}
_BESIDE = ("short_conv", "ghost1", "ghost2", "se", "shortcut")


def _names(part: str) -> tuple[str, str, str]:
    return (f"{part}_rpr_conv", f"{part}_rpr_scale", f"{part}_rpr_skip")


def _ghost(part: str, project: str, norm: str, source: str) -> Family:
    """Return the record of one region of GhostNetV3's modules: primary, cheap or dw."""
    others = [other for other in _REGIONS if other != part]
    theirs = [name for other in others for name in (*_names(other), _REGIONS[other])]
    return Family(
        name=f"GhostNetV3{project}",
        part=_REGIONS[part],
        term=branches(*_names(part), norm=norm),
        deploy=_REGIONS[part],
        epsilon=_EPSILON,
        anchors=_names(part),
        stays=(*theirs, *_BESIDE),
        source=source,
    )


_OFFICIAL = "GhostNetV3, ghostnetv3.py"
_TIMM = "timm, models/ghostnet.py, GhostModuleV3 and GhostBottleneckV3"

FAMILIES = (
    REPGHOST,
    *(_ghost(part, "", "bn", _OFFICIAL) for part in _REGIONS),
    *(_ghost(part, " (timm)", "bn1", _TIMM) for part in _REGIONS),
)
