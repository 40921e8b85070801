"""From a checkpoint to a deploy checkpoint by the methods of the user's own network, proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.foreign_trials import Converted
from reparam.adapters.paddle_models import Array
from reparam.checkpoint import Checkpoint, Left, load_checkpoint
from reparam.checkpoint.files import format_of
from reparam.checkpoint.fusing import need_finite
from reparam.checkpoint.pipeline import check_outputs, target_of, write_with_manifest
from reparam.equivalence.layer_proving import Proved, Wrong, prove
from reparam.equivalence.layer_verification import LayerTruth
from reparam.equivalence.probes import DEFAULT_SIZES, Probing
from reparam.equivalence.records import DIFFERENT, UNDECIDABLE, BlockResult, Stage
from reparam.errors import NotEquivalentError, NotFusibleError, UnsupportedModelError
from reparam.exporter.networks import source_notices
from reparam.reports import Report, written_text


@dataclass(frozen=True)
class ProvedBlock:
    """A block that its own method converted, and how it compares with what it was."""

    block: Converted
    check: BlockResult

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.block), "check": asdict(self.check)}


@dataclass(frozen=True, repr=False)
class LayerReport(Report):
    """What a network's own methods did, and what the checks of it found.

    Attributes:
        architecture: ``package.module:factory``.
        arguments: of the factory.
        fused: the blocks that were converted.
        already: blocks in deploy form before.
        left: blocks that stay as they were, with the reason.
        carried: arrays that went over bit for bit.
        network: the comparison of the whole network with what it was.
        notices: what else there is to say.
    """

    architecture: str
    arguments: dict[str, Any]
    fused: tuple[ProvedBlock, ...]
    already: tuple[str, ...]
    left: tuple[Left, ...]
    carried: int
    network: Stage
    notices: tuple[str, ...]

    @property
    def summary(self) -> str:
        if self.fused:
            return f"{self.architecture}: {len(self.fused)} blocks converted"
        return f"{self.architecture}: {'already fused' if self.already else 'nothing to fuse'}"

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that JSON knows; the Layers decide epsilon themselves."""
        fused = [proved.to_json() for proved in self.fused]
        return {**asdict(self), "fused": fused, "epsilon": None}


@dataclass(frozen=True, repr=False)
class LayerFusion(Report):
    """A converted checkpoint: where it came from, where it is, the report.

    ``output`` is None where nothing was written: in a dry run, or with nothing to convert.
    """

    source: Path
    source_sha256: str
    output: Path | None
    sha256: str
    report: LayerReport

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


