"""Which MobileOne a checkpoint is of, told from names and shapes that may be damaged."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reparam.models.layout import Shape
from reparam.models.mobileone_layout import VARIANTS, Structure, layout
from reparam.models.voting import INDEX, axis, classes, majority, markers, run_length, sizes

_BLOCK_KEY = re.compile(
    rf"stage([1-4])\.{INDEX}\.(?:rbr_conv\.{INDEX}|rbr_scale|rbr_skip|(reparam_conv))\."
)
_SQUEEZE_KEY = re.compile(rf"stage([1-4]\.{INDEX})\.se\.")
# Fewer keys than this are a stray, not a depthwise and a 1x1 block: the least that two hold, with
# every BatchNorm folded, is 6. In deploy form they hold 4, and each counts twice.
_LEAST_PAIR_KEYS = 3


@dataclass
class _Count:
    """Keys of each pair of blocks, convolutions of each block, and which have squeeze-excite."""

    pairs: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    convs: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    squeezed: set[str] = field(default_factory=set)


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where a stage has no block.

    Squeeze-excite in less than half of the blocks that would have it makes another network of
    it: None.
    """
    count = _counted(found)
    num_blocks = tuple(run_length(count.pairs[stage], _LEAST_PAIR_KEYS) for stage in (1, 2, 3, 4))
    if min(num_blocks) < 1:
        return None
    marks = markers(4)
    marked = Structure(num_blocks, marks, use_se=bool(count.squeezed))
    gated = {f"{block.prefix}" for block in marked.blocks() if block.use_se}
    if marked.use_se and 2 * len({f"stage{where}" for where in count.squeezed} & gated) < len(
        gated
    ):
        return None
    widths = tuple(sizes(found, layout(marked), marks))
    whole = replace(
        marked,
        widths=widths,
        num_classes=classes(found, "linear", widths[-1], default=1000),
        in_channels=majority(_inputs(found), default=3),
    )
    branches = majority(map(len, count.convs.values()), default=_published_branches(whole))
    return replace(whole, conv_branches=branches)


def _counted(found: Mapping[str, Shape]) -> _Count:
    count = _Count()
    for name in found:
        if match := _BLOCK_KEY.match(name):
            stage, index, conv, deployed = match.groups()
            count.pairs[int(stage)][int(index) // 2] += 2 if deployed else 1
            if conv:
                count.convs[f"{stage}.{index}"].add(int(conv))
        elif match := _SQUEEZE_KEY.match(name):
            count.squeezed.add(match[1])
    return count


def _inputs(found: Mapping[str, Shape]) -> list[int | None]:
    """Return what the weights of the first block say of the channels of the image."""
    weights = ("rbr_conv.0.conv.weight", "rbr_scale.conv.weight", "reparam_conv.weight")
    return [axis(found, f"stage0.{weight}", 1, 4) for weight in weights]


def _published_branches(structure: Structure) -> int:
    """Return the branches of the variant that is like ``structure`` but for these, else 1."""
    for variant in VARIANTS.values():
        published = Structure.of(**variant)
        if (published.widths, published.num_blocks) == (structure.widths, structure.num_blocks):
            return published.conv_branches
    return 1
