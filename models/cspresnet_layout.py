"""CSPResNet as data: its variants, its settings, and the state dict each of them has.

Sources: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250), section 2.2; Wang et al. 2019, CSPNet
(arXiv 1911.11929). Names of keys as in PaddleDetection 2.6.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
    Shape,
    axis,
    majority,
    outputs,
    run_length,
)

LAYERS = (3, 6, 6, 3)
CHANNELS = (64, 128, 256, 512, 1024)
RETURN_IDX = (1, 2, 3)

VARIANTS: dict[str, dict[str, float]] = {
    "cspresnet_t": {"width_mult": 0.375, "depth_mult": 0.33},
    "cspresnet_s": {"width_mult": 0.50, "depth_mult": 0.33},
    "cspresnet_m": {"width_mult": 0.75, "depth_mult": 0.67},
    "cspresnet_l": {"width_mult": 1.0, "depth_mult": 1.0},
    "cspresnet_x": {"width_mult": 1.25, "depth_mult": 1.33},
}

_INDEX = r"(0|[1-9][0-9]{0,2})"
_BLOCK_KEY = re.compile(rf"stages\.{_INDEX}\.blocks\.{_INDEX}\.conv[12]\.")
_STAGE_KEY = re.compile(rf"stages\.{_INDEX}\.(?:conv_down|conv1|conv2|conv3|attn)\.")
# Fewer keys than these are a stray, not a block or a stage: the least a whole one holds, with
# every BatchNorm folded, is 4 and 10.
_LEAST_BLOCK_KEYS = 3
_LEAST_STAGE_KEYS = 5


def scaled(values: Sequence[int], multiplier: float) -> tuple[int, ...]:
    """Return ``values`` times ``multiplier``, rounded, none under 1."""
    return tuple(max(round(value * multiplier), 1) for value in values)


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
    def middles(self) -> tuple[int, ...]:
        """Channels between the two ends of each stage."""
        return tuple((first + second) // 2 for first, second in pairwise(self.channels))

    @property
    def stem(self) -> tuple[int, ...]:
        """Output channels of the convolutions of the stem."""
        first, half = self.channels[0], self.channels[0] // 2
        return (half, half, first) if self.use_large_stem else (half, first)


def layout(structure: Structure) -> Layout:
    """Return the state dict of the network with ``structure``."""
    parts: list[Plain | ConvBN | Block] = []
    previous = structure.in_channels
    for index, channels in enumerate(structure.stem, start=1):
        parts.append(ConvBN(f"stem.conv{index}", (channels, previous, 3, 3)))
        previous = channels
    for stage in range(len(structure.layers)):
        parts += _stage(structure, stage)
    if structure.num_classes is not None:
        shape = (structure.channels[-1], structure.num_classes)
        parts.append(Plain({"head.weight": shape, "head.bias": shape[1:]}))
    return Layout(parts)


def _stage(structure: Structure, stage: int) -> list[Plain | ConvBN | Block]:
    prefix = f"stages.{stage}"
    mid = structure.middles[stage]
    half = mid // 2
    parts: list[Plain | ConvBN | Block] = [
        ConvBN(f"{prefix}.conv_down", (mid, structure.channels[stage], 3, 3)),
        ConvBN(f"{prefix}.conv1", (half, mid, 1, 1)),
        ConvBN(f"{prefix}.conv2", (half, mid, 1, 1)),
    ]
    for index in range(structure.layers[stage]):
        where = f"{prefix}.blocks.{index}"
        parts.append(ConvBN(f"{where}.conv1", (half, half, 3, 3)))
        parts.append(_rep_vgg_block(f"{where}.conv2", half, structure.use_alpha))
    parts.append(
        Plain({f"{prefix}.attn.fc.weight": (mid, mid, 1, 1), f"{prefix}.attn.fc.bias": (mid,)})
    )
    parts.append(ConvBN(f"{prefix}.conv3", (structure.channels[stage + 1], mid, 1, 1)))
    return parts


def _rep_vgg_block(prefix: str, channels: int, alpha: bool) -> Block:
    weight = (channels, channels, 3, 3)
    return Block(
        prefix,
        branches=(
            ConvBN(f"{prefix}.conv1", weight),
            ConvBN(f"{prefix}.conv2", (channels, channels, 1, 1)),
        ),
        others={f"{prefix}.alpha": (1,)} if alpha else {},
        deploy={f"{prefix}.conv.weight": weight, f"{prefix}.conv.bias": (channels,)},
    )


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where it has no stages."""
    stage_keys: Counter[int] = Counter()
    block_keys: dict[int, Counter[int]] = defaultdict(Counter)
    for name in found:
        if match := _BLOCK_KEY.match(name):
            block_keys[int(match[1])][int(match[2])] += 1
        elif match := _STAGE_KEY.match(name):
            stage_keys[int(match[1])] += 1
    stages = run_length(stage_keys, _LEAST_STAGE_KEYS)
    if not stages:
        return None
    layers = tuple(
        max(run_length(block_keys[stage], _LEAST_BLOCK_KEYS), 1) for stage in range(stages)
    )
    large_stem = sum(name.startswith("stem.conv3.") for name in found) > 1
    channels = _channels(found, stages, "stem.conv3" if large_stem else "stem.conv2")
    return Structure(
        layers=layers,
        channels=channels,
        use_large_stem=large_stem,
        use_alpha=_has_alpha(found, layers),
        num_classes=_classes(found, channels[-1]),
        in_channels=majority([axis(found, "stem.conv1.conv.weight", 1, 4)], default=3),
    )


def _channels(found: Mapping[str, Shape], stages: int, stem: str) -> tuple[int, ...]:
    ends = [stem, *(f"stages.{stage}.conv3" for stage in range(stages))]
    readers = [f"stages.{stage}.conv_down.conv.weight" for stage in range(stages)]
    channels = [
        majority([*outputs(found, end), axis(found, reader, 1, 4)], default=1)
        for end, reader in zip(ends, readers, strict=False)
    ]
    last = [*outputs(found, ends[-1]), axis(found, "head.weight", 0, 2)]
    return (*channels, majority(last, default=1))


def _has_alpha(found: Mapping[str, Shape], layers: tuple[int, ...]) -> bool:
    """Whether at least half of the blocks in train-time form hold an alpha."""
    prefixes = [f"stages.{s}.blocks.{b}.conv2" for s, n in enumerate(layers) for b in range(n)]
    blocks = [_rep_vgg_block(prefix, 1, alpha=True) for prefix in prefixes]
    branched = [block.prefix for block in blocks if block.form_in(found) == "train-time"]
    return 0 < len(branched) <= 2 * sum(f"{prefix}.alpha" in found for prefix in branched)


def _classes(found: Mapping[str, Shape], channels: int) -> int | None:
    """Return the classes of the head; its weight is believed first where it fits the network."""
    if "head.weight" not in found and "head.bias" not in found:
        return None
    fits = axis(found, "head.weight", 0, 2) == channels
    weight = axis(found, "head.weight", 1, 2)
    bias = axis(found, "head.bias", 0, 1)
    return majority([weight, bias] if fits else [bias, weight], default=1)


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
    stages = len(structure.layers)
    if stages <= max(RETURN_IDX):
        rest["return_idx"] = [i for i in RETURN_IDX if i < stages] or [stages - 1]
    return "cspresnet", {**lists, **rest}


def assumed() -> dict[str, Any]:
    """Return the settings that a checkpoint does not tell, with the values used."""
    return {"act": "swish", "return_idx": list(RETURN_IDX), "epsilon": EPSILON}
