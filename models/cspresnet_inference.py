"""Which CSPResNet a checkpoint is of, told from names and shapes that may be damaged."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from reparam.models.cspresnet_layout import Structure, rep_vgg_block
from reparam.models.layout import Shape
from reparam.models.voting import INDEX, axis, classes, majority, outputs, run_length

_BLOCK_KEY = re.compile(rf"stages\.{INDEX}\.blocks\.{INDEX}\.conv[12]\.")
_STAGE_KEY = re.compile(rf"stages\.{INDEX}\.(?:conv_down|conv1|conv2|conv3|attn)\.")
# Fewer keys than these are a stray, not a block or a stage: the least a whole one holds, with
# every BatchNorm folded, is 4 and 10.
_LEAST_BLOCK_KEYS = 3
_LEAST_STAGE_KEYS = 5


def infer(found: Mapping[str, Shape]) -> Structure | None:
    """Return the structure that ``found`` is nearest to, None where it has no stages."""
    stage_keys: Counter[int] = Counter()
    block_keys: dict[int, Counter[int]] = defaultdict(Counter)
    for name in found:
        if match := _BLOCK_KEY.match(name):
            block_keys[int(match[1])][int(match[2])] += 1
        elif match := _STAGE_KEY.match(name):
            stage_keys[int(match[1])] += 1
    stages = run_length(stage_keys, _LEAST_STAGE_KEYS)
    if not stages:
        return None
    layers = tuple(
        max(run_length(block_keys[stage], _LEAST_BLOCK_KEYS), 1) for stage in range(stages)
    )
    large_stem = sum(name.startswith("stem.conv3.") for name in found) > 1
    has_head = "head.weight" in found or "head.bias" in found
    channels = _channels(found, stages, "stem.conv3" if large_stem else "stem.conv2")
    return Structure(
        layers=layers,
        channels=channels,
        use_large_stem=large_stem,
        use_alpha=_has_alpha(found, layers),
        num_classes=classes(found, "head", channels[-1], default=1) if has_head else None,
        in_channels=majority([axis(found, "stem.conv1.conv.weight", 1, 4)], default=3),
    )


def _channels(found: Mapping[str, Shape], stages: int, stem: str) -> tuple[int, ...]:
    ends = [stem, *(f"stages.{stage}.conv3" for stage in range(stages))]
    readers = [f"stages.{stage}.conv_down.conv.weight" for stage in range(stages)]
    channels = [
        majority([*outputs(found, end), axis(found, reader, 1, 4)], default=1)
        for end, reader in zip(ends, readers, strict=False)
    ]
    last = [*outputs(found, ends[-1]), axis(found, "head.weight", 0, 2)]
    return (*channels, majority(last, default=1))


def _has_alpha(found: Mapping[str, Shape], layers: tuple[int, ...]) -> bool:
    """Whether at least half of the blocks in train-time form hold an alpha."""
    prefixes = [f"stages.{s}.blocks.{b}.conv2" for s, n in enumerate(layers) for b in range(n)]
    blocks = [rep_vgg_block(prefix, 1, alpha=True) for prefix in prefixes]
    branched = [block.prefix for block in blocks if block.form_in(found) == "train-time"]
    return 0 < len(branched) <= 2 * sum(f"{prefix}.alpha" in found for prefix in branched)
