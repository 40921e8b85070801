"""``reparam doctor`` where something is missing, wrong, broken, and where all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.processes import one_error, reparam, with_environment
from tests.converter import needs_converter
from tests.environment.places import CORE, Place

QUICK = ("--quick", "--json")
CHECKPOINTS = "fuse, unfuse, inspect and verify checkpoints"
WANTED = {"paddlepaddle", "paddle2onnx", "onnx", "onnx-ir", "onnxruntime"}
HERE = {
    "paddle": ("paddlepaddle", "3.3.1"), "paddle2onnx": ("paddle2onnx", "2.1.0"),
    "onnx": ("onnx", "1.17.0"), "onnx_ir": ("onnx-ir", "1.1.0"),
    "onnxruntime": ("onnxruntime", "1.32.0"),
}  # fmt: skip
ABORT = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture
def place(tmp_path) -> Place:
    """What reparam itself needs, and no more."""
    return Place(tmp_path / "place").with_real(*CORE)


def furnished(place: Place, **changes: tuple[str, str, str] | None) -> Place:
    """Put made-up packages there of the versions that are asked for; some changed, or left out."""
    (place.packages / "google" / "protobuf").mkdir(parents=True)
    (place.packages / "google" / "protobuf" / "__init__.py").touch()
    place.with_metadata("protobuf", "7.36.2")
    for module, (distribution, version) in HERE.items():
        chosen = changes.get(module, (distribution, version, ""))
        if chosen:
            name, version, code = chosen
            place.with_fake(module, version, distribution=name, code=code)
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
    def test_reparam_alone(self, place):
        report = told(place.doctor("--json"))
        assert {a["name"] for a in report["abilities"]} - set(lost(report)) == {CHECKPOINTS}
        assert package(report, "reparam")["trials"] == [
            {"name": "fuse", "state": "works", "found": "", "values": {}}
        ]
        assert {a["name"] for a in report["asked_for"] if not a["fits"]} == (
            WANTED if sys.version_info < (3, 13) else WANTED - {"paddle2onnx"}
        )
        assert '"paddlepaddle>=3.3,<3.4"' in report["mend"]
        assert "numpy" not in report["mend"]

    def test_the_same_for_people(self, place):
        done = place.doctor("--quick")
        assert done.returncode == 1
        assert "5 of 6 do not work here" in done.stdout
        assert "onnxruntime is not installed" in done.stdout
        line = done.stdout.splitlines()[-1]
        assert line.startswith(f"  {place.python} -m pip install ")
        assert "missing, not needed" in done.stdout  # openvino

    def test_no_onnxruntime(self, place):
        report = told(furnished(place, onnxruntime=None).doctor(*QUICK))
        assert lost(report) == dict.fromkeys(
            ("fuse and inspect ONNX files", "export --onnx", "bench ONNX files"),
            "onnxruntime is not installed",
        )
        assert report["mend"].endswith('-m pip install "onnxruntime>=1.18,<2"')

    def test_no_paddle(self, place):
        report = told(furnished(place, paddle=None).doctor(*QUICK))
        assert set(lost(report)) == {"verify networks", "export --onnx", "export --paddle"}
        assert report["mend"].endswith('-m pip install "paddlepaddle>=3.3,<3.4"')

    def test_no_numpy_no_rich_and_no_yaml(self, tmp_path):
        place = Place(tmp_path / "place").with_real("click", "packaging")
        done = place.doctor("--quick")
        assert done.returncode == 1
        assert "6 of 6 do not work here" in done.stdout
        assert "numpy" in done.stdout.splitlines()[-1]

    def test_no_packaging(self, tmp_path):
        place = Place(tmp_path / "place").with_real("click", "numpy", "ml-dtypes")
        one_error(place.doctor("--quick"), "'packaging'", "pip install packaging")

    def test_nothing_is_missing(self, place):
        report = told(furnished(place).doctor(*QUICK))
        assert (lost(report), report["mend"]) == ({}, None)


class TestWrongVersions:
    @pytest.mark.parametrize("version", ["0.9.5", "1.3.1"])
    def test_a_converter_that_is_too_old(self, place, version):
        report = told(furnished(place, paddle2onnx=("paddle2onnx", version, "")).doctor(*QUICK))
        if sys.version_info < (3, 13):
            said = f"paddle2onnx is {version}, needs >=2.1,<2.2"
            assert lost(report) == {"export --onnx": said}
            assert report["mend"].endswith('-m pip install "paddle2onnx>=2.1,<2.2"')
        else:
            assert "python-without-converter" in faults(report)
        assert "converter-too-old" in faults(report)

    def test_an_onnx_that_is_too_new(self, place):
        report = told(furnished(place, onnx=("onnx", "1.23.2", "")).doctor(*QUICK))
        assert "onnx-newer-than-converter" in faults(report)
        if sys.version_info < (3, 13):
            assert report["mend"].endswith('-m pip install "onnx>=1.16.1,<1.18"')

    def test_two_wheels_of_onnxruntime(self, place):
        furnished(place).with_metadata("onnxruntime-gpu", "1.31.1")
        report = told(place.doctor(*QUICK))
        assert "several-onnxruntimes" in faults(report)
        pip = f"{place.python} -m pip"
        assert report["mend"] == (
            f"{pip} uninstall --yes onnxruntime onnxruntime-gpu && "
            f'{pip} install "onnxruntime-gpu>=1.18,<2"'
        )

    def test_what_a_package_asks_for_and_does_not_get(self, place):
        furnished(place, onnxruntime=None)
        place.with_fake("onnxruntime", "1.32.0", requires=("protobuf>=99", "nothing-we-know"))
        report = told(place.doctor(*QUICK))
        (conflict,) = report["conflicts"]
        assert (conflict["by"], conflict["name"]) == ("onnxruntime 1.32.0", "protobuf")
        assert report["mend"].endswith('install "protobuf>=99"')


class TestBroken:
    @pytest.mark.parametrize(("code", "said"), [
        ("raise ImportError('DLL load failed')", "ImportError: DLL load failed"),
        (ABORT, "ends the process (SIGSEGV)"),
        ("import sys\nsys.exit(0)", "ends the process as if all was well"),
    ])  # fmt: skip
    def test_an_onnxruntime_that_cannot_be_imported(self, place, code, said):
        furnished(place, onnxruntime=("onnxruntime", "1.32.0", code))
        report = told(place.doctor(*QUICK))
        found = package(report, "onnxruntime")
        assert (found["state"], found["found"]) == ("broken", said)
        reason = f"onnxruntime 1.32.0 cannot be imported: {said}"
        assert lost(report)["bench ONNX files"] == reason
        assert report["mend"].endswith('--force-reinstall --no-deps "onnxruntime>=1.18,<2"')

    def test_one_that_hangs(self, place):
        code = "import time\ntime.sleep(1000)"
        furnished(place, onnxruntime=("onnxruntime", "1.32.0", code))
        report = told(place.doctor(*QUICK, "--timeout", "6"))
        found = package(report, "onnxruntime")
        assert found["found"] == "does not come to an end: it was ended after 6 s"
        assert package(report, "numpy")["state"] == "works"

    def test_one_that_prints(self, place):
        code = "import os\nprint('{}')\nos.write(1, b'noise')"
        furnished(place, onnxruntime=("onnxruntime", "1.32.0", code))
        assert lost(told(place.doctor(*QUICK))) == {}

    def test_trials_tell_what_imports_do_not(self, place):
        """Packages of the right names and versions that hold nothing."""
        report = told(furnished(place).doctor("--json"))
        reasons = lost(report)
        assert set(reasons) == {a["name"] for a in report["abilities"]} - {CHECKPOINTS}
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
        )  # fmt: skip
        assert done.returncode == 130
        assert done.stdout == ""
        assert "Interrupted" in done.stderr
        assert "Traceback" not in done.stderr
        assert not Path(f"/proc/{note.read_text()}").exists()


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
