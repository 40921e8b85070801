"""Measuring checkpoints and ONNX files alike: what is no ONNX file yet is exported first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reparam.adapters.foreign_models import ForeignModel
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.opening import check_input
from reparam.detection import RAW
from reparam.drafts import scratch_folder
from reparam.exporter.exporting import export_onnx
from reparam.exporter.layer_networks import has_branches
from reparam.exporter.report import ExportReport
from reparam.graph import guarded
from reparam.latency import Benchmark, ModelUnderTest, measure_models
from reparam.supervision import Limits

UP_TO_MAPS = (
    "measured up to the maps of each level; what selecting takes depends on what is in an image. "
    "Export it with --head nms, and measure that file, for both"
)
TRAIN_TIME, DEPLOY = "train-time form", "deploy form"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Protocol:
    """How to measure, and how to export what is a checkpoint.

    Args:
        threads: inside an operator; None takes the cores that this process can really use.
        batch: images at once, 1 where None.
        rounds: in each, every model is measured once, by a process of its own.
        seconds: of timed running of one process.
        warm_up: seconds of untimed running before.
        input_size: (H, W) of exported checkpoints.
        epsilon: of their BatchNorms.
        settings: of their architecture.
        model: the user's own network, in place of a recognised one.
        prefix: use only the weights under this name or prefix.
        limits: of the process that looks at an ONNX file, and of each that measures.
    """

    threads: int | None = None
    batch: int | None = None
    rounds: int = 10
    seconds: float = 1.0
    warm_up: float = 0.5
    input_size: tuple[int, int] | None = None
    epsilon: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: ForeignModel | None = None
    prefix: str | None = None
    limits: Limits = field(default_factory=Limits)


def benchmark(
    models: Sequence[str | Path],
    protocol: Protocol | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Return the latency of ``models`` on onnxruntime's CPU, the first as the baseline.

    A checkpoint is exported first and measured in the form it is in; one train-time checkpoint
    alone is measured in both forms. The train-time form keeps its BatchNorms for the runtime to
    fold: the baseline has all of the runtime's own optimisations.

    Raises:
        BenchmarkError: a file cannot be measured.
        GraphError: an ONNX file is too large to be run, or would crash who reads it.
        CheckpointError: a file is missing or unusable.
        UnsupportedModelError, ExportError: a checkpoint cannot be exported.
        MissingDependencyError: a package is not installed.
    """
    protocol, tell = protocol or Protocol(), progress or (lambda _: None)
    paths = [Path(model) for model in models]
    for path in paths:
        check_input(path)
    limits = _after_looking(paths, protocol.limits)
    with scratch_folder() as folder:
        under_test = _under_test(paths, folder, protocol, tell)
        return measure_models(
            under_test,
            threads=protocol.threads,
            batch=protocol.batch,
            rounds=protocol.rounds,
            seconds=protocol.seconds,
            warm_up=protocol.warm_up,
            limits=limits,
            progress=tell,
        )


def _after_looking(paths: Sequence[Path], limits: Limits) -> Limits:
    """Look at each ONNX file; return the limits of what follows, with the time that is left."""
    started = time.monotonic()
    for path in paths:
        if path.suffix == ".onnx":
            guarded.need_runnable(path, limits=limits)
    left = limits.timeout - (time.monotonic() - started)
    return replace(limits, timeout=max(left, 1.0))  # a process that starts needs a second


def _under_test(
    paths: Sequence[Path], folder: Path, protocol: Protocol, tell: Progress
) -> list[ModelUnderTest]:
    found: list[ModelUnderTest] = []
    for path in paths:
        if path.suffix == ".onnx":
            found.append(ModelUnderTest(str(path), path))
            continue
        checkpoint = load_checkpoint(path, prefix=protocol.prefix)
        for notice in checkpoint.layout.notices:
            tell(f"{path}: {notice}")
        if protocol.model is None:
            train_time = bool(find_blocks(checkpoint.shapes).blocks)
        else:
            train_time = has_branches(checkpoint, protocol.model)
        forms = [TRAIN_TIME] if train_time else [DEPLOY]
        if train_time and len(paths) == 1:
            forms.append(DEPLOY)
        for form in forms:
            tell(f"exporting {path} in {form}")
            output = folder / f"{len(found)}.onnx"
            if _export(checkpoint, output, protocol, form).head == RAW:
                tell(f"{path}: {UP_TO_MAPS}")
            found.append(ModelUnderTest(f"{path} ({form})", output))
    return found


def _export(checkpoint: Checkpoint, output: Path, protocol: Protocol, form: str) -> ExportReport:
    return export_onnx(
        checkpoint,
        output,
        default_head=RAW,
        input_size=protocol.input_size,
        batch=protocol.batch or 1,
        fuse=form == DEPLOY,
        epsilon=protocol.epsilon,
        settings=protocol.settings,
        model=protocol.model,
    )
