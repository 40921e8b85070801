"""The whole pipeline on a network that was really trained: what a user would type, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from reparam.adapters.checkpoint_layers import layer_of
from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.adapters.paddle_models import run_layer
from reparam.checkpoint import load_checkpoint
from reparam.checkpoint.inspection import Inspection, inspect
from reparam.checkpoint.pipeline import Fusion, fuse
from reparam.equivalence import Probing, Verification, verify
from reparam.example import example_checkpoints, example_images
from reparam.exporter import ExportReport, export
from reparam.exporter.benchmarking import Protocol, benchmark
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
class Tour:
    """One network, through every command."""

    name: str
    inspection: Inspection
    fusion: Fusion
    verification: Verification
    onnx_verification: Verification
    before: ExportReport
    after: ExportReport
    predictions: dict[str, Predictions]
    latency: Benchmark

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
    copyfile(example_checkpoints()[name], source)
    tell(f"reparam inspect {source.name}")
    inspection = inspect(source)
    tell(f"reparam fuse {source.name}")
    fusion = fuse(source)
    tell(f"reparam verify {source.name} {fusion.output.name if fusion.output else ''}")
    verification = verify(source, fusion.output, Probing(sizes=(SIZE, (33, 47))))
    unfused, fused = folder / f"{name}.unfused.onnx", folder / f"{name}.onnx"
    tell(f"reparam export {source.name} --onnx {unfused.name} --no-fuse --input-size {SIZE[0]}")
    before = export(source, unfused, input_size=SIZE, fuse=False)
    tell(f"reparam export {source.name} --onnx {fused.name} --input-size {SIZE[0]}")
    after = export(source, fused, input_size=SIZE)
    tell(f"reparam verify {source.name} {fused.name}")
    onnx_verification = verify(source, fused, Probing())
    tell(f"1,000 images through Paddle, {unfused.name} and {fused.name}")
    predictions = _predictions(source, unfused, fused)
    tell(f"reparam bench {unfused.name} {fused.name}")
    latency = benchmark([unfused, fused], protocol)
    return Tour(
        name,
        inspection,
        fusion,
        verification,
        onnx_verification,
        before,
        after,
        predictions,
        latency,
    )


def _predictions(source: Path, unfused: Path, fused: Path) -> dict[str, Predictions]:
    images, labels = example_images()
    layer = layer_of(load_checkpoint(source).arrays, {})
    sessions = {"unfused ONNX": open_session(unfused), "fused ONNX": open_session(fused)}
    runs: dict[str, Callable[[Any], list[Any]]] = {"Paddle": lambda x: run_layer(layer, x)}
    for name, session in sessions.items():
        runs[name] = lambda x, session=session: run_onnx(session, x)  # type: ignore[misc]
    found = {}
    for name, run in runs.items():
        parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        classes = np.concatenate([run(part)[0].argmax(axis=1) for part in parts])
        found[name] = Predictions(classes, float((classes == labels).mean()))
    return found
