"""``reparam doctor`` where something is missing, wrong, broken, and where all is well."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from tests.commands.processes import one_error, reparam, with_environment
from tests.converter import needs_converter
from tests.environment.places import CORE, Place, has_ended

QUICK = ("--quick", "--json")
CHECKPOINTS = "fuse, unfuse, inspect and verify checkpoints"
WANTED = {"paddlepaddle", "paddle2onnx", "onnx", "onnx-ir", "onnxruntime"}
HERE = {
    "numpy": ("numpy", "2.4.6"), "ml_dtypes": ("ml-dtypes", "0.6.0"),
    "safetensors": ("safetensors", "0.8.0"), "yaml": ("pyyaml", "6.0.4"),
    "rich": ("rich", "15.0.0"), "paddle": ("paddlepaddle", "3.3.1"),
    "paddle2onnx": ("paddle2onnx", "2.1.0"), "onnx": ("onnx", "1.17.0"),
    "onnx_ir": ("onnx-ir", "1.1.0"), "onnxruntime": ("onnxruntime", "1.32.0"),
}  # fmt: skip
CONVERTS = sys.version_info < (3, 13)
ABORT = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def place(tmp_path) -> Place:
    """What the doctor itself needs, and no more."""
    return Place(tmp_path / "place").with_real("click", "packaging")


def furnished(
    place: Place,
    without: tuple[str, ...] = (),
    versions: Mapping[str, str] | None = None,
    code: Mapping[str, str] | None = None,
) -> Place:
    """Put made-up packages there, of the versions that are asked for, but for some changes."""
    (place.packages / "google" / "protobuf").mkdir(parents=True)
    (place.packages / "google" / "protobuf" / "__init__.py").touch()
    place.with_metadata("protobuf", "7.36.2")
    for module, (distribution, version) in HERE.items():
        if module not in without:
            version = (versions or {}).get(module, version)
            text = (code or {}).get(module, "")
            place.with_fake(module, version, distribution=distribution, code=text)
    return place


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["schema"] == "reparam.doctor/1"
    assert report["verdict"] == ("does not work" if done.returncode else "works")
    return report


def lost(report: dict[str, Any]) -> dict[str, str]:
    return {a["name"]: a["because"] for a in report["abilities"] if not a["works"]}


def package(report: dict[str, Any], module: str) -> dict[str, Any]:
    return next(one for one in report["packages"] if one["module"] == module)


def faults(report: dict[str, Any]) -> set[str]:
    return {fault["id"] for fault in report["faults"]}


class TestMissing:
    def test_reparam_alone(self, tmp_path):
        done = Place(tmp_path / "place").with_real(*CORE).doctor("--json")
        report = told(done)
        assert {a["name"] for a in report["abilities"]} - set(lost(report)) == {CHECKPOINTS}
        assert package(report, "reparam")["trials"] == [
            {"name": "fuse", "state": "works", "found": "", "values": {}}
        ]
        assert {a["name"] for a in report["asked_for"] if not a["fits"]} == (
            WANTED if CONVERTS else WANTED - {"paddle2onnx"}
        )
        assert '"paddlepaddle>=3.0,<3.4"' in report["mend"]
        assert "numpy" not in report["mend"]

    def test_no_onnxruntime(self, place):
        report = told(furnished(place, without=("onnxruntime",)).doctor(*QUICK))
        assert lost(report) == dict.fromkeys(
            ("fuse and inspect ONNX files", "export --onnx", "bench ONNX files"),
            "onnxruntime is not installed",
        )
        assert report["mend"] == f'{place.python} -m pip install "onnxruntime>=1.18,<2"'

    def test_no_paddle(self, place):
        report = told(furnished(place, without=("paddle",)).doctor(*QUICK))
        assert set(lost(report)) == {"verify networks", "export --onnx", "export --paddle"}
        assert report["mend"].endswith('-m pip install "paddlepaddle>=3.0,<3.4"')

    def test_nothing_that_the_doctor_can_do_without(self, place):
        """Neither numpy, which the rest of reparam needs, nor rich, which draws tables."""
        done = place.doctor("--quick")
        assert done.returncode == 1
        assert "6 of 6 do not work here" in done.stdout
        assert "missing, not needed" in done.stdout  # openvino
        line = done.stdout.splitlines()[-1]
        assert line.startswith(f"  {place.python} -m pip install ")
        assert '"numpy>=1.24,<3"' in line

    def test_no_packaging(self, tmp_path):
        place = Place(tmp_path / "place").with_real("click")
        one_error(place.doctor("--quick"), "'packaging'", "pip install packaging")

    def test_nothing_is_missing(self, place):
        report = told(furnished(place).doctor(*QUICK))
        assert (lost(report), report["mend"]) == ({}, None)


class TestWrongVersions:
    def test_a_converter_that_is_too_old(self, place):
        report = told(furnished(place, versions={"paddle2onnx": "0.9.5"}).doctor(*QUICK))
        assert "converter-too-old" in faults(report)
        assert ("python-without-converter" in faults(report)) is not CONVERTS
        if CONVERTS:
            assert lost(report) == {"export --onnx": "paddle2onnx is 0.9.5, needs >=2.0.1,<2.2"}
            assert report["mend"].endswith('-m pip install "paddle2onnx>=2.0.1,<2.2"')

    def test_several_at_once(self, place):
        """An onnx that is too new, two wheels of one package, and what one asks for in turn."""
        furnished(place, without=("paddle",), versions={"onnx": "1.23.2"})
        asks = ("protobuf>=99", "nothing-we-know")
        place.with_fake("paddle", "3.3.1", distribution="paddlepaddle", requires=asks)
        place.with_metadata("onnxruntime-gpu", "1.31.1")
        report = told(place.doctor(*QUICK))
        assert {"onnx-newer-than-converter", "several-onnxruntimes"} <= faults(report)
        (conflict,) = report["conflicts"]
        assert (conflict["by"], conflict["name"]) == ("paddlepaddle 3.3.1", "protobuf")
        pip, older = f"{place.python} -m pip", '"onnx>=1.16.1,<1.18" ' if CONVERTS else ""
        assert report["mend"] == (
            f"{pip} uninstall --yes onnxruntime onnxruntime-gpu && "
            f'{pip} install "onnxruntime-gpu>=1.18,<2" {older}"protobuf>=99"'
        )


class TestBroken:
    def test_each_in_its_own_way(self, place):
        code = {
            "onnxruntime": ABORT,
            "paddle": "raise ImportError('DLL load failed')",
            "onnx_ir": "import sys\nsys.exit(0)",
            "paddle2onnx": "import time\ntime.sleep(1000)",
            "onnx": "import os\nprint('{}')\nos.write(1, b'noise')",
        }
        report = told(furnished(place, code=code).doctor(*QUICK, "--timeout", "5"))
        said = {one["module"]: one["found"] for one in report["packages"] if one["found"]}
        assert said == {
            "onnxruntime": "ends the process (SIGSEGV)",
            "paddle": "ImportError: DLL load failed",
            "onnx_ir": "ends the process as if all was well",
            "paddle2onnx": "does not come to an end: it was ended after 5 s",
        }
        reason = "onnxruntime 1.32.0 cannot be imported: ends the process (SIGSEGV)"
        assert lost(report)["bench ONNX files"] == reason
        anew = ["paddlepaddle>=3.0,<3.4", "paddle2onnx>=2.0.1,<2.2", "onnx-ir>=0.1.12,<2",
                "onnxruntime>=1.18,<2"]  # fmt: skip
        if CONVERTS:
            assert report[
                "mend"
            ] == f"{place.python} -m pip install --force-reinstall --no-deps " + (
                " ".join(f'"{one}"' for one in anew)
            )

    def test_trials_tell_what_imports_do_not(self, place):
        """Packages of the right names and versions that hold nothing."""
        report = told(furnished(place).doctor("--json"))
        reasons = lost(report)
        assert set(reasons) == {a["name"] for a in report["abilities"]}
        assert "has no attribute" in reasons["bench ONNX files"]
        assert "paddlepaddle 3.3.1: " in reasons["verify networks"]

    def test_an_interrupt_leaves_nothing_running(self, place, tmp_path):
        note = tmp_path / "pid"
        code = (
            "import os, time\nfrom pathlib import Path\n"
            f"Path({str(note)!r}).write_text(str(os.getpid()))\ntime.sleep(1000)"
        )
        place.with_fake("onnxruntime", "1.32.0", code=code)
        script = (
            'set -m; "$0" -m reparam doctor --quick & '
            'while ! [ -s "$1" ]; do sleep 0.05; done; kill -INT $!; wait $!'
        )
        done = subprocess.run(
            ["bash", "-c", script, str(place.python), str(note)],
            capture_output=True, text=True, timeout=60, env=with_environment(PYTHONPATH=None),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not so under nohup
        )  # fmt: skip
        assert done.returncode == 130
        assert done.stdout == ""
        assert "Interrupted" in done.stderr
        assert "Traceback" not in done.stderr
        assert has_ended(int(note.read_text()))


class TestHere:
    @needs_converter
    def test_this_environment(self):
        done = reparam("doctor", "--json")
        report = told(done)
        assert report["verdict"] == "works", lost(report)
        repairs = next(
            trial["values"]["repairs"]
            for trial in package(report, "paddle2onnx")["trials"]
            if trial["name"] == "interpolation"
        )
        assert repairs == {"float64 scales of an interpolation made float32": 1}
        assert "interpolation-scale" in faults(report)
        assert {"name": "CPUExecutionProvider", "loads": True, "found": ""} in report["providers"]
        assert report["cores"]["usable"] >= 1

    @pytest.mark.parametrize("arguments", [["--nope"], ["--timeout", "0"], ["x"]])
    def test_wrong_usage(self, arguments):
        one_error(reparam("doctor", *arguments), "reparam doctor --help")

    def test_nobody_reads(self, place):
        command = [place.python, "-m", "reparam", "doctor", "--quick"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.close()
            child.wait(60)
        assert child.returncode == 141
