"""What works, why not, and the line that mends it, on made-up machines."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from reparam.environment.abilities import ABILITIES, judge
from reparam.environment.installed import Asked, Distribution
from reparam.environment.mending import mending_line
from reparam.environment.packages import BROKEN
from tests.environment.made_up import failing, surroundings

CHECKPOINTS, GRAPHS, NETWORKS, ONNX, PADDLE, BENCH = (ability.name for ability in ABILITIES)
EVERYTHING = {CHECKPOINTS, GRAPHS, NETWORKS, ONNX, PADDLE, BENCH}


def refused(here) -> dict[str, str]:
    judged = [judge(ability, here) for ability in ABILITIES]
    return {found.name: found.because for found in judged if not found.works}


@pytest.fixture(autouse=True)
def activated(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: str(Path(sys.executable).with_name("pip")))


@pytest.mark.parametrize("quick", [False, True])
def test_a_healthy_machine(quick):
    assert refused(surroundings(quick=quick)) == {}
    assert mending_line(surroundings(quick=quick)) is None


@pytest.mark.parametrize(("distribution", "lost", "line"), [
    ("numpy", EVERYTHING, "numpy>=1.24,<3"),
    ("paddlepaddle", {NETWORKS, ONNX, PADDLE}, "paddlepaddle>=3.3,<3.4"),
    ("paddle2onnx", {ONNX}, "paddle2onnx>=2.1,<2.2"),
    ("onnx", {GRAPHS, ONNX}, "onnx>=1.16.1,<1.18"),
    ("onnx-ir", {GRAPHS, ONNX}, "onnx-ir>=0.1.12,<2"),
    ("onnxruntime", {GRAPHS, ONNX, BENCH}, "onnxruntime>=1.18,<2"),
])  # fmt: skip
def test_what_is_missing(distribution, lost, line):
    here = surroundings(versions={distribution: None})
    found = refused(here)
    assert set(found) == lost
    assert all(because == f"{distribution} is not installed" for because in found.values())
    assert mending_line(here) == f'pip install "{line}"'


def test_several_missing_ones_are_one_reason_and_one_line():
    here = surroundings(versions={"onnx": None, "onnx-ir": None, "onnxoptimizer": None})
    assert refused(here)[GRAPHS] == "onnx, onnx-ir are not installed"
    assert mending_line(here) == 'pip install "onnx>=1.16.1,<1.18" "onnx-ir>=0.1.12,<2"'


def test_what_nothing_needs_may_be_missing():
    here = surroundings(versions={"onnxoptimizer": None})
    assert refused(here) == {}
    assert mending_line(here) is None


def test_what_cannot_be_imported():
    broken = {"state": BROKEN, "found": "ends the process (SIGSEGV)", "steps": {}}
    here = surroundings(seen={"onnxruntime": broken})
    reason = "onnxruntime 1.32.0 cannot be imported: ends the process (SIGSEGV)"
    assert refused(here) == dict.fromkeys((GRAPHS, ONNX, BENCH), reason)
    line = 'pip install --force-reinstall --no-deps "onnxruntime>=1.18,<2"'
    assert mending_line(here) == line


def test_a_broken_one_that_nothing_needs_is_left():
    here = surroundings(seen={"onnxoptimizer": {"state": BROKEN, "found": "no"}})
    assert (refused(here), mending_line(here)) == ({}, None)


def test_a_broken_one_of_another_version_is_installed_once():
    here = surroundings(versions={"paddle2onnx": "0.9.5"},
                        seen={"paddle2onnx": {"state": BROKEN, "found": "no"}})  # fmt: skip
    assert mending_line(here) == 'pip install "paddle2onnx>=2.1,<2.2"'


def test_a_trial_that_fails():
    here = surroundings(seen={"paddle": {"steps": failing("inference", "no oneDNN", "conv")}})
    assert refused(here) == {PADDLE: "paddlepaddle 3.3.1: no oneDNN"}
    assert mending_line(here) is None
    here = surroundings(seen={"paddle": {"steps": failing("conv", "no")}})
    assert set(refused(here)) == {NETWORKS, ONNX, PADDLE}


def test_what_was_tried_counts_more_than_its_version():
    old = {"paddle2onnx": "2.0.1"}
    assert refused(surroundings(versions=old)) == {}
    reason = "paddle2onnx is 2.0.1, needs >=2.1,<2.2"
    assert refused(surroundings(versions=old, quick=True)) == {ONNX: reason}
    for quick in (False, True):
        line = mending_line(surroundings(versions=old, quick=quick))
        assert line == 'pip install "paddle2onnx>=2.1,<2.2"'


def test_a_trial_that_was_not_reached_leaves_the_version_to_decide():
    here = surroundings(versions={"paddle2onnx": "1.3.1"},
                        seen={"paddle2onnx": {"steps": failing("convert", "no")}})  # fmt: skip
    said = "paddle2onnx 1.3.1: no; paddle2onnx is 1.3.1, needs >=2.1,<2.2"
    assert refused(here) == {ONNX: said}


def test_wheels_that_overwrote_each_other():
    here = surroundings(versions={"onnxruntime-gpu": "1.31.1", "onnx": None})
    assert mending_line(here) == (
        "pip uninstall --yes onnxruntime onnxruntime-gpu && "
        'pip install "onnxruntime-gpu>=1.18,<2" "onnx>=1.16.1,<1.18"'
    )


def test_another_wheel_of_the_same_package_stays():
    here = surroundings(versions={"onnxruntime": None, "onnxruntime-gpu": "1.31.1"})
    assert (refused(here), mending_line(here)) == ({}, None)
    here = surroundings(versions={"onnxruntime": None, "onnxruntime-gpu": "1.17.0"})
    assert mending_line(here) == 'pip install "onnxruntime-gpu>=1.18,<2"'


def test_what_others_ask_for():
    asked = Asked("protobuf", ">=3.20.2", None, False)
    here = surroundings(versions={"protobuf": None}, conflicts=[("onnx 1.17.0", asked)])
    assert mending_line(here) == 'pip install "protobuf>=3.20.2"'
    asked = Asked("onnx", ">=1.16.1,<=1.17.0", Distribution("onnx", "1.23.2"), False)
    here = surroundings(versions={"onnx": "1.23.2"}, conflicts=[("paddle2onnx 2.1.0", asked)])
    assert mending_line(here) == 'pip install "onnx>=1.16.1,<1.18"'


def test_pip_is_that_of_this_python(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: "/elsewhere/pip")
    line = mending_line(surroundings(versions={"onnx": None}))
    assert line == f'{sys.executable} -m pip install "onnx>=1.16.1,<1.18"'
