"""RepVGG as data: its variants, its settings, and the state dict each of them has.

Source: Ding et al. 2021, RepVGG (arXiv 2101.03697), table 2. Names of keys as in PaddleClas 2.6.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
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
    Shape,
    axis,
    batch_norm,
    majority,
    outputs,
    run_length,
)

STAGE_CHANNELS = (64, 128, 256, 512)

VARIANTS: dict[str, dict[str, list[Any]]] = {
    "repvgg_a0": {"num_blocks": [2, 4, 14, 1], "width_multiplier": [0.75, 0.75, 0.75, 2.5]},
}

_INDEX = r"(0|[1-9][0-9]{0,2})"
_BLOCK_KEY = re.compile(rf"stage([1-4])\.{_INDEX}\.rbr_(dense|1x1|identity|reparam)\.")
# Fewer branch keys than this are a stray: the least a block holds, with every BatchNorm folded,
# is 4. A deploy block holds 2 keys, of which one may be missing.
_LEAST_BRANCH_KEYS = 3


@dataclass(frozen=True)
class Structure:
    """What decides the state dict, multipliers already applied."""

    num_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    groups: dict[int, int] = field(default_factory=dict)  # layer index -> groups, where not 1
    class_num: int = 1000
    in_channels: int = 3

    @classmethod
    def of(
        cls,
        num_blocks: Sequence[int],
        width_multiplier: Sequence[float],
        override_groups_map: Mapping[int, int] | None,
        class_num: int,
        in_channels: int,
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
        )
        structure._check()
        return structure

    def _check(self) -> None:
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

    def layout(self) -> Block:
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
    parts: list[Plain | ConvBN | Block] = [block.layout() for block in structure.blocks()]
    shape = (structure.widths[-1], structure.class_num)
    parts.append(Plain({"linear.weight": shape, "linear.bias": shape[1:]}))
    return Layout(parts)


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where a stage has no block.

    Squeeze-excite blocks (RepVGG-D2se) are another network: None.
    """
    keys: dict[int, Counter[int]] = defaultdict(Counter)
    for name in found:
        if match := _BLOCK_KEY.match(name):
            weight = _LEAST_BRANCH_KEYS if match[3] == "reparam" else 1
            keys[int(match[1])][int(match[2])] += weight
        elif ".se." in name and name.startswith("stage"):
            return None
    num_blocks = tuple(run_length(keys[stage], _LEAST_BRANCH_KEYS) for stage in (1, 2, 3, 4))
    if min(num_blocks) < 1:
        return None
    widths = tuple(_width(found, stage, count) for stage, count in enumerate(num_blocks, start=1))
    plain = Structure(
        num_blocks,
        widths,
        class_num=_classes(found, widths[-1]),
        in_channels=majority(_inputs(found, "stage0"), default=3),
    )
    groups = {
        layer: groups
        for layer, block in enumerate(plain.blocks())
        if layer and (groups := _groups(found, block)) != 1
    }
    return Structure(plain.num_blocks, plain.widths, groups, plain.class_num, plain.in_channels)


def _width(found: Mapping[str, Shape], stage: int, count: int) -> int:
    """Return O of the blocks of a stage; its readers decide only between equals."""
    votes: list[int | None] = []
    for index in range(count):
        votes += _outputs(found, f"stage{stage}.{index}")
    if stage == 1:
        # The first block is as wide as this stage, up to a limit.
        first = _outputs(found, "stage0")
        votes += [vote for vote in first if vote is not None and vote < STAGE_CHANNELS[0]]
    if stage == 4:
        readers = [axis(found, "linear.weight", 0, 2)]
    else:
        readers = _inputs(found, f"stage{stage + 1}.0")
    return majority([*votes * (len(readers) + 1), *readers], default=1)


def _outputs(found: Mapping[str, Shape], prefix: str) -> list[int | None]:
    """Return what the keys of a block say of O."""
    return [
        *outputs(found, f"{prefix}.rbr_dense"),
        *outputs(found, f"{prefix}.rbr_1x1"),
        axis(found, f"{prefix}.rbr_reparam.bias", 0, 1),
        axis(found, f"{prefix}.rbr_reparam.weight", 0, 4),
    ]


def _inputs(found: Mapping[str, Shape], prefix: str) -> list[int | None]:
    """Return what the weights of a block say of I/G."""
    weights = ("rbr_dense.conv.weight", "rbr_1x1.conv.weight", "rbr_reparam.weight")
    return [axis(found, f"{prefix}.{weight}", 1, 4) for weight in weights]


def _groups(found: Mapping[str, Shape], block: BlockShape) -> int:
    """Return the groups that the weights of ``block`` imply, 1 where they make no sense."""
    votes = [
        block.in_channels // inputs
        for inputs in _inputs(found, block.prefix)
        if inputs is not None and block.in_channels % inputs == 0
    ]
    groups = majority(votes, default=1)
    return 1 if block.channels % groups else groups


def _classes(found: Mapping[str, Shape], channels: int) -> int:
    """Return the classes; the weight is believed first where it fits the network."""
    fits = axis(found, "linear.weight", 0, 2) == channels
    weight = axis(found, "linear.weight", 1, 2)
    bias = axis(found, "linear.bias", 0, 1)
    return majority([weight, bias] if fits else [bias, weight], default=1000)


def settings_of(structure: Structure) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the settings that build ``structure``."""
    pairs = zip(structure.widths, STAGE_CHANNELS, strict=True)
    # Exact in binary: the divisors are powers of two.
    lists = {
        "num_blocks": list(structure.num_blocks),
        "width_multiplier": [width / channels for width, channels in pairs],
    }
    rest = {"class_num": structure.class_num, "in_channels": structure.in_channels}
    for name, variant in VARIANTS.items():
        if lists == variant and not structure.groups:
            return name, rest
    return "repvgg", {**lists, "override_groups_map": dict(structure.groups), **rest}


def assumed() -> dict[str, Any]:
    """Return the settings that a checkpoint does not tell, with the values used."""
    return {"epsilon": EPSILON}
