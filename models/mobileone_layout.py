"""MobileOne as data: its variants, its settings, and the state dict each of them has.

Source: Vasu et al. 2023, MobileOne (arXiv 2206.04040), tables 2 and 3. Names of keys as in the
authors' code, a BatchNorm in Paddle's spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reparam.errors import UnsupportedModelError
from reparam.models.layout import (
    EPSILON,
    Block,
    ConvBN,
    Layout,
    Plain,
    batch_norm,
    two_convolutions,
)

STAGE_CHANNELS = (64, 128, 256, 512)
NUM_BLOCKS = (2, 8, 10, 1)  # pairs of a depthwise and a 1x1 block, in every variant
SQUEEZE = 16  # channels of a block for one of its squeeze-excite

# Settings of which a fused kernel keeps no trace.
LOST_IN_DEPLOY_FORM = ("num_conv_branches",)
IN_TORCH = True  # the authors' own checkpoints are recognised in PyTorch's spelling too
BLOCK_FAMILY = "MobileOne"  # what reports call its blocks

VARIANTS: dict[str, dict[str, Any]] = {
    "mobileone_s0": {"width_multipliers": [0.75, 1.0, 1.0, 2.0], "num_conv_branches": 4},
    "mobileone_s1": {"width_multipliers": [1.5, 1.5, 2.0, 2.5]},
    "mobileone_s2": {"width_multipliers": [1.5, 2.0, 2.5, 4.0]},
    "mobileone_s3": {"width_multipliers": [2.0, 2.5, 3.0, 4.0]},
    "mobileone_s4": {"width_multipliers": [3.0, 3.5, 3.5, 4.0], "use_se": True},
}


@dataclass(frozen=True)
class Structure:
    """What decides the state dict, multipliers already applied."""

    num_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    conv_branches: int = 1
    use_se: bool = False
    num_classes: int = 1000
    in_channels: int = 3

    @classmethod
    def of(
        cls,
        width_multipliers: Sequence[float],
        num_blocks_per_stage: Sequence[int] = NUM_BLOCKS,
        num_conv_branches: int = 1,
        use_se: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> Structure:
        """Return the structure that the settings describe.

        Raises:
            UnsupportedModelError: no network has these settings.
        """
        if len(num_blocks_per_stage) != 4 or len(width_multipliers) != 4:
            raise UnsupportedModelError(
                "MobileOne needs four entries in 'num_blocks_per_stage' and in 'width_multipliers'",
                found=f"{list(num_blocks_per_stage)} and {list(width_multipliers)}",
            )
        pairs = zip(STAGE_CHANNELS, width_multipliers, strict=True)
        structure = cls(
            num_blocks=tuple(num_blocks_per_stage),
            widths=tuple(int(channels * multiplier) for channels, multiplier in pairs),
            conv_branches=num_conv_branches,
            use_se=use_se,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        structure.check()
        return structure

    def check(self) -> None:
        """Raise UnsupportedModelError where no network has this structure."""
        sizes = (self.conv_branches, self.num_classes, self.in_channels)
        if min(*self.num_blocks, *self.widths, *sizes) < 1:
            raise UnsupportedModelError(
                "MobileOne needs at least one block, branch, channel and class everywhere",
                found=f"{self}",
            )
        narrow = next((b for b in self.blocks() if b.use_se and b.channels < SQUEEZE), None)
        if narrow is not None:
            raise UnsupportedModelError(
                f"MobileOne with squeeze-excite needs {SQUEEZE} channels or more where it is",
                found=f"{narrow.channels} in '{narrow.prefix}'",
                why=f"one channel in {SQUEEZE} goes through the squeeze",
            )

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that a checkpoint does not tell, with the values used."""
        return {"epsilon": EPSILON}

    def blocks(self) -> tuple[BlockShape, ...]:
        """Return every block in order."""
        first = min(STAGE_CHANNELS[0], self.widths[0])
        found = [BlockShape("stage0", self.in_channels, first, 3, stride=2)]
        for stage, (pairs, width) in enumerate(zip(self.num_blocks, self.widths, strict=True)):
            gated = self._gated(stage)
            for pair in range(pairs):
                before = found[-1].channels
                rest: dict[str, Any] = {
                    "conv_branches": self.conv_branches,
                    "use_se": pair >= pairs - gated,
                }
                where, stride = f"stage{stage + 1}", 1 if pair else 2
                found += [
                    BlockShape(f"{where}.{2 * pair}", before, before, 3, stride, before, **rest),
                    BlockShape(f"{where}.{2 * pair + 1}", before, width, 1, **rest),
                ]
        return tuple(found)

    def _gated(self, stage: int) -> int:
        """Return how many pairs at the end of a stage have squeeze-excite."""
        pairs = self.num_blocks[stage]
        return (0, 0, pairs // 2, pairs)[stage] if self.use_se else 0


@dataclass(frozen=True)
class BlockShape:
    """Where a block is and what it maps."""

    prefix: str
    in_channels: int
    channels: int
    kernel: int
    stride: int = 1
    groups: int = 1
    conv_branches: int = 1
    use_se: bool = False

    @property
    def has_identity(self) -> bool:
        """Whether the block has one more branch, BatchNorm alone."""
        return self.in_channels == self.channels and self.stride == 1

    def squeeze_excite(self) -> Plain:
        """Return the two 1x1 convolutions that deploying leaves where they are."""
        se, channels = f"{self.prefix}.se", self.channels
        return two_convolutions(f"{se}.reduce", f"{se}.expand", channels, channels // SQUEEZE)

    def layout(self) -> Block:
        """Return the two forms of the linear part."""
        inputs = self.in_channels // self.groups
        weight = (self.channels, inputs, self.kernel, self.kernel)
        branches = [
            ConvBN(f"{self.prefix}.rbr_conv.{index}", weight) for index in range(self.conv_branches)
        ]
        if self.kernel > 1:
            branches.append(ConvBN(f"{self.prefix}.rbr_scale", (self.channels, inputs, 1, 1)))
        skip = batch_norm(f"{self.prefix}.rbr_skip", self.channels)
        conv = f"{self.prefix}.reparam_conv"
        return Block(
            self.prefix,
            branches=tuple(branches),
            others=skip if self.has_identity else {},
            deploy={f"{conv}.weight": weight, f"{conv}.bias": (self.channels,)},
        )


def layout(structure: Structure) -> Layout:
    """Return the state dict of the network with ``structure``."""
    parts: list[Plain | ConvBN | Block] = []
    for block in structure.blocks():
        parts += [block.squeeze_excite()] if block.use_se else []
        parts.append(block.layout())
    shape = (structure.widths[-1], structure.num_classes)
    parts.append(Plain({"linear.weight": shape, "linear.bias": shape[1:]}))
    return Layout(parts)


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    rest: dict[str, Any] = {
        "num_conv_branches": structure.conv_branches,
        "num_classes": structure.num_classes,
        "in_channels": structure.in_channels,
    }
    for name, variant in VARIANTS.items():
        if Structure.of(**{**variant, **rest}) == structure:
            return name, rest
    pairs = zip(structure.widths, STAGE_CHANNELS, strict=True)
    own = {
        # Exact in binary: the divisors are powers of two.
        "width_multipliers": [width / channels for width, channels in pairs],
        "num_blocks_per_stage": list(structure.num_blocks),
        "use_se": structure.use_se,
    }
    return "mobileone", {**own, **rest}
