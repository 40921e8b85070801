"""What is seen of a package, and of the execution providers that onnxruntime names."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparam.environment.asking import Processes
from reparam.environment.installed import Distribution
from reparam.environment.packages import (
    BROKEN,
    MISSING,
    Package,
    Provider,
    look,
    refusal,
)

SESSION = """
import numpy as np
def get_available_providers():
    return ["OneExecutionProvider", "TwoExecutionProvider", "CPUExecutionProvider"]
class SessionOptions:
    pass
class InferenceSession:
    def __init__(self, model, options, providers):
        self.providers = providers
        if providers == ["OneExecutionProvider"]:
            {one}
    def run(self, outputs, feeds):
        return [np.full((1, 1, 2, 2), {value}, np.float32)]
    def get_providers(self):
        return self.providers
"""
LAMP = Package("lamp", ("lamp", "lamp-gpu"), ("providers", "provider:CPUExecutionProvider"))
FALLS_BACK = "self.providers = ['CPUExecutionProvider']"


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that looks at a package 'lamp' with this code, or at none."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    def at(code: str | None, *here: str, quick: bool = False, package: Package = LAMP):
        if code is not None:
            (tmp_path / "lamp.py").write_text(code)
        with Processes(60) as processes:
            distributions = {name: Distribution(name, "1.0") for name in here}
            return look(package, distributions, processes, quick)

    return at


def session(one: str = "pass", value: float = 9.0) -> str:
    return SESSION.format(one=one, value=value)


def test_what_is_not_there_is_missing(seen):
    found = seen(None)
    assert (found.state, found.module, found.distributions) == (MISSING, "lamp", ())


def test_metadata_without_a_package(seen):
    found = seen(None, "lamp-gpu")
    assert (found.state, found.name) == (BROKEN, "lamp-gpu")
    assert found.found == "its metadata is there, the package is not"


def test_a_part_of_a_package_that_is_missing(seen):
    assert seen("", package=Package("lamp.light", ("lamp",))).state == MISSING
    assert seen("", package=Package("shade.light", ("shade",))).state == MISSING


def test_a_package_without_metadata_tells_its_version_itself(seen):
    found = seen("__version__ = '7'", quick=True)
    assert (found.state, found.version, found.distributions) == ("works", "7", ())


def test_every_provider_has_a_session_of_its_own(seen):
    assert seen(session(), "lamp").providers == tuple(
        Provider(f"{name}ExecutionProvider", True) for name in ("One", "Two", "CPU")
    )


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (FALLS_BACK, "the session runs on CPUExecutionProvider"),
        (f"print('EP Error no cuDNN'); {FALLS_BACK}", "CPUExecutionProvider: EP Error no cuDNN"),
        ("import os; os.kill(os.getpid(), 11)", "ends the process (SIGSEGV)"),
        ("raise RuntimeError('no device')", "RuntimeError: no device"),
    ],
)
def test_a_provider_that_does_not_load(seen, one, said):
    first, second, cpu = seen(session(one), "lamp").providers
    assert (first.name, first.loads) == ("OneExecutionProvider", False)
    assert first.found.endswith(said)
    assert second.loads
    assert cpu.loads


def test_a_session_that_computes_something_else(seen):
    *_, cpu = seen(session(value=9.5), "lamp").providers
    assert not cpu.loads
    assert "a convolution gave [9.5, 9.5, 9.5, 9.5] in place of 9.0" in cpu.found


def test_quick_is_without_trials(seen):
    found = seen(session("raise RuntimeError"), "lamp", quick=True)
    assert (list(found.steps), found.providers) == (["import"], ())


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("\x1b[0;93m2026-11-24 [W:onnxruntime:Default, x.cc:1 f] Failed to create\x1b[m", ""),
        ("\x1b[1;31m2026-11-24 [E:onnxruntime:Default, x.cc:1 f] no device\x1b[m\nmore",
         "no device"),
        ("[E:onnxruntime:Default, x.cc:1 f] FAIL : Failed to load library /p/libx.so with error: "
         "libcublasLt.so.13: cannot open\n\x1b[m", "libcublasLt.so.13: cannot open"),
    ],
)  # fmt: skip
def test_what_onnxruntime_logged(log, said):
    assert refusal(log) == said
