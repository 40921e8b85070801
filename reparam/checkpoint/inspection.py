"""What is in a checkpoint, told without building a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reparam.architectures import recognise
from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.files import Checkpoint, load_checkpoint
from reparam.checkpoint.finite import is_finite
from reparam.checkpoint.layouts import Layout
from reparam.checkpoint.roles import QUANTISED, without_quantisers
from reparam.checkpoint.stored_forms import name_of
from reparam.detection.known import detector_of
from reparam.reports import Report

_STATISTICS = ("_mean", "_variance", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class BlockForm:
    """One block: where, of which family, and in which form (``train-time`` or ``deploy``)."""

    where: str
    family: str
    form: str


@dataclass(frozen=True, repr=False)
class Inspection(Report):
    """What a checkpoint holds.

    ``layout`` says where in the file the weights stand, and names are without its prefix.
    ``parameters`` counts learned values, without the running statistics. ``not_finite`` names
    arrays with NaN or infinity, ``untrained`` BatchNorms whose statistics are those of a network
    that never saw data. ``detector`` is one that is known by name alone. ``settings`` were told by
    the checkpoint, ``assumed`` were not.
    """

    path: str
    format: str
    bytes: int
    sha256: str
    layout: Layout
    arrays: int
    parameters: int
    dtypes: dict[str, int]
    architecture: str | None
    form: str
    detector: str | None
    settings: dict[str, Any]
    assumed: dict[str, Any]
    blocks: tuple[BlockForm, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    mismatched: tuple[str, ...]
    not_finite: tuple[str, ...]
    untrained: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def summary(self) -> str:
        name = self.architecture or self.detector or "unknown architecture"
        return f"{self.path}: {name}, {len(self.blocks)} blocks, {self.form}"

    @property
    def fused(self) -> int:
        return sum(block.form == "deploy" for block in self.blocks)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fused": self.fused}


def inspect(path: str | Path, *, prefix: str | None = None) -> Inspection:
    """Return what the checkpoint at ``path`` holds.

    Args:
        prefix: look only at the weights under this name or prefix.

    Raises:
        CheckpointError: the file is unusable.
    """
    checkpoint = load_checkpoint(path, prefix=prefix, accept_quantised=True)
    shapes = checkpoint.shapes
    if checkpoint.layout.kind == QUANTISED:
        shapes = without_quantisers(shapes)
    known = recognise(shapes)
    detector = None if known else detector_of(shapes)
    blocks, doubts = _blocks(shapes, known)
    arrays = checkpoint.arrays
    learned = (a.size for key, a in arrays.items() if not key.endswith(_STATISTICS))
    return Inspection(
        path=str(checkpoint.path),
        format=checkpoint.format,
        bytes=checkpoint.path.stat().st_size,
        sha256=checkpoint.sha256,
        layout=checkpoint.layout,
        arrays=len(arrays),
        parameters=sum(int(size) for size in learned),
        dtypes=dict(Counter(name_of(array.dtype) for array in arrays.values())),
        architecture=known.name if known else None,
        form=known.form if known else _form(blocks),
        detector=detector.title if detector else None,
        settings=known.settings if known else {},
        assumed=known.assumed if known else {},
        blocks=blocks,
        missing=known.missing if known else (),
        unexpected=known.unexpected if known else (),
        ignored=known.ignored if known else (),
        mismatched=_mismatched(known),
        not_finite=tuple(_not_finite(checkpoint)),
        untrained=_untrained(arrays),
        doubts=doubts,
    )


def _blocks(
    shapes: Mapping[str, tuple[int, ...]], known: Any
) -> tuple[tuple[BlockForm, ...], tuple[str, ...]]:
    if known is not None and (known.missing or known.mismatched):
        deployed = set(known.deployed)
        return tuple(
            BlockForm(where, known.name, "deploy" if where in deployed else "train-time")
            for where in known.blocks
        ), ()
    found = find_blocks(shapes, spared=lambda _: True)  # telling is all that is asked for
    forms = [BlockForm(m.where, m.family.name, "train-time") for m in found.blocks]
    if known is not None:  # the name of the convolution alone fits several families
        forms += [BlockForm(where, known.block_family, "deploy") for where in known.deployed]
    else:
        forms += [BlockForm(where, family.name, "deploy") for where, family in found.deployed]
    doubts = tuple(f"{where}: {reason}" for where, reason in found.doubts)
    doubts += tuple(reason for _, reason in found.spared)  # which names the block
    order = {where: place for place, where in enumerate(known.blocks)} if known else {}
    return tuple(sorted(forms, key=lambda b: order.get(b.where, 0))), doubts


def _form(blocks: tuple[BlockForm, ...]) -> str:
    forms = {block.form for block in blocks}
    return forms.pop() if len(forms) == 1 else "mixed" if forms else "no known block"


def _mismatched(known: Any) -> tuple[str, ...]:
    if known is None:
        return ()
    return tuple(
        f"'{key}' has the shape {tuple(found)}; needed: {tuple(needed)}"
        for key, found, needed in known.mismatched
    )


def _not_finite(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the keys of arrays with NaN or infinity, and keep few of them in memory."""
    for key, array in checkpoint.in_passing(checkpoint.arrays.items()):
        if not is_finite(array):
            yield key


def _untrained(arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    stems = (key.removesuffix("._mean") for key in arrays if key.endswith("._mean"))
    return tuple(
        stem
        for stem in stems
        if not arrays[f"{stem}._mean"].any()
        and (arrays.get(f"{stem}._variance", np.zeros(1)) == 1).all()
    )
