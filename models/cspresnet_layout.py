"""CSPResNet as data: its variants, its settings, and the state dict each of them has.

Sources: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250), section 2.2; Wang et al. 2019, CSPNet
(arXiv 1911.11929). Names of keys as in PaddleDetection 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reparam.errors import UnsupportedModelError
from reparam.models.layout import (
    EPSILON,
    Block,
    ConvBN,
    Layout,
    Plain,
)

LAYERS = (3, 6, 6, 3)
CHANNELS = (64, 128, 256, 512, 1024)
RETURN_IDX = (1, 2, 3)

# Settings of which a fused kernel keeps no trace.
LOST_IN_DEPLOY_FORM = ("use_alpha",)
IN_TORCH = False
BLOCK_FAMILY = "RepVggBlock"  # what reports call its blocks

VARIANTS: dict[str, dict[str, float]] = {
    "cspresnet_t": {"width_mult": 0.375, "depth_mult": 0.33},
    "cspresnet_s": {"width_mult": 0.50, "depth_mult": 0.33},
    "cspresnet_m": {"width_mult": 0.75, "depth_mult": 0.67},
    "cspresnet_l": {"width_mult": 1.0, "depth_mult": 1.0},
    "cspresnet_x": {"width_mult": 1.25, "depth_mult": 1.33},
}


def scaled(values: Sequence[int], multiplier: float) -> tuple[int, ...]:
    """Return ``values`` times ``multiplier``, rounded, none under 1."""
    return tuple(max(round(value * multiplier), 1) for value in values)


def returned(stages: int) -> list[int]:
    """Return the stages whose outputs are returned by default: those of PP-YOLOE, or the last."""
    return [index for index in RETURN_IDX if index < stages] or [stages - 1]


@dataclass(frozen=True)
class Structure:
    """What decides the state dict, multipliers already applied."""

    layers: tuple[int, ...]
    channels: tuple[int, ...]
    use_large_stem: bool = False
    use_alpha: bool = False
    num_classes: int | None = None
    in_channels: int = 3

    def check(self) -> None:
        """Raise UnsupportedModelError where no network has this structure."""
        if not self.layers or len(self.channels) != len(self.layers) + 1:
            raise UnsupportedModelError(
                "CSPResNet needs one more entry in 'channels' than in 'layers'",
                found=f"layers {list(self.layers)}, channels {list(self.channels)}",
            )
        sizes = (*self.layers, *self.channels, self.in_channels, self.num_classes or 1)
        if min(sizes) < 1 or self.num_classes == 0 or self.channels[0] < 2:
            raise UnsupportedModelError(
                "CSPResNet needs a positive number of layers, channels and classes",
                found=f"{self}",
                hint="the first entry of 'channels' must be 2 or more",
            )
        for stage, mid in enumerate(self.middles):
            if mid < 2 or mid % 2:
                raise UnsupportedModelError(
                    f"CSPResNet stage {stage} has {mid} middle channels",
                    found=f"channels {self.channels[stage]} and {self.channels[stage + 1]}",
                    why="their mean is split in two equal halves",
                    hint="choose 'channels' or 'width_mult' so that each mean is even",
                )

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that a checkpoint does not tell, with the values used."""
        indices = returned(len(self.layers))
        return {"act": "swish", "return_idx": indices, "trt": False, "epsilon": EPSILON}

    @property
    def middles(self) -> tuple[int, ...]:
        """Channels between the two ends of each stage."""
        return tuple((first + second) // 2 for first, second in pairwise(self.channels))

    @property
    def stem(self) -> tuple[int, ...]:
        """Output channels of the convolutions of the stem."""
        first, half = self.channels[0], self.channels[0] // 2
        return (half, half, first) if self.use_large_stem else (half, first)


def layout(structure: Structure, prefix: str = "") -> Layout:
    """Return the state dict of the network with ``structure``, its keys under ``prefix``."""
    parts: list[Plain | ConvBN | Block] = []
    previous = structure.in_channels
    for index, channels in enumerate(structure.stem, start=1):
        parts.append(ConvBN(f"{prefix}stem.conv{index}", (channels, previous, 3, 3)))
        previous = channels
    for stage in range(len(structure.layers)):
        parts += _stage(structure, stage, f"{prefix}stages.{stage}")
    if structure.num_classes is not None:
        shape = (structure.channels[-1], structure.num_classes)
        parts.append(Plain({f"{prefix}head.weight": shape, f"{prefix}head.bias": shape[1:]}))
    return Layout(parts)


def _stage(structure: Structure, stage: int, prefix: str) -> list[Plain | ConvBN | Block]:
    mid = structure.middles[stage]
    half = mid // 2
    parts: list[Plain | ConvBN | Block] = [
        ConvBN(f"{prefix}.conv_down", (mid, structure.channels[stage], 3, 3)),
        ConvBN(f"{prefix}.conv1", (half, mid, 1, 1)),
        ConvBN(f"{prefix}.conv2", (half, mid, 1, 1)),
    ]
    for index in range(structure.layers[stage]):
        parts += basic_block(f"{prefix}.blocks.{index}", half, structure.use_alpha)
    parts.append(
        Plain({f"{prefix}.attn.fc.weight": (mid, mid, 1, 1), f"{prefix}.attn.fc.bias": (mid,)})
    )
    parts.append(ConvBN(f"{prefix}.conv3", (structure.channels[stage + 1], mid, 1, 1)))
    return parts


def basic_block(prefix: str, channels: int, alpha: bool) -> list[Plain | ConvBN | Block]:
    """Return a 3x3 convolution and the RepVggBlock after it."""
    return [
        ConvBN(f"{prefix}.conv1", (channels, channels, 3, 3)),
        rep_vgg_block(f"{prefix}.conv2", channels, alpha),
    ]


def rep_vgg_block(prefix: str, channels: int, alpha: bool) -> Block:
    """Return the two forms of a RepVggBlock."""
    weight = (channels, channels, 3, 3)
    return Block(
        prefix,
        branches=(
            ConvBN(f"{prefix}.conv1", weight),
            ConvBN(f"{prefix}.conv2", (channels, channels, 1, 1)),
        ),
        others={f"{prefix}.alpha": (1,)} if alpha else {},
        deploy={f"{prefix}.conv.weight": weight, f"{prefix}.conv.bias": (channels,)},
        factors=(f"{prefix}.alpha",),
    )


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    rest: dict[str, Any] = {
        "use_large_stem": structure.use_large_stem,
        "use_alpha": structure.use_alpha,
        "num_classes": structure.num_classes,
        "in_channels": structure.in_channels,
    }
    for name, variant in VARIANTS.items():
        channels = scaled(CHANNELS, variant["width_mult"])
        layers = scaled(LAYERS, variant["depth_mult"])
        if (channels, layers) == (structure.channels, structure.layers):
            return name, {**variant, **rest}
    lists = {"layers": list(structure.layers), "channels": list(structure.channels)}
    return "cspresnet", {**lists, **rest}
