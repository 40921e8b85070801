"""Measuring how fast ONNX models run: raw samples, statistics, environment, verdict.

Importing this package imports no runtime: models are loaded by the processes that measure them.
"""

from reparam.latency.environment import Environment
from reparam.latency.measure import measure_models
from reparam.latency.records import (
    Benchmark,
    InputTensor,
    Measurement,
    ModelUnderTest,
    ProcessRun,
)
from reparam.latency.statistics import MIN_ROUNDS, Comparison, Summary, Verdict

__all__ = [
    "MIN_ROUNDS",
    "Benchmark",
    "Comparison",
    "Environment",
    "InputTensor",
    "Measurement",
    "ModelUnderTest",
    "ProcessRun",
    "Summary",
    "Verdict",
    "measure_models",
]