def fuse_layers(
    source: str | Path,
    model: ForeignModel,
    output: str | Path | None = None,
    *,
    prefix: str | None = None,
    input_size: tuple[int, int] | None = None,
    skip: Sequence[str] = (),
    format: str | None = None,
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> LayerFusion:
    """Convert a checkpoint by its own network's methods, prove it, and write the deploy form.

    The network runs on a copy. A block whose conversion cannot be compared with what it was is
    left as it is; one that computes something else ends it all, and nothing is written. Where
    there is nothing to convert, nothing is written unless ``output`` names a file.

    Args:
        output: ``x.deploy.pdparams`` beside ``x.pdparams`` by default; its ending is the format.
        prefix: use only the weights under this name or prefix.
        input_size: (H, W) of an image that the network runs on; 96 x 96 if None.
        skip: blocks to leave as they are: paths, or patterns with ``*`` and ``?``.
        format: ``pdparams`` or ``safetensors``; added to an ``output`` that ends in neither.

    Raises:
        NotEquivalentError: a block, or the whole network, is another function after conversion.
        NotFusibleError: a method failed; or ``strict``, and nothing was converted, or not all.
        UnsupportedModelError: the network cannot be built, or does not run; ``skip`` names nothing.
        CheckpointError: the checkpoint is unusable, or is not of that network.
        OutputError: the output cannot be written there.
    """
    source = Path(source)
    target = target_of(source, None if output is None else Path(output), format)
    format_of(target)  # a name without a format is refused before anything is read
    if not dry_run and output is not None:
        check_outputs(source, target, force)
    checkpoint = load_checkpoint(source, prefix=prefix)
    need_finite(checkpoint.arrays)
    sizes = DEFAULT_SIZES if input_size is None else (input_size,)
    truth = LayerTruth(checkpoint.arrays, model, sizes[0])
    arrays, report = _converted(truth, Probing(sizes=sizes), skip)
    notices = (*source_notices(checkpoint), *report.notices)
    report = replace(report, carried=_carried(checkpoint, arrays), notices=notices)
    if strict:
        _need_all(source, report)
    if dry_run or (output is None and not report.fused):
        return LayerFusion(source, checkpoint.sha256, None, "", report)
    check_outputs(source, target, force)
    sha256, _ = write_with_manifest(
        arrays.items(),
        lambda: report,
        checkpoint,
        target,
        names={key: name for key, name in checkpoint.names.items() if key in arrays},
        force=force,
        changes=bool(report.fused),
    )
    return LayerFusion(source, checkpoint.sha256, target, sha256, report)


def convert_proved(truth: LayerTruth, skip: Sequence[str] = ()) -> Proved:
    """Return a converted copy of a network, the proof of each block, and what was left.

    Raises:
        NotEquivalentError: a block is another function after its conversion, and its structure is
            not known.
        NotFusibleError: a method failed, likewise.
    """
    skipped = _skipped(truth.layer.network, skip)
    proved = prove(truth.layer, truth.image, skipped)
    if proved.wrong:
        raise _refusal(proved.wrong, len(proved.checks))
    left = (*(Left(path, "--skip") for path in skipped), *proved.left)
    return replace(proved, left=left)


def _skipped(network: Any, patterns: Sequence[str]) -> list[str]:
    paths = block_paths(network)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise UnsupportedModelError(
                f"--skip {pattern} names no block",
                found=f"{len(paths)} that could be skipped: {', '.join(paths[:5])}",
            )
    return [path for path in paths if any(fnmatchcase(path, one) for one in patterns)]


def _converted(
    truth: LayerTruth, probing: Probing, skip: Sequence[str]
) -> tuple[Mapping[str, Array], LayerReport]:
    proved = convert_proved(truth, skip)
    conversion, checks = proved.conversion, proved.checks
    network = truth.compare_network(conversion.layer, probing)
    if network.verdict == DIFFERENT:
        raise NotEquivalentError(
            f"the converted network is not what '{truth.model.spec}' was",
            found=network.summary,
            why=f"each of {len(checks)} blocks compares equal, so something outside them changed",
        )
    notices = [f"network: {network.summary}"] if network.verdict == UNDECIDABLE else []
    kept = [done.where for done in conversion.converted if not done.replaced]
    if kept:
        notices.append(
            f"{len(kept)} blocks keep the arrays of their branches beside the converted ones, "
            f"'{kept[0]}' first: their method does not remove them"
        )
    fused = tuple(map(ProvedBlock, conversion.converted, checks))
    return conversion.arrays, LayerReport(
        architecture=truth.model.spec,
        arguments=dict(truth.model.arguments),
        fused=fused,
        already=conversion.already,
        left=proved.left,
        carried=0,
        network=network,
        notices=(*notices, *proved.notices),
    )


def _refusal(wrong: Sequence[Wrong], others: int) -> NotEquivalentError:
    first = wrong[0]
    trial, result = first.trial, first.result
    total = others + len(wrong)
    more = f"; {len(wrong)} of {total} blocks differ" if len(wrong) > 1 else ""
    return NotEquivalentError(
        f"{trial.method}() makes another function of block '{trial.where}'",
        found=f"{result.reason}{more}",
        why=f"the method is that of {trial.kind}; what it stores is not what the block computes, "
        f"and {first.reason}",
        hint=f"--skip {trial.where} leaves that block as it is",
    )


def _carried(checkpoint: Checkpoint, arrays: Mapping[str, np.ndarray[Any, Any]]) -> int:
    return sum(
        key in checkpoint.arrays and array.tobytes() == checkpoint.arrays[key].tobytes()
        for key, array in arrays.items()
    )


def _need_all(source: Path, report: LayerReport) -> None:
    broken = [proved.block for proved in report.fused if not proved.block.runs]
    if broken:
        raise NotFusibleError(
            f"the deploy form of {len(broken)} block(s) in '{source}' is not what they were",
            found=f"'{broken[0].where}': {broken[0].problem}",
            why="--strict was given; without it the right weights are written",
        )
    if report.fused and not report.left:
        return
    found = f"{len(report.already)} blocks in deploy form already" if report.already else ""
    if report.left:
        found = f"'{report.left[0].where}' was left: {report.left[0].reason}"
    raise NotFusibleError(
        f"not everything in '{source}' was converted" if report.left
        else f"nothing to convert in '{source}'",
        found=found or "no block with a method that converts it", why="--strict was given",
    )  # fmt: skip
