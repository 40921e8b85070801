"""RepVGG as data: its variants, its settings, and the state dict each of them has.

Source: Ding et al. 2021, RepVGG (arXiv 2101.03697), tables 2 and 3; D2se is the authors' later
variant with squeeze-excite. Names of keys as in PaddleClas 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
SQUEEZE = 16  # channels of a block for one of its squeeze-excite

# Settings of which a fused kernel keeps no trace: none.
LOST_IN_DEPLOY_FORM: tuple[str, ...] = ()
IN_TORCH = True  # the authors' own checkpoints are recognised in PyTorch's spelling too
BLOCK_FAMILY = "RepVGG"  # what reports call its blocks

_A, _B, _D = [2, 4, 14, 1], [4, 6, 16, 1], [8, 14, 24, 1]
# Every second layer is grouped, so that channels of different groups still meet (section 3.4).
_GROUPED_LAYERS = range(2, 27, 2)


def _variant(num_blocks: list[int], a: float, b: float, groups: int = 1) -> dict[str, Any]:
    """Return the settings of a variant by the paper's multipliers ``a`` and ``b``."""
    settings = {"num_blocks": num_blocks, "width_multiplier": [a, a, a, b]}
    if groups == 1:
        return settings
    return {**settings, "override_groups_map": dict.fromkeys(_GROUPED_LAYERS, groups)}


VARIANTS: dict[str, dict[str, Any]] = {
    "repvgg_a0": _variant(_A, 0.75, 2.5),
    "repvgg_a1": _variant(_A, 1, 2.5),
    "repvgg_a2": _variant(_A, 1.5, 2.75),
    "repvgg_b0": _variant(_B, 1, 2.5),
    "repvgg_b1": _variant(_B, 2, 4),
    "repvgg_b1g2": _variant(_B, 2, 4, groups=2),
    "repvgg_b1g4": _variant(_B, 2, 4, groups=4),
    "repvgg_b2": _variant(_B, 2.5, 5),
    "repvgg_b2g2": _variant(_B, 2.5, 5, groups=2),
    "repvgg_b2g4": _variant(_B, 2.5, 5, groups=4),
    "repvgg_b3": _variant(_B, 3, 5),
    "repvgg_b3g2": _variant(_B, 3, 5, groups=2),
    "repvgg_b3g4": _variant(_B, 3, 5, groups=4),
    "repvgg_d2se": {**_variant(_D, 2.5, 5), "use_se": True},
}


