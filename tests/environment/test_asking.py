"""Packages that crash, hang, print, lie and end the process."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reparam.environment.asking import FAILS, NOT_TRIED, WORKS, Processes, last_line
from tests.environment.places import has_ended

LIMIT = 60  # seconds; only what hangs reaches its own, shorter one


@pytest.fixture
def lamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that asks a package 'lamp' with this code."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def ask(code: str, *steps: str, limit: int = LIMIT):
        (tmp_path / "lamp.py").write_text(code)
        with Processes(limit) as processes:
            found, _ = processes.ask("lamp", steps)
        return found

    return ask


def test_what_works_tells_its_version_and_its_file(lamp, tmp_path):
    found = lamp("__version__ = '1.2'")["import"]
    assert (found.state, found.found) == (WORKS, "")
    assert found.values == {"version": "1.2", "where": str(tmp_path / "lamp.py")}


@pytest.mark.parametrize(
    "code",
    [
        "print('hello')",
        "import os\nos.write(1, b'hello\\n')",
        'print(\'{"step": "import", "values": {"version": "9", "where": "elsewhere"}}\')',
        "import os\nos.system('echo hello')",
    ],
)
def test_what_a_package_prints_is_no_answer(lamp, tmp_path, code):
    found = lamp(code + "\n__version__ = '1.2'")["import"]
    assert found.values == {"version": "1.2", "where": str(tmp_path / "lamp.py")}


def test_an_answer_that_a_package_prints_does_not_hide_that_it_fails(lamp):
    forged = 'print(\'{"step": "import", "values": {"version": "9"}}\', flush=True)'
    found = lamp(forged + "\nraise ImportError('no')")["import"]
    assert (found.state, found.found) == (FAILS, "ImportError: no")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "raise ImportError('libcublas.so.12: cannot open')",
            "ImportError: libcublas.so.12: canno",
        ),
        ("import nothing_like_that", "No module named 'nothing_like_that'"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "ends the process (SIGSEGV)"),
        ("import sys\nsys.exit(0)", "ends the process as if all was well"),
        ("import os\nos._exit(3)", "ends the process with exit status 3"),
        ("raise SystemExit('go away')", "go away"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first"),
        ("def", "SyntaxError"),
    ],
)
def test_how_an_import_fails_is_told(lamp, code, said):
    found = lamp(code, "conv")
    assert found["import"].state == FAILS
    assert said in found["import"].found
    assert found["conv"].state == NOT_TRIED


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "lamp").mkdir()
    with Processes(LIMIT) as processes:
        found = processes.ask("lamp", ())[0]["import"]
    assert found.state == FAILS
    assert f"{tmp_path / 'lamp'} is a folder" in found.found


def test_what_hangs_is_ended_with_all_that_it_started(lamp, tmp_path):
    note = tmp_path / "pid"
    code = (
        "import subprocess, time\nfrom pathlib import Path\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"Path({str(note)!r}).write_text(str(child.pid))\ntime.sleep(1000)"
    )
    found = lamp(code, "conv", limit=2)
    assert found["import"].found == "does not come to an end: it was ended after 2 s"
    assert has_ended(int(note.read_text()))


def test_leaving_the_block_ends_what_is_running(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    note = tmp_path / "pid"
    (tmp_path / "lamp.py").write_text(
        f"import os, time\nfrom pathlib import Path\n"
        f"Path({str(note)!r}).write_text(str(os.getpid()))\ntime.sleep(1000)"
    )
    with ThreadPoolExecutor(1) as pool, Processes(1000) as processes:
        first, second = (pool.submit(processes.ask, "lamp", ("conv",)) for _ in range(2))
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
    assert "SIGKILL" in first.result()[0]["import"].found
    assert second.result()[0]["import"].state == NOT_TRIED
    assert has_ended(int(note.read_text()))


def test_an_alarm_ends_a_process_that_nobody_waits_for(lamp):
    found = lamp("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\nsignal.pause()")
    assert found["import"].found == f"ends the process ({signal.SIGALRM.name})"
    left = lamp("import signal\n__version__ = signal.alarm(0)")["import"].values["version"]
    assert LIMIT < int(left) <= LIMIT + 10


def test_the_first_trial_that_fails_is_the_last(lamp):
    code = "def get_available_providers():\n    return ['One']\n"
    found = lamp(code, "providers", "provider:One", "reads")
    assert found["providers"].values == {"named": ["One"]}
    assert found["provider:One"].state == FAILS
    assert "no attribute 'InferenceSession'" in found["provider:One"].found
    assert found["reads"].state == NOT_TRIED


def test_nothing_is_installed_while_a_package_is_tried(lamp, monkeypatch):
    monkeypatch.setenv("POLYGRAPHY_AUTOINSTALL_DEPS", "1")
    names = ("POLYGRAPHY_AUTOINSTALL_DEPS", "PIP_NO_INDEX")
    code = f"import os\n__version__ = [os.environ.get(name) for name in {names!r}]"
    assert lamp(code)["import"].values["version"] == "[None, '1']"


def test_packages_of_the_folder_of_the_script_are_not_found(lamp):
    assert "No module named 'steps'" in lamp("import steps")["import"].found


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ("error: that\n", "that"),
        ("Traceback\n  x\nValueError: wrong\nadvice that follows\n", "ValueError: wrong"),
        ("ValueError: one\nerror: two\nthree", "two"),
        ("a.b.Error: one\nOSError: two\nmore", "OSError: two"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_the_line_that_is_quoted(log, line):
    assert last_line(log) == line
