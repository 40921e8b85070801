"""Everything printed is derived from raw samples; warnings where they should be trusted less."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from reparam.latency import Benchmark, InputTensor, Measurement, ModelUnderTest, ProcessRun
from tests.latency.test_environment import QUIET

IMAGE = (InputTensor("image", "float32", (1, 3, 32, 32)),)


def measurement(label: str, *rounds: list[float]) -> Measurement:
    runs = [ProcessRun(i, 1, 100 + i, 0.1 * i, tuple(row)) for i, row in enumerate(rounds, 1)]
    return Measurement(
        model=ModelUnderTest(label, Path(f"{label}.onnx")),
        sha256="0" * 64,
        inputs=IMAGE,
        providers=("CPUExecutionProvider",),
        nodes={"CPUExecutionProvider": {"Conv": 2}},
        runs=tuple(runs),
    )


def benchmark(*measurements: Measurement, threads: int = 2) -> Benchmark:
    return Benchmark(
        measurements, QUIET, threads=threads, rounds=6, seconds=1.0, warm_up=0.5, seed=0
    )


def test_what_is_derived() -> None:
    slow = measurement("train-time", *[[0.020, 0.021, 0.022]] * 6)
    fast = measurement("deploy", *[[0.010, 0.0105, 0.011]] * 6)
    result = benchmark(slow, fast)
    ((other, comparison),) = result.comparisons
    assert result.baseline is slow
    assert other is fast
    assert comparison.speedup == pytest.approx(2)
    assert comparison.verdict == "faster"
    assert result.warnings == ()
    assert fast.batch == 1
    assert fast.load_seconds == pytest.approx(0.35)
    assert fast.samples == (0.010, 0.0105, 0.011) * 6


def test_json_holds_the_raw_samples_and_survives_a_round_trip() -> None:
    result = benchmark(measurement("a", *[[0.02, 0.03]] * 6), measurement("b", *[[0.01, 0.02]] * 6))
    values = result.to_json()
    assert json.loads(json.dumps(values)) == values
    assert values["measurements"][1]["runs"][5]["samples"] == [0.01, 0.02]
    assert values["comparisons"][0]["label"] == "b"
    assert values["comparisons"][0]["verdict"] == "faster"
    assert values["environment"]["cgroup_quota"] is None
    assert values["settings"]["threads"] == 2


def test_one_model_alone_has_no_comparison() -> None:
    result = benchmark(measurement("a", *[[0.02, 0.03]] * 6))
    assert result.comparisons == ()
    assert result.to_json()["comparisons"] == []


def test_noisy_times_give_a_warning() -> None:
    steady = measurement("steady", [1.0, 1.0, 1.1, 1.1])
    noisy = measurement("noisy", [1.0, 1.0, 1.5, 1.5])
    (warning,) = benchmark(steady, noisy).warnings
    assert warning == "the times of 'noisy' are noisy: the interquartile range is 40% of the median"


def test_models_fed_different_inputs_give_a_warning() -> None:
    large = replace(
        measurement("large", [1.0] * 5), inputs=(InputTensor("x", "float32", (1, 3, 64, 64)),)
    )
    (warning,) = benchmark(measurement("small", [1.0] * 5), large).warnings
    assert "'large' is not comparable with 'small'" in warning
    assert "x float32 1x3x64x64, the baseline image float32 1x3x32x32" in warning


def test_another_input_name_is_no_difference() -> None:
    renamed = replace(
        measurement("renamed", [1.0] * 5), inputs=(InputTensor("x", "float32", (1, 3, 32, 32)),)
    )
    assert benchmark(measurement("a", [1.0] * 5), renamed).warnings == ()


def test_too_many_threads_give_a_warning() -> None:
    (warning,) = benchmark(measurement("a", [1.0] * 5), threads=9).warnings
    assert warning == "9 threads share 8 usable cores"


def test_a_busy_machine_gives_a_warning() -> None:
    result = replace(
        benchmark(measurement("a", [1.0] * 5)),
        environment=replace(QUIET, load_start=(20.0, 1.0, 1.0)),
    )
    assert len(result.warnings) == 1
    assert result.to_json()["warnings"] == list(result.warnings)


def test_results_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        benchmark(measurement("a", [1.0])).threads = 5  # type: ignore[misc]
