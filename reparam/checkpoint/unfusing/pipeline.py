"""From a deploy checkpoint file to a train-time checkpoint file with a manifest beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reparam.checkpoint.epsilons import GIVEN
from reparam.checkpoint.families.terms import PADDLE
from reparam.checkpoint.families.terms import TORCH as TORCH_NAMES
from reparam.checkpoint.files import PDPARAMS, TORCH, Checkpoint, format_of, load_checkpoint
from reparam.checkpoint.manifest import source_of, wanted_of
from reparam.checkpoint.notices import listing
from reparam.checkpoint.opening import check_input
from reparam.checkpoint.pipeline import (
    check_outputs,
    path_beside,
    target_of,
    write_with_manifest,
)
from reparam.checkpoint.plan import SKIPPED
from reparam.checkpoint.unfusing.arrays import Unfusing
from reparam.checkpoint.unfusing.network import Asked
from reparam.checkpoint.unfusing.outlines import Wishes
from reparam.checkpoint.unfusing.report import UnfusionReport
from reparam.errors import CheckpointError, NotFusibleError, UnsupportedModelError
from reparam.files import train_stem
from reparam.reports import Report, written_text

_SPELLINGS = {PDPARAMS: PADDLE, TORCH: TORCH_NAMES}  # what else a format tells


@dataclass(frozen=True, repr=False)
class Unfusion(Report):
    """A train-time checkpoint: where it came from, where it is, what was done.

    ``output`` is None where nothing was written: in a dry run, or with nothing to unfuse.
    ``original`` is the checkpoint that the source was fused from, where it is still there.
    """

    source: Path
    source_sha256: str
    output: Path | None
    sha256: str
    report: UnfusionReport
    original: Path | None = None

    @property
    def summary(self) -> str:
        return written_text(self.source, self.report.summary, self.output)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "source_sha256": self.source_sha256,
            "output": self.output,
            "sha256": self.sha256,
            "original": self.original,
            **self.report.to_json(),
        }


@dataclass(frozen=True)
class _Network:
    """The train-time network: a checkpoint of it, and what is known of how it was fused."""

    checkpoint: Checkpoint | None = None
    original: Path | None = None
    epsilon: float | None = None
    families: tuple[str, ...] = ()


def train_path(source: Path, kind: str | None = None) -> Path:
    """Return where the train-time form goes by default: x.deploy.pdparams, x.train.pdparams."""
    return path_beside(source, kind, train_stem)


def unfuse(
    source: str | Path,
    output: str | Path | None = None,
    *,
    like: str | Path | None = None,
    epsilon: float | None = None,
    families: Sequence[str] = (),
    have: Sequence[str] = (),
    lack: Sequence[str] = (),
    branches: int | None = None,
    spelling: str | None = None,
    skip: Sequence[str] = (),
    format: str | None = None,
    prefix: str | None = None,
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> Unfusion:
    """Bring a deploy checkpoint back to train-time form and write it, whole or not at all.

    The result is equivalent in function and loads into the train-time network; the original
    weights cannot be had back. The first kernel of each block holds the whole convolution, the
    other branches are zero, the BatchNorms change nothing. Where there is nothing to unfuse,
    nothing is written, unless ``output`` names a file: that holds what the source holds.

    Args:
        output: ``train_path(source)`` by default; its ending chooses the format.
        like: a checkpoint of the train-time network with any weights, which decides names and
            shapes. Without it, what the manifest names as the source of the fusion does, then
            the recognised architecture, then the family and what follows here.
        epsilon: of the BatchNorms, in place of what the family says.
        families: names of families that come first where names and shapes leave it open.
        have, lack: optional parts that blocks have and lack: ``PART``, or ``BLOCK:PART`` with
            ``*`` for any part of the name of the block.
        branches: how many branches a block of a family that counts them has.
        spelling: of the BatchNorms' statistics where nothing tells, ``paddle`` or ``torch``.
        skip: blocks to leave as they are, names or patterns.
        format: ``pdparams`` or ``safetensors``; added to an ``output`` that ends in neither.
        prefix: use only the weights under this name or prefix, and take it off.

    Raises:
        CheckpointError: a file is unusable, a block is in neither form or does not fit, an option
            names nothing, or only the user can tell what a block was.
        NotFusibleError: ``strict``, and there was nothing to unfuse, or something was left or
            differs from ``like``.
        NotEquivalentError: a block would not be its convolution again.
        UnsupportedModelError: an ONNX file, or a block that cannot hold its convolution.
        OutputError: the output cannot be written there.
    """
    source = Path(source)
    if source.suffix == ".onnx":
        raise UnsupportedModelError(
            f"cannot unfuse '{source}'", found="an ONNX file; needed: a checkpoint"
        )
    check_input(source)  # a folder has no name to make another of
    target = target_of(source, None if output is None else Path(output), format, train_path)
    format_of(target)  # a name without a format is refused before anything is read
    if not dry_run and output is not None:
        check_outputs(source, target, force)
    checkpoint = load_checkpoint(source, prefix=prefix)
    network = _network_of(checkpoint, like)
    unfusing = Unfusing(
        checkpoint.arrays,
        Asked(
            families or network.families,
            skip,
            Wishes(have, lack, branches),
            spelling or _SPELLINGS.get(checkpoint.format),
            f"'{network.original}', which the manifest names," if network.original else "--like",
        ),
        like=network.checkpoint.arrays if network.checkpoint else None,
        epsilon=network.epsilon if epsilon is None else epsilon,
        epsilon_source=GIVEN if epsilon is not None else "the manifest of the fusion",
    )
    if strict:
        _need_all_unfused(source, unfusing)
    if dry_run or (output is None and not unfusing.plan.targets):
        for _ in checkpoint.in_passing(unfusing):
            pass
        report = _reported(unfusing, checkpoint, network)
        return Unfusion(source, checkpoint.sha256, None, "", report, network.original)
    return _written(unfusing, checkpoint, network, target, force)


def _written(
    unfusing: Unfusing, checkpoint: Checkpoint, network: _Network, target: Path, force: bool
) -> Unfusion:
    """Write the train-time form as it is made, then its manifest; both appear, or neither."""
    check_outputs(checkpoint.path, target, force)
    sha256, report = write_with_manifest(
        unfusing,
        lambda: _reported(unfusing, checkpoint, network),
        checkpoint,
        target,
        names=unfusing.names(
            checkpoint.names, network.checkpoint.names if network.checkpoint else {}
        ),
        force=force,
        changes=bool(unfusing.plan.targets),
    )
    source = checkpoint.path
    return Unfusion(source, checkpoint.sha256, target, sha256, report, network.original)


def _network_of(checkpoint: Checkpoint, like: str | Path | None) -> _Network:
    """Return what is known of the train-time network: from ``like``, else from the manifest."""
    if like is not None:
        return _Network(load_checkpoint(like))
    with suppress(CheckpointError):  # no manifest, or none of this file: then there is nothing
        path, epsilon, families = source_of(checkpoint)
        original = load_checkpoint(path, prefix=wanted_of(checkpoint))
        return _Network(original, path, epsilon, families)
    return _Network()


def _reported(unfusing: Unfusing, checkpoint: Checkpoint, network: _Network) -> UnfusionReport:
    report = unfusing.report()
    notices = [*checkpoint.layout.notices, *report.notices]
    if network.original is not None:
        notices.append(f"the original weights are in '{network.original}', which the manifest "
                       "names; names and shapes are taken from there")  # fmt: skip
    if report.missing:
        notices.append(f"the train-time network has besides: {listing(report.missing)}")
    if report.unexpected:
        notices.append(f"the train-time network lacks: {listing(report.unexpected)}")
    return replace(report, notices=tuple(notices))


def _need_all_unfused(source: Path, unfusing: Unfusing) -> None:
    plan = unfusing.plan
    missing, unexpected = unfusing.differing
    what, found = "", ""
    if not plan.targets:
        what = f"nothing to unfuse in '{source}'"
        found = f"{len(plan.train_time)} blocks in train-time form already"
    elif left := [one for one in plan.left if one.reason != SKIPPED]:
        what = f"not everything in '{source}' was unfused"
        found = f"'{left[0].where}' was left: {left[0].reason}"
    elif missing or unexpected:
        what = f"the train-time form of '{source}' would not fit the network"
        found = f"missing: {listing(missing)}" if missing else f"too many: {listing(unexpected)}"
    if what:
        raise NotFusibleError(what, found=found, why="--strict was given")
