"""PP-LCNetV2 as data: its variants, its settings, and the state dict each of them has.

Source: PaddleClas 2.6, whose names the keys have; after Cui et al. 2021, PP-LCNet (arXiv
2109.15099).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reparam.errors import UnsupportedModelError
from reparam.models.layout import EPSILON, Block, ConvBN, Layout, Plain, two_convolutions
from reparam.models.scaling import scale_of, widths

CHANNELS = (32, 64, 128, 256, 512, 1024)  # of the stem and its block, then of each stage
DIVISOR = 8
CLASS_EXPAND = 1280
DROPOUT = 0.2
SQUEEZE = 4  # channels of a block for one of its squeeze-excite

# Settings of which a fused kernel keeps no trace: none.
LOST_IN_DEPLOY_FORM: tuple[str, ...] = ()
IN_TORCH = False
BLOCK_FAMILY = "PP-LCNetV2"  # what reports call its blocks

VARIANTS: dict[str, dict[str, Any]] = {
    "pplcnetv2_small": {"scale": 0.75, "depths": [2, 2, 4, 2]},
    "pplcnetv2_base": {"scale": 1.0, "depths": [2, 2, 6, 2]},
    "pplcnetv2_large": {"scale": 1.25, "depths": [2, 2, 8, 2]},
}


@dataclass(frozen=True)
class Kind:
    """What all blocks of a stage have in common."""

    kernel: int
    split: bool = False  # the 1x1 convolution is two, with half of the channels between them
    branches: bool = False  # depthwise kernels of falling size, added
    use_se: bool = False
    shortcut: bool = False


STEM = Kind(3)
STAGES = (Kind(3), Kind(3), Kind(5, True, True, True), Kind(5, branches=True, shortcut=True))


@dataclass(frozen=True)
class Structure:
    """What decides the state dict; two scales with the same widths are the same structure."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    class_num: int = 1000
    use_last_conv: bool = True
    class_expand: int = CLASS_EXPAND
    in_channels: int = 3

    @classmethod
    def of(
        cls,
        scale: float,
        depths: Sequence[int],
        class_num: int = 1000,
        use_last_conv: bool = True,
        class_expand: int = CLASS_EXPAND,
        in_channels: int = 3,
    ) -> Structure:
        """Return the structure that the settings describe.

        Raises:
            UnsupportedModelError: no network has these settings.
        """
        if not scale > 0:
            raise UnsupportedModelError("PP-LCNetV2 needs a positive 'scale'", found=f"{scale}")
        structure = cls(
            widths(CHANNELS, scale, DIVISOR),
            tuple(depths),
            class_num,
            use_last_conv,
            # Without the layer there is no width to compare.
            class_expand if use_last_conv else CLASS_EXPAND,
            in_channels,
        )
        structure.check()
        return structure

    def check(self) -> None:
        """Raise UnsupportedModelError where no network has this structure."""
        if len(self.depths) != len(STAGES):
            raise UnsupportedModelError(
                f"PP-LCNetV2 needs {len(STAGES)} entries in 'depths'", found=f"{list(self.depths)}"
            )
        sizes = (*self.depths, self.class_num, self.class_expand, self.in_channels)
        if min(sizes) < 1:
            raise UnsupportedModelError(
                "PP-LCNetV2 needs at least one block, channel and class everywhere",
                found=f"{self}",
            )

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that a checkpoint does not tell, with the values used."""
        return {"act": "relu", "dropout_prob": DROPOUT, "epsilon": EPSILON}

    @property
    def features(self) -> int:
        """Channels that the classifier reads."""
        return self.class_expand if self.use_last_conv else self.channels[-1]

    def blocks(self) -> tuple[BlockShape, ...]:
        """Return every block in order, that of the stem first."""
        found = [BlockShape("stem.1", STEM, self.channels[0], self.channels[1], 1)]
        for stage, (kind, depth) in enumerate(zip(STAGES, self.depths, strict=True)):
            before, after = self.channels[stage + 1 : stage + 3]
            for index in range(depth):
                prefix = f"stages.{stage}.{index}"
                inputs, stride = (after, 1) if index else (before, 2)
                found.append(BlockShape(prefix, kind, inputs, after, stride))
        return tuple(found)


def branch_kernels(kernel: int, stride: int) -> tuple[int, ...]:
    """Return the sizes of the depthwise branches; that of 1 is there at stride 1 only."""
    return tuple(size for size in range(kernel, 0, -2) if size > 1 or stride == 1)


@dataclass(frozen=True)
class BlockShape:
    """Where a block is and what it maps."""

    prefix: str
    kind: Kind
    in_channels: int
    channels: int
    stride: int

    def depthwise(self) -> Block | ConvBN:
        """Return the branches and what they become, or the one layer where there are none."""
        name, channels, kernel = f"{self.prefix}.dw_conv", self.in_channels, self.kind.kernel
        weight = (channels, 1, kernel, kernel)
        if not self.kind.branches:
            return ConvBN(name, weight)
        branches = tuple(
            ConvBN(f"{self.prefix}.dw_conv_list.{index}", (channels, 1, size, size))
            for index, size in enumerate(branch_kernels(kernel, self.stride))
        )
        deploy = {f"{name}.weight": weight, f"{name}.bias": (channels,)}
        return Block(self.prefix, branches, others={}, deploy=deploy)

    def squeeze_excite(self) -> Plain:
        """Return the two 1x1 convolutions that deploying leaves where they are."""
        se, channels = f"{self.prefix}.se", self.in_channels
        return two_convolutions(f"{se}.conv1", f"{se}.conv2", channels, channels // SQUEEZE)

    def pointwise(self) -> list[ConvBN]:
        """Return the 1x1 convolution, or both where it is split."""
        name, inputs, outputs = f"{self.prefix}.pw_conv", self.in_channels, self.channels
        if not self.kind.split:
            return [ConvBN(name, (outputs, inputs, 1, 1))]
        half = outputs // 2
        return [
            ConvBN(f"{name}_1", (half, inputs, 1, 1)),
            ConvBN(f"{name}_2", (outputs, half, 1, 1)),
        ]


def layout(structure: Structure) -> Layout:
    """Return the state dict of the network with ``structure``."""
    channels = structure.channels
    parts: list[Plain | ConvBN | Block] = [
        ConvBN("stem.0", (channels[0], structure.in_channels, 3, 3))
    ]
    for block in structure.blocks():
        parts.append(block.depthwise())
        parts += [block.squeeze_excite()] if block.kind.use_se else []
        parts += block.pointwise()
    features = structure.features
    if structure.use_last_conv:
        parts.append(Plain({"last_conv.weight": (features, channels[-1], 1, 1)}))
    shape = (features, structure.class_num)
    parts.append(Plain({"fc.weight": shape, "fc.bias": shape[1:]}))
    return Layout(parts)


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    rest: dict[str, Any] = {
        "class_num": structure.class_num,
        "use_last_conv": structure.use_last_conv,
        "in_channels": structure.in_channels,
    }
    if structure.use_last_conv:
        rest["class_expand"] = structure.class_expand
    for name, variant in VARIANTS.items():
        if Structure.of(**variant, **rest) == structure:
            return name, rest
    scale = nearest_scale(structure.channels)
    return "pplcnetv2", {"scale": scale, "depths": list(structure.depths), **rest}


def nearest_scale(channels: Sequence[int]) -> float:
    """Return the scale of networks of these widths, or else the one that most of them fit."""
    published = [variant["scale"] for variant in VARIANTS.values()]
    return scale_of(lambda scale: widths(CHANNELS, scale, DIVISOR), channels, published)
