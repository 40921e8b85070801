"""Which PP-LCNetV3 a checkpoint is of, told from names and shapes that may be damaged."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from reparam.models.layout import Shape
from reparam.models.pplcnetv3_layout import (
    CHANNELS,
    CONV_BRANCHES,
    DETECTOR_CHANNELS,
    Structure,
    layout,
    nearest_scale,
)
from reparam.models.voting import INDEX, axis, majority, markers, sizes

_LAYER_KEY = re.compile(
    rf"(blocks[2-6]\.{INDEX}\.[dp]w_conv)\.(?:conv_kxk\.{INDEX}|conv_1x1|identity|reparam_conv)\."
)
_MAP_KEY = re.compile(rf"layer_list\.{INDEX}\.")
_LEAST_LAYERS = 2  # fewer are a stray, as a single key of a feature map is


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where it has none of its layers."""
    convs: dict[str, set[int]] = defaultdict(set)
    layers = set()
    for name in found:
        if match := _LAYER_KEY.match(name):
            layers.add(match[1])
            if match[3]:
                convs[match[1]].add(int(match[3]))
    if len(layers) < _LEAST_LAYERS:
        return None
    det = sum(_MAP_KEY.match(name) is not None for name in found) > 1
    marks = markers(len(CHANNELS) + len(DETECTOR_CHANNELS))
    widths, maps = marks[: len(CHANNELS)], marks[len(CHANNELS) :] if det else ()
    told = sizes(found, layout(Structure(widths, maps or None)), (*widths, *maps))
    scale = nearest_scale(told[: len(widths)], told[len(widths) :])
    return Structure.of(
        scale,
        det,
        majority(map(len, convs.values()), default=CONV_BRANCHES),
        majority([axis(found, "conv1.conv.weight", 1, 4)], default=3),
    )
