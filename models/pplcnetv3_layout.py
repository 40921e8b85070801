"""PP-LCNetV3 as data: its variants, its settings, and the state dict each of them has.

Source: PaddleOCR 2.9, rec_lcnetv3.py, whose names the keys have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reparam.errors import UnsupportedModelError
from reparam.models.layout import (
    EPSILON,
    Block,
    ConvBN,
    Layout,
    Plain,
    Shapes,
    batch_norm,
    two_convolutions,
)
from reparam.models.scaling import scale_of, widths

CHANNELS = (16, 32, 64, 128, 256, 512)  # of the first convolution, then of each stage
DIVISOR = 16
CONV_BRANCHES = 4
DETECTOR_CHANNELS = (16, 24, 56, 480)  # of the feature maps that a text detector reads
SQUEEZE = 4  # channels of a block for one of its squeeze-excite

# Settings of which a fused kernel keeps no trace.
LOST_IN_DEPLOY_FORM = ("conv_kxk_num",)
IN_TORCH = False
BLOCK_FAMILY = "LearnableRepLayer"  # what reports call its blocks

VARIANTS: dict[str, dict[str, Any]] = {
    "pplcnetv3_det": {"scale": 0.75, "det": True},
    "pplcnetv3_rec": {"scale": 0.95, "det": False},
}

Stride: TypeAlias = "int | tuple[int, int]"


@dataclass(frozen=True)
class Kind:
    """What a block is in every scale."""

    kernel: int
    stride: Stride = 1
    use_se: bool = False


_KEEP = Kind(5)
# By the number in the name of the stage. Text runs along the width, so a recogniser halves the
# height and keeps the width.
DETECTOR: dict[int, tuple[Kind, ...]] = {
    2: (Kind(3),),
    3: (Kind(3, 2), Kind(3)),
    4: (Kind(3, 2), Kind(3)),
    5: (Kind(3, 2), _KEEP, _KEEP, _KEEP, _KEEP),
    6: (Kind(5, 2, True), Kind(5, 1, True), _KEEP, _KEEP),
}
RECOGNISER: dict[int, tuple[Kind, ...]] = {
    2: (Kind(3),),
    3: (Kind(3), Kind(3)),
    4: (Kind(3, (2, 1)), Kind(3)),
    5: (Kind(3, (1, 2)), _KEEP, _KEEP, _KEEP, _KEEP),
    6: (Kind(5, (2, 1), True), Kind(5, 1, True), Kind(5, (2, 1)), _KEEP),
}


@dataclass(frozen=True)
class Structure:
    """What decides the state dict; two scales with the same widths are the same structure."""

    channels: tuple[int, ...]
    detector_channels: tuple[int, ...] | None = None  # of a text detector; None of a recogniser
    conv_branches: int = CONV_BRANCHES
    in_channels: int = 3

    @classmethod
    def of(
        cls,
        scale: float,
        det: bool = False,
        conv_kxk_num: int = CONV_BRANCHES,
        in_channels: int = 3,
    ) -> Structure:
        """Return the structure that the settings describe.

        Raises:
            UnsupportedModelError: no network has these settings.
        """
        if not scale > 0:
            raise UnsupportedModelError("PP-LCNetV3 needs a positive 'scale'", found=f"{scale}")
        maps = _maps(scale) if det else None
        structure = cls(widths(CHANNELS, scale, DIVISOR), maps, conv_kxk_num, in_channels)
        structure.check()
        return structure

    def check(self) -> None:
        """Raise UnsupportedModelError where no network has this structure."""
        if min(*(self.detector_channels or (1,)), self.conv_branches, self.in_channels) < 1:
            raise UnsupportedModelError(
                "PP-LCNetV3 needs at least one branch and channel everywhere", found=f"{self}"
            )

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that a checkpoint does not tell, with the values used."""
        return {"epsilon": EPSILON}

    @property
    def stages(self) -> dict[int, tuple[Kind, ...]]:
        """Blocks of each stage, by the number in its name."""
        return RECOGNISER if self.detector_channels is None else DETECTOR

    def blocks(self) -> tuple[BlockShape, ...]:
        """Return every block in order."""
        found = []
        for stage, kinds in self.stages.items():
            before, after = self.channels[stage - 2 : stage]
            for index, kind in enumerate(kinds):
                prefix = f"blocks{stage}.{index}"
                found.append(BlockShape(prefix, kind, after if index else before, after))
        return tuple(found)


