"""From a checkpoint file to a fused checkpoint file with a manifest beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reparam.checkpoint.files import (
    PDPARAMS,
    SAFETENSORS,
    TORCH,
    Checkpoint,
    format_of,
    load_checkpoint,
    write_arrays,
)
from reparam.checkpoint.fusing import Fusing
from reparam.checkpoint.layouts import Layout
from reparam.checkpoint.manifest import manifest_of, manifest_path
from reparam.checkpoint.opening import TORCH_ENDINGS, check_input
from reparam.checkpoint.plan import SKIPPED, Plan
from reparam.checkpoint.report import FusionReport
from reparam.errors import CheckpointError, NotFusibleError, OutputError, UnsupportedModelError
from reparam.files import check_output, deploy_stem, sha256_of, whole_group
from reparam.reports import Report, written_text
from reparam.version import tool_version

Reported = TypeVar("Reported", bound=Report)

_NAMES_OF_TORCH = (
    "names and shapes are as PyTorch has them: Paddle calls running_mean _mean and running_var "
    "_variance, and keeps the weight of a linear layer transposed; a Paddle network loads the file "
    "only after names are mapped and those weights turned"
)


@dataclass(frozen=True, repr=False)
class Fusion(Report):
    """A fused checkpoint: where it came from, where it is, what was done.

    ``output`` is None where nothing was written: in a dry run, and where there was nothing to fuse.
    """

    source: Path
    source_sha256: str
    output: Path | None
    sha256: str
    report: FusionReport

    @property
    def summary(self) -> str:
        return written_text(self.source, self.report.summary, self.output)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "source_sha256": self.source_sha256,
            "output": self.output,
            "sha256": self.sha256,
            **self.report.to_json(),
        }


def deploy_path(source: Path, kind: str | None = None) -> Path:
    """Return where the deploy form of ``source`` goes by default: x.pdparams, x.deploy.pdparams.

    That of x.pth, x.pt and the like is x.deploy.safetensors, which PyTorch loads without a pickle.
    That of x.pdema is x.pdema.deploy.pdparams: everything loads that ending, and it is not taken
    for the deploy form of the x.pdparams beside it, which holds other weights. So it is for every
    other ending, since what a file holds decides and not how it is called.
    """
    return path_beside(source, kind, deploy_stem)


def path_beside(source: Path, kind: str | None, stem_of: Callable[[str], str]) -> Path:
    """Return the path of what is made of ``source``, with the ending of its format."""
    torch = next((end for end in TORCH_ENDINGS if source.name.endswith(end)), None)
    if torch is not None:
        stem, ending = source.name.removesuffix(torch), f".{SAFETENSORS}"
    elif source.suffix in (f".{PDPARAMS}", f".{SAFETENSORS}"):
        stem, ending = source.stem, source.suffix
    else:
        stem, ending = source.name, f".{PDPARAMS}"
    return source.with_name(f"{stem_of(stem)}{ending if kind is None else f'.{kind}'}")


def fuse(
    source: str | Path,
    output: str | Path | None = None,
    *,
    epsilon: float | None = None,
    fold_bn: bool = False,
    skip: Sequence[str] = (),
    families: Sequence[str] = (),
    format: str | None = None,
    prefix: str | None = None,
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> Fusion:
    """Fuse every block of a checkpoint file and write the deploy form, whole or not at all.

    Where there is nothing to fuse, nothing is written, unless ``output`` names a file: that holds
    what the source holds, byte for byte where the format stays and all of it is weights.

    Args:
        output: ``deploy_path(source)`` by default; its ending chooses the format.
        epsilon: of the BatchNorms, in place of what the family says.
        fold_bn: fold conv-bn pairs outside blocks as well.
        skip: blocks to leave as they are, names or patterns.
        families: names of families that come first where names and shapes leave it open.
        format: ``pdparams`` or ``safetensors``; added to an ``output`` that ends in neither.
        prefix: use only the weights under this name or prefix, and take it off.

    Raises:
        CheckpointError: the file is unusable, a block of it is not whole, ``skip`` or
            ``families`` names nothing, ``format`` contradicts the ending of ``output``, or only
            the user can tell a family or an epsilon.
        NotFusibleError: a value does not fit its dtype; or ``strict``, and there was nothing to
            fuse or something was left.
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
    check_input(source)  # a folder has no name to make another of
    target = target_of(source, None if output is None else Path(output), format)
    format_of(target)  # a name without a format is refused before anything is read
    if not dry_run and output is not None:
        check_outputs(source, target, force)
    checkpoint = load_checkpoint(source, prefix=prefix)
    fusing = Fusing(
        checkpoint.arrays, epsilon=epsilon, fold_bn=fold_bn, skip=skip, families=families
    )
    if strict:
        _need_all_fused(source, fusing.plan)
    changes = bool(fusing.plan.matches)
    if dry_run or (output is None and not changes):
        for _ in checkpoint.in_passing(fusing):
            pass
        report = _reported(fusing, checkpoint, format_of(target))
        return Fusion(source, checkpoint.sha256, None, "", report)
    check_outputs(source, target, force)
    sha256, report = write_with_manifest(
        fusing,
        lambda: _reported(fusing, checkpoint, format_of(target)),
        checkpoint,
        target,
        names=fusing.names(checkpoint.names),
        force=force,
        changes=changes,
    )
    return Fusion(source, checkpoint.sha256, target, sha256, report)


