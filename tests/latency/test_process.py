"""Measuring processes that are killed, hang, print garbage or run elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reparam.errors import BenchmarkError, MissingDependencyError
from reparam.latency import ModelUnderTest, measure, measure_models, process
from reparam.supervision import Limits

GOOD = {
    "process_id": 7,
    "load_seconds": 0.1,
    "samples": [0.01, 0.02],
    "providers": ["CPUExecutionProvider"],
    "threads": 1,
    "nodes": None,
    "inputs": [["x", "float32", [1, 3]]],
    "onnxruntime": "1.20.0",
}


@pytest.fixture
def model(tmp_path: Path) -> ModelUnderTest:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"never read")
    return ModelUnderTest("deploy", path)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts a script in the place of the worker."""

    def replace(script: str) -> None:
        path = tmp_path / "worker.py"
        path.write_text(script)
        monkeypatch.setattr(process, "WORKER", path)

    return replace


def run(model: ModelUnderTest, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "threads": 1,
        "batch": None,
        "rounds": 1,
        "seconds": 0.01,
        "warm_up": 0.0,
    }
    return measure_models([model], **(settings | changes))


def error_of(model: ModelUnderTest, **changes: Any) -> BenchmarkError:
    with pytest.raises(BenchmarkError) as caught:
        run(model, **changes)
    assert caught.value.what == f"cannot measure 'deploy' ({model.path})"
    return caught.value


def test_an_answer_is_understood_though_the_runtime_talks(
    model: ModelUnderTest, worker: Any
) -> None:
    worker(f"print('some notice')\nprint({json.dumps(json.dumps(GOOD))})")
    result = run(model)
    assert result.baseline.samples == (0.01, 0.02)
    assert result.environment.onnxruntime == "1.20.0"


def test_a_killed_process_names_the_signal(model: ModelUnderTest, worker: Any) -> None:
    worker("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    error = error_of(model)
    assert error.found == "the measuring process was killed by SIGKILL"
    assert "memory" in error.hint


def test_a_crashed_process_names_the_signal(model: ModelUnderTest, worker: Any) -> None:
    worker("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    error = error_of(model)
    assert error.found == "the measuring process was killed by SIGSEGV"
    assert "memory" not in error.hint


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("print('hello there')", "'hello there'"),
        ("print('')", "'it printed nothing'"),
        ("print('[]')", "'[]'"),
        ("print('3')", "'3'"),
        (f"print({json.dumps(json.dumps(GOOD | {'samples': []}))})", "ended without samples"),
        ('print(\'{"refusal": {"nonsense": 1}}\')', "ended without samples"),
    ],
)
def test_garbage_is_not_an_answer(
    model: ModelUnderTest, worker: Any, script: str, found: str
) -> None:
    worker(script)
    assert found in error_of(model).found


def test_a_failed_process_shows_its_last_words(model: ModelUnderTest, worker: Any) -> None:
    worker("raise ZeroDivisionError('by nought')")
    assert error_of(model).found == (
        "the measuring process failed (exit 1): ZeroDivisionError: by nought"
    )


@pytest.mark.parametrize(
    "providers", [[], ["CUDAExecutionProvider", "CPUExecutionProvider"], ["AzureExecutionProvider"]]
)
def test_another_provider_is_refused(
    model: ModelUnderTest, worker: Any, providers: list[str]
) -> None:
    worker(f"print({json.dumps(json.dumps(GOOD | {'providers': providers}))})")
    assert "onnxruntime runs it on" in error_of(model).found


def test_a_hanging_process_is_ended(
    model: ModelUnderTest, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = watch_processes(monkeypatch)
    worker("import time; time.sleep(20)")
    assert "no answer after" in error_of(model, limits=Limits(0.2)).found
    assert [child.returncode for child in started] == [-9]


def test_an_interrupt_leaves_no_process_behind(
    model: ModelUnderTest, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = watch_processes(monkeypatch)

    def interrupt(*_args: Any, **_settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    worker("import time; time.sleep(20)")
    with pytest.raises(KeyboardInterrupt):
        run(model)
    assert [child.returncode for child in started] == [-9]


def watch_processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    started: list[subprocess.Popen[str]] = []

    class Watched(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    return started


def test_a_missing_onnxruntime_names_the_extra(
    model: ModelUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure.importlib.util, "find_spec", {"numpy": "here"}.get)
    with pytest.raises(MissingDependencyError, match=r"reparam\[bench\]"):
        run(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 0}, "0 threads"),
        ({"batch": 0}, "0 batch"),
        ({"rounds": 0}, "0 rounds"),
        ({"seconds": 0.0}, r"for 0\.0 seconds"),
        ({"seconds": float("inf")}, "for inf seconds"),
        ({"warm_up": -1.0}, r"warm up for -1\.0"),
        ({"warm_up": float("nan")}, "warm up for nan"),
    ],
)
def test_impossible_settings_are_refused(
    model: ModelUnderTest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        run(model, **changes)


def test_impossible_models_are_refused(model: ModelUnderTest, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"threads": 1, "batch": None, "rounds": 1, "seconds": 1.0}
    for models, message in (
        ([], "nothing to measure"),
        ([model, model], "two models are called 'deploy'"),
        ([ModelUnderTest("x", tmp_path / "no.onnx")], "no such file"),
        ([ModelUnderTest("x", tmp_path)], "a folder"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            measure_models(models, warm_up=0.0, **settings)


def test_a_broken_onnxruntime_is_reported_and_our_modules_hide_none_of_the_library(
    model: ModelUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's folder has a statistics.py; the standard library's must be the one found."""
    broken = tmp_path / "onnxruntime.py"
    broken.write_text("import statistics\nraise ImportError(statistics.mean([1, 2, 3]))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert error_of(model).found == "onnxruntime cannot be imported: 2"


def test_importing_the_package_imports_no_runtime() -> None:
    runtimes = "{'onnxruntime', 'onnx', 'paddle'}"
    code = f"import sys, reparam.latency; print(sorted({runtimes} & {{*sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
