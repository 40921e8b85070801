"""The results of a benchmark: raw samples and where they were taken; the rest is derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reparam.latency.environment import Environment
from reparam.latency.statistics import Comparison, Summary, compare, summarise
from reparam.reports import Report

NOISY = 0.20  # interquartile range / median from which a machine is called noisy


@dataclass(frozen=True)
class ModelUnderTest:
    """An ONNX file to measure, and what to call it."""

    label: str
    path: Path


@dataclass(frozen=True)
class InputTensor:
    """An input as it was fed."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


@dataclass(frozen=True)
class ProcessRun:
    """What one process measured of one model."""

    round: int  # from 1
    position: int  # from 1, in the order of its round
    process_id: int
    load_seconds: float
    samples: tuple[float, ...]  # seconds, in the order they were taken

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain values."""
        return {
            "round": self.round,
            "position": self.position,
            "process_id": self.process_id,
            "load_seconds": self.load_seconds,
            "samples": list(self.samples),
        }


@dataclass(frozen=True)
class Measurement:
    """Everything measured of one model."""

    model: ModelUnderTest
    sha256: str
    inputs: tuple[InputTensor, ...]
    providers: tuple[str, ...]  # as the runtime itself reports them for the loaded model
    nodes: Mapping[str, Mapping[str, int]] | None  # execution provider -> operator -> count
    runs: tuple[ProcessRun, ...]

    @property
    def label(self) -> str:
        """The name the model was given."""
        return self.model.label

    @property
    def batch(self) -> int | None:
        """The size of axis 0 of the first input that has more than one axis."""
        return next((tensor.shape[0] for tensor in self.inputs if len(tensor.shape) > 1), None)

    @property
    def samples(self) -> tuple[float, ...]:
        """All samples, in seconds, in the order they were taken."""
        return tuple(sample for run in self.runs for sample in run.samples)

    @property
    def summary(self) -> Summary:
        """Median, quartiles and p99 of all samples."""
        return summarise(self.samples)

    @property
    def load_seconds(self) -> float:
        """The median time to load the file, in seconds."""
        return summarise([run.load_seconds for run in self.runs]).median

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain values, raw samples included."""
        return {
            "label": self.label,
            "path": str(self.model.path),
            "sha256": self.sha256,
            "batch": self.batch,
            "inputs": [
                {"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in self.inputs
            ],
            "providers": list(self.providers),
            "nodes": None if self.nodes is None else {k: dict(v) for k, v in self.nodes.items()},
            "load_seconds": self.load_seconds,
            "summary": self.summary.to_json(),
            "runs": [run.to_json() for run in self.runs],
        }


@dataclass(frozen=True, repr=False)
class Benchmark(Report):
    """Models measured in turn on one machine; the first is the baseline."""

    measurements: tuple[Measurement, ...]
    environment: Environment
    threads: int
    rounds: int
    seconds: float
    warm_up: float
    seed: int  # of the input values

    @property
    def summary(self) -> str:
        first = f"{self.baseline.label} {1e3 * self.baseline.summary.median:.3f} ms"
        others = (
            f"{other.label} {comparison.speedup:.3f}x ({comparison.verdict})"
            for other, comparison in self.comparisons
        )
        return "; ".join((first, *others))

    @property
    def baseline(self) -> Measurement:
        """The model that the others are compared with."""
        return self.measurements[0]

    @property
    def comparisons(self) -> tuple[tuple[Measurement, Comparison], ...]:
        """Every model but the baseline, with its speedup: baseline time / model time."""
        before = [run.samples for run in self.baseline.runs]
        return tuple(
            (other, compare(before, [run.samples for run in other.runs]))
            for other in self.measurements[1:]
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to trust the numbers less, one sentence each."""
        return tuple(self._warnings())

    def _warnings(self) -> list[str]:
        rows = []
        crowding = self.environment.crowding(self.threads)
        if crowding:
            rows.append(crowding)
        usable = self.environment.usable_cores
        if self.threads > usable:
            rows.append(f"{self.threads} threads share {usable} usable cores")
        for measurement in self.measurements:
            summary = measurement.summary
            if summary.iqr > NOISY * summary.median:
                rows.append(
                    f"the times of '{measurement.label}' are noisy: the interquartile range is "
                    f"{summary.iqr / summary.median:.0%} of the median"
                )
        rows.extend(self._unlike_inputs())
        return rows

    def _unlike_inputs(self) -> list[str]:
        expected = [(tensor.dtype, tensor.shape) for tensor in self.baseline.inputs]
        return [
            f"'{other.label}' is not comparable with '{self.baseline.label}': it was fed "
            f"{_shown(other.inputs)}, the baseline {_shown(self.baseline.inputs)}"
            for other in self.measurements[1:]
            if [(tensor.dtype, tensor.shape) for tensor in other.inputs] != expected
        ]

    def to_json(self) -> dict[str, Any]:
        """Return settings, environment, raw samples and all that is derived, as plain values."""
        return {
            "runtime": "onnxruntime",
            "settings": {
                "threads": self.threads,
                "rounds": self.rounds,
                "seconds": self.seconds,
                "warm_up": self.warm_up,
                "seed": self.seed,
            },
            "environment": self.environment.to_json(),
            "baseline": self.baseline.label,
            "measurements": [measurement.to_json() for measurement in self.measurements],
            "comparisons": [
                {"label": other.label, **comparison.to_json()}
                for other, comparison in self.comparisons
            ],
            "warnings": list(self.warnings),
        }


def _shown(inputs: tuple[InputTensor, ...]) -> str:
    return ", ".join(map(str, inputs)) or "nothing"
