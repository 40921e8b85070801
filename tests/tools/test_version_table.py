"""The table of versions: what a process that died is told as, and what the table shows."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def loaded(name: str) -> ModuleType:
    """Return a script as a module; scripts are run by their path, and in no package."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return loaded("version_table")


@pytest.mark.parametrize(
    ("status", "log", "passed", "detail"),
    [
        (0, 'noise\n{"case": "plain", "detail": "2e-07"}\n', True, "2e-07"),
        (0, "noise\n", False, "ended with 0 and said nothing"),
        (0, '{"case": "plain"}\n', False, "ended with 0 and said nothing"),
        (1, "a\n\x1b[0;31m2026-11-24 [ERROR] no such thing\x1b[0m\n.", False, "no such thing"),
        (1, "Traceback:\nImportError: no libphi\n", False, "ImportError: no libphi"),
        (1, "", False, "it printed nothing"),
        (-signal.SIGSEGV, "working\n", False, "SIGSEGV: working"),
    ],
)
def test_outcomes(script: Any, status: int, log: str, passed: bool, detail: str) -> None:
    assert script.outcome(status, log) == script.Outcome(passed, detail)


def test_table(script: Any) -> None:
    good = {case: script.Outcome(True, "equal") for case in script.CASES}
    bad = {**good, "upsampling": script.Outcome(False, "no scales")}
    held = {"onnx": "1.17.0", "onnxruntime": "1.32.0"}
    rows = [
        script.Row("3.2.2", "2.1.0", "3.11.7", held, good),
        script.Row("3.3.1", "2.1.0", "3.11.7", held, bad),
        script.Row("9.9.9", "2.1.0", "3.11.7", failed="No matching distribution"),
    ]
    assert [row.passed for row in rows] == [True, False, False]
    head, _, first, second, third, _, *below = script.table(rows).splitlines()
    assert head.split(" | ")[4:] == ["plain", "upsampling", "nms", "export", "detector |"]
    assert first == "| 3.2.2 | 2.1.0 | 1.17.0 | 1.32.0 | yes | yes | yes | yes | yes |"
    assert second == "| 3.3.1 | 2.1.0 | 1.17.0 | 1.32.0 | yes | **no** | yes | yes | yes |"
    assert third == "| 9.9.9 | 2.1.0 | - | - | - | - | - | - | - |"
    assert below == [
        "- upsampling: no scales (3.3.1+2.1.0)",
        "- installing: No matching distribution (9.9.9+2.1.0)",
    ]


def test_a_process_that_hangs_is_ended(script: Any) -> None:
    status, log = script.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    assert script.outcome(status, log) == script.Outcome(False, "still running after 0.5 s")


def test_a_pair_that_cannot_be_installed_leaves_nothing(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = script.run

    def run(command: Any, *given: Any) -> Any:
        if "pip" in command:
            return 1, "WARNING: old\nERROR: No matching distribution found for paddlepaddle==9\n"
        return real([sys.executable, "-c", "print('3.11.7')"], *given)

    monkeypatch.setattr(script, "run", run)
    row = script.try_pair("9", "2.1.0", sys.executable, "x.whl", tmp_path)
    assert row.failed == "No matching distribution found for paddlepaddle==9"
    assert list(tmp_path.iterdir()) == []


def test_cases_are_those_of_the_script_that_runs_them(script: Any) -> None:
    assert tuple(loaded("version_cases").CASES) == script.CASES


def test_pairs_are_named_in_full(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["3.3.1"])
    assert caught.value.code == 2
    assert "PADDLE+PADDLE2ONNX" in capsys.readouterr().err


def test_one_line_a_pair(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {case: script.Outcome(True, "equal") for case in script.CASES}
    monkeypatch.setattr(script, "make_wheel", lambda _: "x.whl")
    monkeypatch.setattr(
        script, "try_pair", lambda one, two, *_: script.Row(one, two, "3.11.7", {}, good)
    )
    assert script.main(["3.3.1+2.1.0", "--folder", str(tmp_path)]) == 0
    line, *_ = capsys.readouterr().out.splitlines()
    assert json.loads(line)["cases"]["nms"] == {"passed": True, "detail": "equal"}
