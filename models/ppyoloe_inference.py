"""Which PP-YOLOE a checkpoint is of, told from names and shapes that may be damaged."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from reparam.models import cspresnet_inference
from reparam.models.cspresnet_layout import rep_vgg_block
from reparam.models.layout import Shape
from reparam.models.ppyoloe_layout import BINS, CLASSES, CONV_BN, REP_VGG, Structure
from reparam.models.voting import INDEX, axis, majority, outputs, run_length

_BACKBONE = "backbone."
_STAGE_KEY = re.compile(rf"neck\.(fpn|pan)_stages\.{INDEX}\.{INDEX}\.(?:conv[123]|convs)\.")
_BLOCK_KEY = re.compile(rf"neck\.(?:fpn|pan)_stages\.{INDEX}\.{INDEX}\.convs\.{INDEX}\.")
_ALPHA_KEY = re.compile(rf"neck\.(?:fpn|pan)_stages\.{INDEX}\.{INDEX}\.convs\.{INDEX}\.conv2\.")
_HEAD = "yolo_head."
# Fewer keys than these are a stray: a stage with one fused block and every BatchNorm folded has
# 10, a block of it 4.
_LEAST_STAGE_KEYS = 5
_LEAST_BLOCK_KEYS = 3


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where a part of it is missing."""
    inside = {k.removeprefix(_BACKBONE): v for k, v in found.items() if k.startswith(_BACKBONE)}
    backbone = cspresnet_inference.infer(inside)
    stages: dict[int, Counter[int]] = defaultdict(Counter)
    for name in found:
        match = _STAGE_KEY.match(name)
        if match and match[1] == "fpn":
            stages[int(match[3])][int(match[2])] += 1
    levels = run_length(stages[0], _LEAST_STAGE_KEYS)
    head = any(name.startswith(_HEAD) for name in found)
    if backbone is None or not head or not 1 <= levels <= len(backbone.layers):
        return None
    neck_stages = max(run_length({s: stages[s][0] for s in stages}, _LEAST_STAGE_KEYS), 1)
    return Structure(
        backbone=backbone,
        neck_channels=tuple(_neck_channels(found, level, neck_stages) for level in range(levels)),
        neck_blocks=_blocks(found),
        neck_stages=neck_stages,
        neck_alpha=_has_alpha(found),
        spp=any(".convs.spp.conv." in name for name in found if name.startswith("neck.")),
        attn_conv=_attention(found, levels),
        num_classes=majority(_of_level(found, "pred_cls", levels), default=CLASSES),
        bins=_bins(found, levels),
    )


def _neck_channels(found: Mapping[str, Shape], level: int, stages: int) -> int:
    ends = [f"neck.fpn_stages.{level}.{stages - 1}.conv3"]
    ends += [f"neck.pan_stages.{level}.{stages - 1}.conv3"]
    readers = [f"{_HEAD}{name}.{level}.fc" for name in ("stem_cls", "stem_reg")]
    readers += [f"{_HEAD}{name}.{level}" for name in ("pred_cls", "pred_reg")]
    votes = [vote for end in ends for vote in outputs(found, end)]
    votes += [axis(found, f"{reader}.weight", 1, 4) for reader in readers]
    return majority(votes, default=1)


def _blocks(found: Mapping[str, Shape]) -> int:
    """Return what most stages of the neck say of their basic blocks."""
    counts: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for name in found:
        if match := _BLOCK_KEY.match(name):
            stage = tuple(name.split(".")[1:4])
            counts[stage][int(match[3])] += 1
    return majority((run_length(c, _LEAST_BLOCK_KEYS) for c in counts.values()), default=1) or 1


def _has_alpha(found: Mapping[str, Shape]) -> bool:
    """Whether at least half of the blocks of the neck in train-time form hold an alpha."""
    prefixes = {match[0].rstrip(".") for match in map(_ALPHA_KEY.match, found) if match}
    blocks = [rep_vgg_block(prefix, 1, alpha=True) for prefix in sorted(prefixes)]
    branched = [block.prefix for block in blocks if block.form_in(found) == "train-time"]
    return 0 < len(branched) <= 2 * sum(f"{prefix}.alpha" in found for prefix in branched)


def _attention(found: Mapping[str, Shape], levels: int) -> str | None:
    """Return what most of the attentions are followed by: a 1x1 convolution, a block, nothing."""
    told: list[str] = []
    stems = [
        f"{_HEAD}{stem}.{level}" for stem in ("stem_cls", "stem_reg") for level in range(levels)
    ]
    for stem in stems:
        kernel = axis(found, f"{stem}.conv.conv.weight", 2, 4)
        if kernel == 3 or any(name.startswith(f"{stem}.conv.conv1.") for name in found):
            told.append(REP_VGG)
        elif kernel == 1 or any(name.startswith(f"{stem}.conv.bn.") for name in found):
            told.append(CONV_BN)
    if 2 * len(told) < len(stems):
        return None
    return CONV_BN if 2 * told.count(CONV_BN) >= len(told) else REP_VGG


def _of_level(found: Mapping[str, Shape], name: str, levels: int) -> Iterable[int | None]:
    for level in range(levels):
        yield axis(found, f"{_HEAD}{name}.{level}.weight", 0, 4)
        yield axis(found, f"{_HEAD}{name}.{level}.bias", 0, 1)


def _bins(found: Mapping[str, Shape], levels: int) -> int:
    told = [axis(found, f"{_HEAD}proj_conv.weight", 1, 4)]
    told += [None if n is None or n % 4 else n // 4 for n in _of_level(found, "pred_reg", levels)]
    return majority(told, default=BINS)
