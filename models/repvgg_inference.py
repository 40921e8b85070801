"""Which RepVGG a checkpoint is of, told from names and shapes that may be damaged."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from reparam.models.layout import Shape
from reparam.models.repvgg_layout import STAGE_CHANNELS, BlockShape, Structure
from reparam.models.voting import INDEX, axis, classes, majority, outputs, run_length

_BLOCK_KEY = re.compile(rf"stage([1-4])\.{INDEX}\.rbr_(dense|1x1|identity|reparam)\.")
_SQUEEZE_KEY = re.compile(rf"stage(0|[1-4]\.{INDEX})\.se\.")
# Fewer branch keys than this are a stray: the least a block holds, with every BatchNorm folded,
# is 4. A deploy block holds 2 keys, of which one may be missing.
_LEAST_BRANCH_KEYS = 3


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where a stage has no block.

    Squeeze-excite in less than half of the blocks makes another network of it: None.
    """
    keys: dict[int, Counter[int]] = defaultdict(Counter)
    squeezed = set()
    for name in found:
        if match := _BLOCK_KEY.match(name):
            weight = _LEAST_BRANCH_KEYS if match[3] == "reparam" else 1
            keys[int(match[1])][int(match[2])] += weight
        elif match := _SQUEEZE_KEY.match(name):
            squeezed.add(match[1])
    num_blocks = tuple(run_length(keys[stage], _LEAST_BRANCH_KEYS) for stage in (1, 2, 3, 4))
    few = 0 < 2 * len(squeezed) < 1 + sum(num_blocks)
    if min(num_blocks) < 1 or few:
        return None
    widths = tuple(_width(found, stage, count) for stage, count in enumerate(num_blocks, start=1))
    plain = Structure(
        num_blocks,
        widths,
        class_num=classes(found, "linear", widths[-1], default=1000),
        in_channels=majority(_inputs(found, "stage0"), default=3),
        use_se=bool(squeezed),
    )
    groups = {layer: _groups(found, block) for layer, block in enumerate(plain.blocks()) if layer}
    return replace(plain, groups={layer: count for layer, count in groups.items() if count != 1})


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
        axis(found, f"{prefix}.se.up.bias", 0, 1),
        axis(found, f"{prefix}.se.up.weight", 0, 4),
        axis(found, f"{prefix}.se.down.weight", 1, 4),
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
