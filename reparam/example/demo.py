"""The whole pipeline on a network that was really trained: what a user would type, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from reparam.adapters.checkpoint_layers import layer_of
from reparam.adapters.converter import has_converter
from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.adapters.paddle_models import run_layer
from reparam.checkpoint import load_checkpoint
from reparam.checkpoint.inspection import Inspection, inspect
from reparam.checkpoint.pipeline import Fusion, deploy_path, fuse
from reparam.equivalence import Probing, Verification, verify
from reparam.example import example_checkpoints, example_images
from reparam.exporter import ExportReport, export
from reparam.exporter.benchmarking import DEPLOY, TRAIN_TIME, Protocol, benchmark
from reparam.files import whole_file
from reparam.latency import Benchmark

SIZE = (32, 32)
_BATCH = 100  # images at once when counting predictions

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Predictions:
    """What one form of a network makes of the packaged images."""

    labels: np.ndarray[Any, Any]
    accuracy: float


@dataclass(frozen=True)
class OnnxPart:
    """What became of the network as an ONNX file, in train-time form and in deploy form."""

    before: ExportReport
    after: ExportReport
    verification: Verification
    latency: Benchmark


@dataclass(frozen=True)
class Tour:
    """One network, through every command. ``onnx`` is None where the converter is missing."""

    name: str
    inspection: Inspection
    fusion: Fusion
    verification: Verification
    onnx: OnnxPart | None
    predictions: dict[str, Predictions]

    @property
    def proofs(self) -> tuple[Verification, ...]:
        return (self.verification, *([self.onnx.verification] if self.onnx else []))

    @property
    def same_predictions(self) -> int:
        """Images on which every form predicts the same class."""
        labels = [found.labels for found in self.predictions.values()]
        return int(np.all([labels[0] == other for other in labels[1:]], axis=0).sum())

    @property
    def images(self) -> int:
        return len(next(iter(self.predictions.values())).labels)


def tour(name: str, folder: Path, protocol: Protocol, tell: Tell) -> Tour:
    """Take the packaged network ``name`` through inspect, fuse, verify, export and bench.

    Args:
        folder: where its files go; nothing in it may have their names.
        tell: is told each command before it runs.
    """
    source = folder / f"{name}.pdparams"
    with whole_file(source) as copy:
        copyfile(example_checkpoints()[name], copy)
    tell(f"reparam inspect {source.name}")
    inspection = inspect(source)
    tell(f"reparam fuse {source.name}")
    fusion = fuse(source)
    deploy = deploy_path(source)
    tell(f"reparam verify {source.name} {deploy.name}")
    verification = verify(source, deploy, Probing(sizes=(SIZE, (33, 47))))
    files = {TRAIN_TIME: folder / f"{name}.unfused.onnx", DEPLOY: folder / f"{name}.onnx"}
    onnx = _onnx_part(source, files, protocol, tell) if has_converter() else None
    predictions = _predictions(source, deploy, files if onnx else {}, tell)
    return Tour(name, inspection, fusion, verification, onnx, predictions)


def _onnx_part(source: Path, files: Mapping[str, Path], protocol: Protocol, tell: Tell) -> OnnxPart:
    unfused, fused = files[TRAIN_TIME], files[DEPLOY]
    tell(f"reparam export {source.name} --onnx {unfused.name} --no-fuse --input-size {SIZE[0]}")
    before = export(source, unfused, input_size=SIZE, fuse=False)
    tell(f"reparam export {source.name} --onnx {fused.name} --input-size {SIZE[0]}")
    after = export(source, fused, input_size=SIZE)
    tell(f"reparam verify {source.name} {fused.name}")
    verification = verify(source, fused, Probing())
    tell(f"reparam bench {unfused.name} {fused.name}")
    return OnnxPart(before, after, verification, benchmark([unfused, fused], protocol))


def _predictions(
    source: Path, deploy: Path, files: Mapping[str, Path], tell: Tell
) -> dict[str, Predictions]:
    """Return what each form predicts, the train-time form in Paddle first."""
    tell(f"1,000 images through {', '.join(f.name for f in (source, deploy, *files.values()))}")
    images, labels = example_images()
    runs: dict[str, Callable[[Any], list[Any]]] = {
        path.name: _runner_of(path) for path in (source, deploy, *files.values())
    }
    found = {}
    for name, run in runs.items():
        parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        classes = np.concatenate([run(part)[0].argmax(axis=1) for part in parts])
        found[name] = Predictions(classes, float((classes == labels).mean()))
    return found


def _runner_of(path: Path) -> Callable[[Any], list[Any]]:
    if path.suffix == ".onnx":
        session = open_session(path)
        return lambda images: run_onnx(session, images)
    layer = layer_of(load_checkpoint(path).arrays, {})
    return lambda images: run_layer(layer, images)