@dataclass(frozen=True)
class Structure:
    """What decides the state dict, multipliers already applied."""

    num_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    groups: dict[int, int] = field(default_factory=dict)  # layer index -> groups, where not 1
    class_num: int = 1000
    in_channels: int = 3
    use_se: bool = False

    @classmethod
    def of(
        cls,
        num_blocks: Sequence[int],
        width_multiplier: Sequence[float],
        override_groups_map: Mapping[int, int] | None = None,
        class_num: int = 1000,
        in_channels: int = 3,
        use_se: bool = False,
    ) -> Structure:
        """Return the structure that the settings describe.

        Raises:
            UnsupportedModelError: no network has these settings.
        """
        if len(num_blocks) != 4 or len(width_multiplier) != 4:
            raise UnsupportedModelError(
                "RepVGG needs four entries in 'num_blocks' and in 'width_multiplier'",
                found=f"{list(num_blocks)} and {list(width_multiplier)}",
            )
        pairs = zip(STAGE_CHANNELS, width_multiplier, strict=True)
        groups = {int(layer): int(count) for layer, count in (override_groups_map or {}).items()}
        structure = cls(
            num_blocks=tuple(num_blocks),
            widths=tuple(int(channels * multiplier) for channels, multiplier in pairs),
            groups={layer: count for layer, count in groups.items() if count != 1},
            class_num=class_num,
            in_channels=in_channels,
            use_se=use_se,
        )
        structure.check()
        return structure

    def check(self) -> None:
        """Raise UnsupportedModelError where no network has this structure."""
        sizes = (*self.num_blocks, *self.widths, self.class_num, self.in_channels)
        if min(sizes) < 1:
            raise UnsupportedModelError(
                "RepVGG needs at least one block, channel and class everywhere", found=f"{self}"
            )
        blocks = self.blocks()
        for layer, groups in self.groups.items():
            fits = 0 < layer < len(blocks) and groups > 0
            if not fits or blocks[layer].in_channels % groups or blocks[layer].channels % groups:
                raise UnsupportedModelError(
                    f"RepVGG layer {layer} cannot have {groups} groups",
                    found=f"layers 1 to {len(blocks) - 1} take groups that divide their channels",
                )
        narrow = next((block for block in blocks if block.channels < SQUEEZE), None)
        if self.use_se and narrow is not None:
            raise UnsupportedModelError(
                f"RepVGG with squeeze-excite needs {SQUEEZE} channels or more everywhere",
                found=f"{narrow.channels} in '{narrow.prefix}'",
                why=f"one channel in {SQUEEZE} goes through the squeeze",
            )

    @property
    def assumed(self) -> dict[str, Any]:
        """Settings that a checkpoint does not tell, with the values used."""
        return {"epsilon": EPSILON}

    def blocks(self) -> tuple[BlockShape, ...]:
        """Return every block in order; the index is the layer of 'override_groups_map'."""
        # The paper halves the first layer of narrow networks by this minimum: a wide network
        # does not gain from a wide layer at full resolution.
        first = min(STAGE_CHANNELS[0], self.widths[0])
        blocks = [BlockShape("stage0", self.in_channels, first, stride=2, groups=1)]
        for stage, (count, width) in enumerate(zip(self.num_blocks, self.widths, strict=True)):
            for index in range(count):
                blocks.append(
                    BlockShape(
                        f"stage{stage + 1}.{index}",
                        blocks[-1].channels,
                        width,
                        stride=1 if index else 2,
                        groups=self.groups.get(len(blocks), 1),
                    )
                )
        return tuple(blocks)


@dataclass(frozen=True)
class BlockShape:
    """Where a block is and what it maps."""

    prefix: str
    in_channels: int
    channels: int
    stride: int
    groups: int

    @property
    def has_identity(self) -> bool:
        """Whether the block has a third branch, BatchNorm alone."""
        return self.in_channels == self.channels and self.stride == 1

    def squeeze_excite(self) -> Plain:
        """Return the two 1x1 convolutions that deploying leaves where they are."""
        se, channels = f"{self.prefix}.se", self.channels
        return two_convolutions(f"{se}.down", f"{se}.up", channels, channels // SQUEEZE)

    def layout(self) -> Block:
        """Return the two forms of the linear part."""
        inputs = self.in_channels // self.groups
        weight = (self.channels, inputs, 3, 3)
        identity = batch_norm(f"{self.prefix}.rbr_identity", self.channels)
        reparam = f"{self.prefix}.rbr_reparam"
        return Block(
            self.prefix,
            branches=(
                ConvBN(f"{self.prefix}.rbr_dense", weight),
                ConvBN(f"{self.prefix}.rbr_1x1", (self.channels, inputs, 1, 1)),
            ),
            others=identity if self.has_identity else {},
            deploy={f"{reparam}.weight": weight, f"{reparam}.bias": (self.channels,)},
        )


def layout(structure: Structure) -> Layout:
    """Return the state dict of the network with ``structure``."""
    parts: list[Plain | ConvBN | Block] = []
    for block in structure.blocks():
        parts += [block.squeeze_excite()] if structure.use_se else []
        parts.append(block.layout())
    shape = (structure.widths[-1], structure.class_num)
    parts.append(Plain({"linear.weight": shape, "linear.bias": shape[1:]}))
    return Layout(parts)


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    rest: dict[str, Any] = {
        "class_num": structure.class_num,
        "in_channels": structure.in_channels,
    }
    for name, variant in VARIANTS.items():
        if Structure.of(**variant, **rest) == structure:
            return name, rest
    pairs = zip(structure.widths, STAGE_CHANNELS, strict=True)
    own = {
        "num_blocks": list(structure.num_blocks),
        # Exact in binary: the divisors are powers of two.
        "width_multiplier": [width / channels for width, channels in pairs],
        "override_groups_map": dict(structure.groups),
        "use_se": structure.use_se,
    }
    return "repvgg", {**own, **rest}