@dataclass(frozen=True)
class BlockShape:
    """Where a block is and what it maps."""

    prefix: str
    kind: Kind
    in_channels: int
    channels: int

    def layout(self, conv_branches: int) -> list[Plain | Block]:
        """Return the depthwise and the 1x1 layer, and what is between them."""
        inputs, kernel = self.in_channels, self.kind.kernel
        depthwise = _layer(
            f"{self.prefix}.dw_conv",
            (inputs, 1, kernel, kernel),
            conv_branches,
            has_identity=self.kind.stride == 1,
        )
        pointwise = _layer(
            f"{self.prefix}.pw_conv",
            (self.channels, inputs, 1, 1),
            conv_branches,
            has_identity=inputs == self.channels,
        )
        return [*depthwise, *([self._gate()] if self.kind.use_se else []), *pointwise]

    def _gate(self) -> Plain:
        se, channels = f"{self.prefix}.se", self.in_channels
        return two_convolutions(f"{se}.conv1", f"{se}.conv2", channels, channels // SQUEEZE)


def _layer(
    prefix: str, weight: tuple[int, ...], conv_branches: int, has_identity: bool
) -> list[Plain | Block]:
    """Return a LearnableRepLayer: its linear part, and the two affines that stay in any form."""
    channels = weight[0]
    branches = [ConvBN(f"{prefix}.conv_kxk.{index}", weight) for index in range(conv_branches)]
    if weight[2] > 1:
        branches.append(ConvBN(f"{prefix}.conv_1x1", (*weight[:2], 1, 1)))
    identity: Shapes = batch_norm(f"{prefix}.identity", channels) if has_identity else {}
    conv = f"{prefix}.reparam_conv"
    affines = [f"{prefix}.{name}" for name in ("lab.scale", "lab.bias")]
    affines += [f"{prefix}.act.{name}" for name in ("lab.scale", "lab.bias")]
    return [
        Block(
            prefix,
            tuple(branches),
            others=identity,
            deploy={f"{conv}.weight": weight, f"{conv}.bias": (channels,)},
        ),
        Plain(dict.fromkeys(affines, (1,))),
    ]


def layout(structure: Structure) -> Layout:
    """Return the state dict of the network with ``structure``."""
    channels = structure.channels
    parts: list[Plain | ConvBN | Block] = [
        ConvBN("conv1", (channels[0], structure.in_channels, 3, 3))
    ]
    for block in structure.blocks():
        parts += block.layout(structure.conv_branches)
    for index, outputs in enumerate(structure.detector_channels or ()):
        name, inputs = f"layer_list.{index}", channels[index + 2]
        parts.append(Plain({f"{name}.weight": (outputs, inputs, 1, 1), f"{name}.bias": (outputs,)}))
    return Layout(parts)


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    det = structure.detector_channels is not None
    rest: dict[str, Any] = {
        "conv_kxk_num": structure.conv_branches,
        "in_channels": structure.in_channels,
    }
    for name, variant in VARIANTS.items():
        if Structure.of(**variant, **rest) == structure:
            return name, rest
    scale = nearest_scale(structure.channels, structure.detector_channels or ())
    return "pplcnetv3", {"scale": scale, "det": det, **rest}


def nearest_scale(channels: Sequence[int], detector_channels: Sequence[int]) -> float:
    """Return the scale of networks of these widths, or else the one that most of them fit.

    Args:
        detector_channels: none of a recogniser.
    """

    def widths_of(scale: float) -> tuple[int, ...]:
        return (*widths(CHANNELS, scale, DIVISOR), *_maps(scale)[: len(detector_channels)])

    published = [variant["scale"] for variant in VARIANTS.values()]
    return scale_of(widths_of, (*channels, *detector_channels), published)


def _maps(scale: float) -> tuple[int, ...]:
    """Return the channels of the feature maps of a text detector, rounded down."""
    return tuple(int(channels * scale) for channels in DETECTOR_CHANNELS)
