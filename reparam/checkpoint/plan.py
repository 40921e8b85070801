"""What of a checkpoint is going to be fused, told by names and shapes before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from reparam.checkpoint.blocks import BlockMatch, Shapes, find_blocks
from reparam.checkpoint.pairs import find_pairs
from reparam.checkpoint.report import Left
from reparam.errors import CheckpointError

SKIPPED = "--skip"  # the reason of what was left because it was asked for

_LISTED = 5


@dataclass(frozen=True)
class Plan:
    """Blocks and conv-bn pairs to fuse, and what is left as it is.

    ``deployed`` are blocks in deploy form already; ``notices`` name options without effect.
    """

    blocks: tuple[BlockMatch, ...]
    pairs: tuple[BlockMatch, ...]
    left: tuple[Left, ...]
    deployed: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def matches(self) -> tuple[BlockMatch, ...]:
        return self.blocks + self.pairs


def plan_of(
    shapes: Shapes,
    *,
    deployed: Sequence[str] | None = None,
    fold_bn: bool = False,
    skip: Sequence[str] = (),
) -> Plan:
    """Return what to fuse.

    Args:
        deployed: blocks in deploy form, where the architecture tells; else names and shapes do.
        fold_bn: fold conv-bn pairs outside blocks as well.
        skip: blocks and pairs to leave as they are: names, or patterns with ``*`` and ``?``
            (which match dots too).

    Raises:
        CheckpointError: a block is not whole, or ``skip`` names nothing that is there.
    """
    found = find_blocks(shapes)
    taken = {key for match in found.blocks for key in match.branch_keys}
    pairs, unpaired = find_pairs(shapes, taken) if fold_bn else ((), ())
    if deployed is None:
        deployed = [where for where, _ in found.deployed]
    names = [match.where for match in (*found.blocks, *pairs)]
    skipped = _skipped(skip, names, deployed)
    left = [*found.doubts, *unpaired, *((where, SKIPPED) for where in names if where in skipped)]
    return Plan(
        blocks=tuple(match for match in found.blocks if match.where not in skipped),
        pairs=tuple(match for match in pairs if match.where not in skipped),
        left=tuple(Left(where, reason) for where, reason in left),
        deployed=tuple(deployed),
        notices=tuple(_without_effect(skip, names, deployed, fold_bn and not pairs)),
    )


def _skipped(patterns: Sequence[str], names: Sequence[str], deployed: Sequence[str]) -> set[str]:
    skipped: set[str] = set()
    for pattern in patterns:
        matching = _matching(pattern, names)
        if not matching and not _matching(pattern, deployed):
            near = get_close_matches(pattern, names, n=3, cutoff=0.5) or list(names)[:_LISTED]
            raise CheckpointError(
                f"--skip {pattern} names no block",
                found=f"{len(names)} that could be skipped" + (", near: " if near else "")
                + ", ".join(near),
                hint="reparam inspect lists them; * stands for any part of a name",
            )  # fmt: skip
        skipped |= matching
    return skipped


def _without_effect(
    skip: Sequence[str], names: Sequence[str], deployed: Sequence[str], no_pairs: bool
) -> Iterable[str]:
    for pattern in skip:
        if not _matching(pattern, names):
            those = len(_matching(pattern, deployed))
            yield f"--skip {pattern} had no effect: in deploy form already ({those} block(s))"
    if no_pairs:
        yield "--fold-bn had no effect: no convolution and BatchNorm are named as a pair"


def _matching(pattern: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if name == pattern or fnmatchcase(name, pattern)}
