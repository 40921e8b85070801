"""Edge-oriented convolution blocks: five kernels, three of them fixed edge filters, no BatchNorm.

Source: Zhang et al. 2021, Edge-oriented Convolution Block for real-time super resolution on mobile
devices (ACM Multimedia 2021), section 3.2.

Whether the input itself is added leaves no trace in the arrays, so where the channel counts allow
it the user has to say.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import NO_NORM, Family
from reparam.checkpoint.families.terms import (
    ALWAYS,
    NEVER,
    POINT,
    Chain,
    Input,
    Kernel,
    Scale,
    Sum,
)

_WINDOW = (3, 3)


def _kernel(name: str, key: str, size: str | tuple[int, ...]) -> Kernel:
    """Return a convolution stored as ``k0`` and ``b0``: its weight and bias."""
    weight, bias = (f"{name}.{letter}{key}" for letter in "kb")
    return Kernel(name, size, bias=ALWAYS, weight_key=weight, bias_key=bias)


def _edge(name: str) -> Chain:
    mask = f"{name}.mask"
    return Chain(
        _kernel(name, "0", POINT),
        Kernel(mask, _WINDOW, bias=NEVER, weight_key=mask, depthwise=True, fixed=True),
        Scale(f"{name}.scale", f"{name}.bias"),
        label=name,
    )


_BRANCHES = (
    Kernel("conv3x3", _WINDOW, bias=ALWAYS),
    Chain(_kernel("conv1x1_3x3", "0", POINT), _kernel("conv1x1_3x3", "1", _WINDOW)),
    _edge("conv1x1_sbx"),
    _edge("conv1x1_sby"),
    _edge("conv1x1_lpl"),
)


def _ecb(name: str, *more: Input) -> Family:
    return Family(
        name=name,
        term=Sum(*_BRANCHES, *more),
        deploy="conv3x3",
        epsilon=NO_NORM,
        anchors=("conv1x1_3x3", "conv1x1_sbx", "conv1x1_sby", "conv1x1_lpl"),
        stays=("act",),
        source="ECBSR, models/ecb.py; deploy form: models/plainsr.py",
        dense=True,
    )


FAMILIES = (_ecb("ECB"), _ecb("ECB-identity", Input()))
