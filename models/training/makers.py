"""The blocks that :func:`reparam.expand` can put in the place of a convolution.

A block is one record here: how it is built, and which of its parts carry the convolution that was
there. Everything else in it enters at zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any

from reparam.errors import UnsupportedModelError
from reparam.models.training.geometry import Geometry

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Maker:
    """How one kind of block stands for a convolution.

    Attributes:
        build: a block of that geometry, without activation; raises UnsupportedModelError where
            there is none.
        settings: what the user may choose.
        conv: path of the convolution that takes the weight over.
        path: paths of the BatchNorms between it and the output, in order.
        last: paths, as patterns, of the BatchNorms that the other branches end in.
        zero: paths of convolutions in other branches that no BatchNorm follows.
        identity: whether the input itself is added, with no BatchNorm that could be zero.
    """

    build: Callable[[Geometry, Settings], Any]
    settings: Callable[[], list[str]]
    conv: str
    path: tuple[str, ...]
    last: tuple[str, ...]
    zero: tuple[str, ...] = ()
    identity: bool = False


def maker_named(name: str, settings: Settings) -> Maker:
    """Return the record of a block.

    Raises:
        UnsupportedModelError: no block has that name, or it has no such setting.
    """
    if name not in MAKERS:
        nearest = get_close_matches(str(name), MAKERS, n=1, cutoff=0.5)
        raise UnsupportedModelError(
            f"there is no block named '{name}' to expand convolutions to",
            hint=f"'{nearest[0]}'" if nearest else f"one of {', '.join(MAKERS)}",
        )
    known = MAKERS[name].settings()
    for setting in settings:
        if setting not in known:
            raise UnsupportedModelError(
                f"block '{name}' has no setting named '{setting}'",
                found=f"its settings are {', '.join(known)}",
                why="channels, kernel, stride, dilation and groups are those of the convolution",
            )
    return MAKERS[name]


# What is not to be chosen: it is that of the convolution, or would change its function.
_GIVEN = (
    "in_channels", "out_channels", "channels", "kernel_size", "stride", "dilation", "groups",
    "act", "deploy", "use_se", "idle_act", "layer_scale",
)  # fmt: skip


def _parameters(module: str, name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(import_module(module), name)).parameters


def _settings(module: str, name: str) -> list[str]:
    return [key for key in _parameters(module, name) if key not in _GIVEN]


def _build(module: str, name: str, geometry: Geometry, settings: Settings) -> Any:
    """Build a block that takes the geometry by the usual names."""
    accepted = _parameters(module, name)
    given: dict[str, Any] = {"stride": geometry.stride, "groups": geometry.groups}
    if "dilation" in accepted:
        given["dilation"] = geometry.dilation
    elif geometry.dilation != (1, 1):
        raise UnsupportedModelError(f"{name} has no dilation; it is {geometry.dilation} here")
    return getattr(import_module(module), name)(
        geometry.in_channels, geometry.out_channels, geometry.kernel, act=None, **given, **settings
    )


def _build_dilated(geometry: Geometry, settings: Settings) -> Any:
    height, width = geometry.kernel
    if height != width:
        raise UnsupportedModelError(f"DilatedReparamBlock is square; it is {height}x{width} here")
    if geometry.dilation != (1, 1):
        raise UnsupportedModelError("the large kernel of DilatedReparamBlock has no dilation")
    dilated = import_module("reparam.models.training.dilated").DilatedReparamBlock
    return dilated(
        geometry.in_channels,
        geometry.out_channels,
        height,
        stride=geometry.stride,
        groups=geometry.groups,
        act=None,
        **settings,
    )


def _build_mixer(geometry: Geometry, settings: Settings) -> Any:
    if not (geometry.depthwise and geometry.keeps_positions and geometry.dilation == (1, 1)):
        raise UnsupportedModelError("RepMixer is depthwise, with stride 1 and without dilation")
    mixer = import_module("reparam.models.training.rep_mixer").RepMixer
    # The factor that FastViT starts from would make the kernel 100,000 times as large.
    return mixer(geometry.in_channels, geometry.kernel, layer_scale=1.0, **settings)


def _maker(home: str, conv: str, path: tuple[str, ...], last: tuple[str, ...],
           build: Any = None, **others: Any) -> Maker:  # fmt: skip
    module, _, name = home.rpartition(".")
    module = f"reparam.models.{module}"
    build = build or partial(_build, module, name)
    return Maker(build, partial(_settings, module, name), conv, path, last, **others)


MAKERS: dict[str, Maker] = {
    "acb": _maker(
        "training.acb.ACBlock", "square_conv", ("square_bn",), ("ver_bn", "hor_bn")
    ),
    "dbb": _maker(
        "training.dbb.DiverseBranchBlock", "dbb_origin.conv", ("dbb_origin.bn",),
        ("dbb_1x1.bn", "dbb_avg.avgbn", "dbb_1x1_kxk.bn2"),
    ),
    "dilated": _maker(
        "training.dilated.DilatedReparamBlock", "lk_origin", ("origin_bn",), ("dil_bn_*",),
        build=_build_dilated,
    ),
    "large_kernel": _maker(
        "training.large_kernel.LargeKernelBlock", "lkb_origin.conv", ("lkb_origin.bn",),
        ("small_conv.bn",),
    ),
    "learnable_rep": _maker(
        "pplcnetv3.LearnableRepLayer", "conv_kxk.0.conv", ("conv_kxk.0.bn",),
        ("conv_kxk.*.bn", "conv_1x1.bn", "identity"),
    ),
    "mobileone": _maker(
        "mobileone.MobileOneBlock", "rbr_conv.0.conv", ("rbr_conv.0.bn",),
        ("rbr_conv.*.bn", "rbr_scale.bn", "rbr_skip"),
    ),
    "qarepvgg": _maker(
        "training.qa_repvgg.QARepVGGBlock", "rbr_dense.conv", ("rbr_dense.bn", "bn"),
        ("rbr_1x1.bn", "rbr_identity"), zero=("rbr_1x1",), identity=True,
    ),
    "rep_mixer": _maker(
        "training.rep_mixer.RepMixer", "mixer.rbr_conv.0.conv", ("mixer.rbr_conv.0.bn",),
        ("mixer.rbr_skip", "mixer.rbr_scale.bn", "norm.rbr_skip"), identity=True,
        build=_build_mixer,
    ),
    "repvgg": _maker(
        "repvgg.RepVGGBlock", "rbr_dense.conv", ("rbr_dense.bn",), ("rbr_1x1.bn", "rbr_identity")
    ),
}  # fmt: skip
