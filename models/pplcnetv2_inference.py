"""Which PP-LCNetV2 a checkpoint is of, told from names and shapes that may be damaged."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from reparam.models.layout import Shape
from reparam.models.pplcnetv2_layout import (
    CHANNELS,
    CLASS_EXPAND,
    STAGES,
    Structure,
    layout,
    nearest_scale,
)
from reparam.models.voting import INDEX, axis, classes, majority, markers, run_length, sizes

_BLOCK_KEY = re.compile(rf"stages\.([0-3])\.{INDEX}\.(?:dw_conv|dw_conv_list\.{INDEX}|pw_conv)")
# Fewer keys than this are a stray: the least a block holds, with every BatchNorm folded, is 4.
_LEAST_BLOCK_KEYS = 3


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where a stage has no block."""
    keys: dict[int, Counter[int]] = defaultdict(Counter)
    for name in found:
        if match := _BLOCK_KEY.match(name):
            keys[int(match[1])][int(match[2])] += 1
    depths = tuple(run_length(keys[stage], _LEAST_BLOCK_KEYS) for stage in range(len(STAGES)))
    if min(depths) < 1:
        return None
    *marks, expand = markers(len(CHANNELS) + 1)
    marked = Structure(tuple(marks), depths, class_expand=expand)
    *widths, class_expand = sizes(found, layout(marked), (*marks, expand))
    scale = nearest_scale(widths)
    nearest = Structure.of(scale, depths)
    read = axis(found, "fc.weight", 0, 2)
    use_last_conv = "last_conv.weight" in found or read not in (None, nearest.channels[-1])
    whole = replace(
        nearest,
        use_last_conv=use_last_conv,
        class_expand=class_expand if use_last_conv else CLASS_EXPAND,
        in_channels=majority([axis(found, "stem.0.conv.weight", 1, 4)], default=3),
    )
    return replace(whole, class_num=classes(found, "fc", whole.features, default=1000))