def write_with_manifest(
    arrays: Iterable[tuple[str, np.ndarray[Any, Any]]],
    report: Callable[[], Reported],
    checkpoint: Checkpoint,
    target: Path,
    *,
    names: Mapping[str, str],
    force: bool,
    changes: bool = True,
) -> tuple[str, Reported]:
    """Write what is made of ``checkpoint`` as it is made, and a manifest; both appear, or neither.

    Args:
        report: tells what was done, once ``arrays`` have come to their end.
        changes: whether the arrays are others than those of the checkpoint. Where they are not,
            its file is copied, if nothing but weights is in it and the format stays.

    Returns:
        The SHA-256 of the file, and the report.

    Raises:
        CheckpointError: the file changed while it was being copied.
    """
    kind = format_of(target)
    with whole_group(target, manifest_path(target), force=force) as (weights, note):
        if not changes and kind == checkpoint.format and checkpoint.layout == Layout():
            for _ in checkpoint.in_passing(arrays):  # which finds what is not finite
                pass
            sha256 = _copy(checkpoint, weights)
        else:
            sha256 = write_arrays(
                weights,
                kind,
                checkpoint.in_passing(arrays),
                names=names,
                metadata=_metadata(checkpoint) if kind == SAFETENSORS else None,
            )
        done = report()
        text = manifest_of(checkpoint, target, sha256, done, tool_version())
        note.write_text(text, encoding="utf-8")
    return sha256, done


def _copy(checkpoint: Checkpoint, draft: Path) -> str:
    shutil.copyfile(checkpoint.path, draft)
    sha256 = sha256_of(draft)
    if sha256 != checkpoint.sha256:
        raise CheckpointError(f"'{checkpoint.path}' changed while it was being read")
    return sha256


def _reported(fusing: Fusing, checkpoint: Checkpoint, kind: str) -> FusionReport:
    report = fusing.report()
    notices = (*checkpoint.layout.notices, *report.notices)
    torch = any(key.endswith(".running_mean") for key in checkpoint.arrays)
    if kind == PDPARAMS and (torch or checkpoint.format == TORCH):
        notices += (_NAMES_OF_TORCH,)
    return replace(report, notices=notices)


def target_of(
    source: Path,
    output: Path | None,
    kind: str | None,
    default: Callable[[Path, str | None], Path] = deploy_path,
) -> Path:
    """Return where the result for ``source`` goes, of the format ``kind`` if that is given.

    Args:
        default: of ``source`` and ``kind``, where no ``output`` was named.

    Raises:
        CheckpointError: ``kind`` contradicts the ending of ``output``.
    """
    if output is None:
        return default(source, kind)
    if kind is None or output.suffix == f".{kind}":
        return output
    if output.suffix.lstrip(".") in (PDPARAMS, SAFETENSORS):
        raise CheckpointError(
            f"--format {kind} contradicts the name '{output}'",
            found=f"an ending that means {output.suffix.lstrip('.')}",
            hint="leave one of the two out",
        )
    return output.with_name(f"{output.name}.{kind}")


def check_outputs(source: Path, target: Path, force: bool) -> None:
    """Refuse early what could not be written at the end, manifest and all.

    Raises:
        OutputError: something is in the way, or it is the input.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(
            f"'{target}' is the input", why="the input is never changed", hint="-o names another"
        )
    check_output(target, force)
    check_output(manifest_path(target), force)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    made = {"format": "pt"} if checkpoint.format == TORCH else {}  # what loaders of PyTorch ask for
    return {**made, **checkpoint.metadata, "reparam.source_sha256": checkpoint.sha256}


def _need_all_fused(source: Path, plan: Plan) -> None:
    if not plan.matches:
        deployed = len(plan.deployed)
        raise NotFusibleError(
            f"nothing to fuse in '{source}'",
            found=f"{deployed} blocks in deploy form already" if deployed else
            "no block of a known family",
            why="--strict was given",
        )  # fmt: skip
    left = [one for one in plan.left if one.reason != SKIPPED]
    if left:
        raise NotFusibleError(
            f"not everything in '{source}' was fused",
            found=f"'{left[0].where}' was left: {left[0].reason}",
            why="--strict was given",
        )
