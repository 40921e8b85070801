"""From a checkpoint file to a fused checkpoint file with a manifest beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from reparam.checkpoint.files import (
    PDPARAMS,
    SAFETENSORS,
    Checkpoint,
    format_of,
    load_checkpoint,
    write_arrays,
)
from reparam.checkpoint.fusing import fuse_arrays, fuse_names
from reparam.checkpoint.manifest import manifest_of, manifest_path
from reparam.checkpoint.opening import check_input
from reparam.checkpoint.report import FusionReport
from reparam.errors import NotFusibleError, OutputError, UnsupportedModelError
from reparam.files import check_output, sha256_of, whole_file
from reparam.version import tool_version


@dataclass(frozen=True)
class Fusion:
    """A fused checkpoint: where it came from, where it is (None in a dry run), what was done."""

    source: Path
    source_sha256: str
    output: Path | None
    sha256: str
    report: FusionReport


def deploy_path(source: Path) -> Path:
    """Return where the deploy form of ``source`` goes by default: x.pdparams, x.deploy.pdparams.

    That of x.pdema is x.pdema.deploy.pdparams: everything loads that ending, and it is not taken
    for the deploy form of the x.pdparams beside it, which holds other weights. So it is for every
    other ending, since what a file holds decides and not how it is called.
    """
    if source.suffix not in (f".{PDPARAMS}", f".{SAFETENSORS}"):
        return source.with_name(f"{source.name}.deploy.pdparams")
    return source.with_name(f"{source.stem}.deploy{source.suffix}")


def fuse(
    source: str | Path,
    output: str | Path | None = None,
    *,
    epsilon: float | None = None,
    prefix: str | None = None,
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> Fusion:
    """Fuse every block of a checkpoint file and write the deploy form, whole or not at all.

    A checkpoint that is fused already, or has nothing to fuse, is written as it is, unless
    ``strict``.

    Args:
        output: ``deploy_path(source)`` by default; its ending chooses the format.
        epsilon: of the BatchNorms, in place of what the family says.
        prefix: use only the weights under this name or prefix, and take it off.

    Raises:
        CheckpointError: the file is unusable, or a block of it is not whole.
        NotFusibleError: ``strict``, and there was nothing to fuse or something was left.
        UnsupportedModelError: the source is an ONNX file.
        OutputError: the output cannot be written there.
    """
    source = Path(source)
    if source.suffix == ".onnx":
        raise UnsupportedModelError(
            f"cannot fuse '{source}'",
            found="an ONNX file; needed: a checkpoint",
            hint="reparam export CHECKPOINT --onnx fuses and exports in one go",
        )
    target = deploy_path(source) if output is None else Path(output)
    kind = format_of(target)
    check_input(source)
    if not dry_run:
        _check_outputs(source, target, force)
    checkpoint = load_checkpoint(source, prefix=prefix)
    arrays, report = fuse_arrays(checkpoint.arrays, epsilon=epsilon)
    report = replace(report, notices=(*checkpoint.layout.notices, *report.notices))
    if strict:
        _need_all_fused(source, report)
    if dry_run:
        return Fusion(source, checkpoint.sha256, None, "", report)
    with whole_file(manifest_path(target), force) as note, whole_file(target, force) as weights:
        names = fuse_names(checkpoint.names, report, arrays)
        write_arrays(weights, kind, arrays, names=names, metadata=_metadata(checkpoint))
        sha256 = sha256_of(weights)
        text = manifest_of(checkpoint, target, sha256, report, tool_version())
        note.write_text(text, encoding="utf-8")
    return Fusion(source, checkpoint.sha256, target, sha256, report)


def _check_outputs(source: Path, target: Path, force: bool) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(
            f"'{target}' is the input", why="the input is never changed", hint="-o names another"
        )
    check_output(target, force)
    check_output(manifest_path(target), force)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    return {**checkpoint.metadata, "reparam.source_sha256": checkpoint.sha256}


def _need_all_fused(source: Path, report: FusionReport) -> None:
    if not report.fused:
        found = f"{len(report.already)} blocks in deploy form already" if report.already else ""
        raise NotFusibleError(
            f"nothing to fuse in '{source}'",
            found=found or "no block of a known family",
            why="--strict was given",
        )
    if report.left:
        raise NotFusibleError(
            f"not everything in '{source}' was fused",
            found=f"'{report.left[0].where}' was left: {report.left[0].reason}",
            why="--strict was given",
        )
