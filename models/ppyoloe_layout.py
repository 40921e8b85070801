"""PP-YOLOE as data: its variants, its settings, and the state dict each of them has.

Source: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250). Names of keys, multipliers and widths as in
PaddleDetection 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reparam.errors import UnsupportedModelError
from reparam.models import cspresnet_layout
from reparam.models.cspresnet_layout import CHANNELS, LAYERS, basic_block, rep_vgg_block, scaled
from reparam.models.layout import EPSILON, Block, ConvBN, Layout, Plain

NECK_CHANNELS = (768, 384, 192)
NECK_BLOCKS = 3
BINS = 17  # distances of 0 to 16 strides
CLASSES = 80
SPP_POOLS = (5, 9, 13)
CONV_BN, REP_VGG = "convbn", "repvgg"
ATTENTIONS = (CONV_BN, REP_VGG, None)

LOST_IN_DEPLOY_FORM = ("use_alpha", "neck_alpha")
IN_TORCH = False
BLOCK_FAMILY = "RepVggBlock"
IGNORED = ("aux_neck.", "aux_head.", "yolo_head.contrast_encoder.")
"""Prefixes of what takes part in training alone: a second neck and head, a contrastive loss."""

_MULTIPLIERS = {size: cspresnet_layout.VARIANTS[f"cspresnet_{size}"] for size in "tsmlx"}
_TINY_PLUS = "ppyoloe_plus_t"  # the one variant that its neck tells in deploy form, too
_TINY = {"neck_channels": (384, 384, 384), "attn_conv": REP_VGG}

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"ppyoloe_{size}": dict(_MULTIPLIERS[size]) for size in "tsmlx"},
    **{
        f"ppyoloe_plus_{size}": {
            **_MULTIPLIERS[size],
            "use_alpha": True,
            **(_TINY if size == "t" else {}),
        }
        for size in "tsmlx"
    },
}


@dataclass(frozen=True)
class Structure:
    """What decides the state dict, multipliers already applied.

    Attributes:
        backbone: CSPResNet, without a classifier.
        neck_channels: of the outputs of the neck, that of the largest stride first.
        neck_blocks: basic blocks in each stage of the neck.
        neck_stages: such stages after one another at each level.
        neck_alpha: blocks of the neck learn a factor for their 1x1 branch.
        spp: the first level pools over 5, 9 and 13 pixels.
        attn_conv: what follows the attention of the head: "convbn", "repvgg", or None.
        num_classes: of the detector.
        bins: of the distribution of a distance.
    """

    backbone: cspresnet_layout.Structure
    neck_channels: tuple[int, ...]
    neck_blocks: int = NECK_BLOCKS
    neck_stages: int = 1
    neck_alpha: bool = False
    spp: bool = True
    attn_conv: str | None = CONV_BN
    num_classes: int = CLASSES
    bins: int = BINS

    @classmethod
    def of(
        cls,
        *,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        layers: Sequence[int] = LAYERS,
        channels: Sequence[int] = CHANNELS,
        use_large_stem: bool = True,
        use_alpha: bool = False,
        in_channels: int = 3,
        neck_channels: Sequence[int] = NECK_CHANNELS,
        neck_blocks: int = NECK_BLOCKS,
        **rest: Any,
    ) -> Structure:
        """Return the structure of these settings; multipliers are applied to backbone and neck."""
        return cls(
            backbone=cspresnet_layout.Structure(
                layers=scaled(layers, depth_mult),
                channels=scaled(channels, width_mult),
                use_large_stem=use_large_stem,
                use_alpha=use_alpha,
                in_channels=in_channels,
            ),
            neck_channels=scaled(neck_channels, width_mult),
            neck_blocks=scaled([neck_blocks], depth_mult)[0],
            **rest,
        )

    def check(self) -> None:
        """Raise UnsupportedModelError where no network has this structure."""
        self.backbone.check()
        stages, levels = len(self.backbone.layers), len(self.neck_channels)
        if not 1 <= levels <= stages:
            raise UnsupportedModelError(
                "PP-YOLOE needs one entry of 'neck_channels' for each level",
                found=f"{levels} levels on a backbone of {stages} stages",
            )
        sizes = (self.neck_blocks, self.neck_stages, self.num_classes, self.bins)
        if min(sizes) < 1 or min(self.neck_channels) < 2:
            raise UnsupportedModelError(
                "PP-YOLOE needs a positive number of blocks, classes, bins and channels",
                found=f"{self}",
                hint="each entry of 'neck_channels' must be 2 or more",
            )
        if self.attn_conv not in ATTENTIONS:
            raise UnsupportedModelError(
                f"there is no 'attn_conv' named '{self.attn_conv}'",
                hint=f"one of {CONV_BN}, {REP_VGG}, or None",
            )

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that a checkpoint does not tell, with the values used."""
        return {"act": "swish", "trt": False, "epsilon": EPSILON}

    @property
    def levels(self) -> range:
        """The stages of the backbone that the neck reads, in their order."""
        stages = len(self.backbone.layers)
        return range(stages - len(self.neck_channels), stages)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels in pixels of the image, the largest first."""
        return tuple(4 * 2**stage for stage in reversed(self.levels))

    @property
    def inputs(self) -> tuple[int, ...]:
        """Channels of what the neck reads, that of the largest stride first."""
        return tuple(self.backbone.channels[stage + 1] for stage in reversed(self.levels))


def layout(structure: Structure) -> Layout:
    """Return the state dict of the network with ``structure``."""
    parts = list(cspresnet_layout.layout(structure.backbone, "backbone.").parts)
    return Layout([*parts, *_neck(structure), *_head(structure)], IGNORED)


def _neck(structure: Structure) -> list[Plain | ConvBN | Block]:
    outputs = structure.neck_channels
    stages: list[Plain | ConvBN | Block] = []
    routes: list[Plain | ConvBN | Block] = []
    for level, (channels, read) in enumerate(zip(outputs, structure.inputs, strict=True)):
        before = outputs[level - 1] // 2 if level else 0
        spp = structure.spp and level == 0
        stages += _csp_stages(structure, f"neck.fpn_stages.{level}", read + before, channels, spp)
        if level < len(outputs) - 1:
            weight = (channels // 2, channels, 1, 1)
            routes.append(ConvBN(f"neck.fpn_routes.{level}", weight))
    down: list[Plain | ConvBN | Block] = []
    for level in range(len(outputs) - 1):
        channels, below = outputs[level], outputs[level + 1]
        stages_of = f"neck.pan_stages.{level}"
        down += _csp_stages(structure, stages_of, channels + below, channels, spp=False)
    for level, below in enumerate(outputs[1:]):
        down.append(ConvBN(f"neck.pan_routes.{level}", (below, below, 3, 3)))
    return [*stages, *routes, *down]


def _csp_stages(
    structure: Structure, prefix: str, read: int, channels: int, spp: bool
) -> list[Plain | ConvBN | Block]:
    parts: list[Plain | ConvBN | Block] = []
    mid = channels // 2
    for stage in range(structure.neck_stages):
        where = f"{prefix}.{stage}"
        parts.append(ConvBN(f"{where}.conv1", (mid, read, 1, 1)))
        parts.append(ConvBN(f"{where}.conv2", (mid, read, 1, 1)))
        for block in range(structure.neck_blocks):
            parts += basic_block(f"{where}.convs.{block}", mid, structure.neck_alpha)
            if spp and block == spp_after(structure.neck_blocks):
                parts.append(ConvBN(f"{where}.convs.spp.conv", (mid, 4 * mid, 1, 1)))
        parts.append(ConvBN(f"{where}.conv3", (channels, 2 * mid, 1, 1)))
        read = channels
    return parts


def spp_after(blocks: int) -> int:
    """Return the basic block after which a stage of that many pools."""
    return (blocks - 1) // 2


def _head(structure: Structure) -> list[Plain | ConvBN | Block]:
    parts: list[Plain | ConvBN | Block] = []
    for stem in ("stem_cls", "stem_reg"):
        for level, channels in enumerate(structure.neck_channels):
            parts += _attention(f"yolo_head.{stem}.{level}", channels, structure.attn_conv)
    for name, outputs in (("pred_cls", structure.num_classes), ("pred_reg", 4 * structure.bins)):
        for level, channels in enumerate(structure.neck_channels):
            where = f"yolo_head.{name}.{level}"
            weight = (outputs, channels, 3, 3)
            parts.append(Plain({f"{where}.weight": weight, f"{where}.bias": (outputs,)}))
    parts.append(Plain({"yolo_head.proj_conv.weight": (1, structure.bins, 1, 1)}))
    return parts


def _attention(prefix: str, channels: int, attn_conv: str | None) -> list[Plain | ConvBN | Block]:
    weight = (channels, channels, 1, 1)
    gate = Plain({f"{prefix}.fc.weight": weight, f"{prefix}.fc.bias": (channels,)})
    if attn_conv == CONV_BN:
        return [gate, ConvBN(f"{prefix}.conv", weight)]
    if attn_conv == REP_VGG:
        return [gate, rep_vgg_block(f"{prefix}.conv", channels, alpha=False)]
    return [gate]


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    backbone = structure.backbone
    rest: dict[str, Any] = {
        "use_large_stem": backbone.use_large_stem,
        "use_alpha": backbone.use_alpha,
        "in_channels": backbone.in_channels,
        "neck_stages": structure.neck_stages,
        "neck_alpha": structure.neck_alpha,
        "spp": structure.spp,
        "attn_conv": structure.attn_conv,
        "num_classes": structure.num_classes,
        "bins": structure.bins,
    }
    for name, variant in VARIANTS.items():
        plus = variant.get("use_alpha", False)
        if plus != backbone.use_alpha and name != _TINY_PLUS:
            continue
        if Structure.of(**{**variant, **rest}) == structure:
            multipliers = {k: v for k, v in variant.items() if k not in rest}
            return name, {**multipliers, **rest}
    lists = {
        "layers": list(backbone.layers),
        "channels": list(backbone.channels),
        "neck_channels": list(structure.neck_channels),
        "neck_blocks": structure.neck_blocks,
    }
    return "ppyoloe", {**lists, **rest}
