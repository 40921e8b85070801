"""What the doctor says to people, of made-up machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reparam.commands.doctor_report import print_report
from reparam.environment.abilities import ABILITIES, judge
from reparam.environment.asking import WORKS, Step
from reparam.environment.diagnosis import Diagnosis
from reparam.environment.installed import Asked, Distribution
from reparam.environment.known import FAULTS
from reparam.environment.mending import mending_line
from reparam.environment.packages import BROKEN, MISSING
from tests.environment.made_up import CORES, failing, provider, surroundings


@pytest.fixture
def said(capsys):
    """Return a function that returns what is said of surroundings, each gap one space."""

    def of(here) -> str:
        faults = tuple(fault for fault in FAULTS if fault.applies(here))
        judged = tuple(judge(ability, here) for ability in ABILITIES)
        print_report(Diagnosis("0.1.0", "Linux 6 x86_64", here, faults, judged, mending_line(here)))
        return " ".join(capsys.readouterr().out.split())

    return of


def test_a_healthy_machine(said):
    text = said(surroundings())
    assert "reparam 0.1.0, Python 3.11.7, Linux 6 x86_64" in text
    assert "paddlepaddle 3.3.1 >=3.3,<3.4 works" in text
    assert "openvino missing, not needed" in text
    assert text.endswith("everything works here")
    assert "taken care of: reparam writes the scales as float32" in text
    assert "to mend it" not in text


def test_quick_says_no_more_than_it_knows(said):
    text = said(surroundings(quick=True))
    assert "paddlepaddle 3.3.1 >=3.3,<3.4 imports" in text
    assert "execution provider" not in text
    assert "runs on the CPU" not in text


def test_what_is_wrong_with_packages(said):
    text = said(surroundings(
        versions={"onnxruntime-gpu": "1.31.1", "onnx": "1.23.2", "onnx-ir": None},
        seen={
            "paddle": {"steps": failing("inference", "no oneDNN", "conv")},
            "paddle2onnx": {"state": BROKEN, "found": "DLL load failed"},
            "openvino": {"state": WORKS, "where": "/p/openvino/__init__.py"},
        },
    ))  # fmt: skip
    for part in (
        "works; beside onnxruntime-gpu 1.31.1",
        "1.23.2 >=1.16.1,<1.18 imports; another version is asked for",
        "onnx-ir >=0.1.12,<2 missing",
        "inference fails: no oneDNN",
        "cannot be imported: DLL load failed",
        "without metadata, from /p/openvino/__init__.py",
        "to mend it: uninstall all of them, then install one",
        "3 of 6 do not work here what pip can mend: ",
    ):
        assert part in text, text


def test_what_packages_ask_for_and_do_not_get(said):
    asked = Asked("protobuf", ">=4", Distribution("protobuf", "3.0"), False)
    assert "onnx 1.17.0 asks for protobuf>=4: 3.0 is here" in said(
        surroundings(conflicts=[("onnx 1.17.0", asked)])
    )
    asked = replace(asked, found=None)
    assert "onnx 1.17.0 asks for protobuf>=4: it is missing" in said(
        surroundings(conflicts=[("onnx 1.17.0", asked)])
    )


def test_a_checkout_that_is_not_installed(said):
    text = said(replace(surroundings(versions={"onnx": None}), asked=None))
    assert "reparam is not installed, so what it asks for is not known" in text
    assert text.endswith("2 of 6 do not work here nothing of that can be mended by pip")


@pytest.mark.parametrize(
    ("cuda", "gpus", "part"),
    [(False, 0, "compiled without CUDA"), (True, 0, "compiled with CUDA, 0 GPU(s) here")],
)
def test_devices(said, cuda, gpus, part):
    conv = Step("conv", WORKS, values={"cuda": cuda, "gpus": gpus})
    text = said(surroundings(seen={
        "paddle": {"steps": {"import": Step("import", WORKS), "conv": conv}},
        "onnxruntime": {"providers": (provider("CUDA", False), provider("CPU", True))},
    }))  # fmt: skip
    assert f"paddlepaddle runs on the CPU; {part}" in text
    assert "CUDA named, but does not load: no library" in text
    assert "CPU loads" in text


def test_cores(said):
    cores = replace(CORES, allowed=6, quota=2.5, usable=2, memory_limit=3 << 29,
                    variables={"OMP_NUM_THREADS": "4"})  # fmt: skip
    text = said(surroundings(cores=cores))
    assert "8 logical cores, 6 in the affinity mask, a quota of 2.5, 1.5 GiB of memory" in text
    assert "OMP_NUM_THREADS=4" in text
    assert "reparam bench --threads 2" in text
    assert "no quota, no limit of memory" in said(surroundings())


def test_without_rich_it_is_plain_lines(said):
    here = surroundings(versions={"rich": None}, seen={"rich": {"state": MISSING}})
    text = said(here)
    assert "package version asked for state" in text
    assert "command here because" in text
