"""That the harness of hostile files sees what a command takes and leaves."""

from __future__ import annotations

import sys

import pytest

from tests.hostile.harness import MEMORY, Ran, check, run

TAKES = "import time; kept = bytearray(300 << 20); time.sleep(0.3)"
LEAVES = "import tempfile; tempfile.mkdtemp(); open('.x.part', 'w'); open('y', 'w')"
ORPHAN = "import subprocess; subprocess.Popen(['sleep', '50'], start_new_session=True)"
TAME = Ran(("reparam",), 2, "", "Error: it is no model\n", 1.0, MEMORY, ())


def _script(text: str, tmp_path) -> Ran:
    folder = tmp_path / "work"
    folder.mkdir()
    return run([], folder, script=[sys.executable, "-c", text])


def test_memory_of_a_grandchild_counts(tmp_path):
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TAKES!r}])"
    assert 300 << 20 < _script(inner, tmp_path).memory < 400 << 20


def test_files_that_are_left_are_seen(tmp_path):
    left = _script(LEAVES, tmp_path).left
    assert [name.endswith("in TMPDIR") for name in left] == [True, False]
    assert left[1] == ".x.part"  # "y" may be the output that was asked for


def test_after_a_failure_every_new_file_is_left(tmp_path):
    assert _script(LEAVES + "; raise SystemExit(2)", tmp_path).left[1:] == (".x.part", "y")


def test_a_process_that_outlives_the_command_is_seen_and_ended(tmp_path):
    (left,) = _script(ORPHAN, tmp_path).left
    assert left.startswith("process ")


def test_a_tame_command_passes():
    check(TAME, says="no model")


@pytest.mark.parametrize(
    "change",
    [{"code": -11}, {"code": 0}, {"stderr": "Traceback (most recent call last):\nError: x"},
     {"stderr": ""}, {"stderr": "Error: \x1b[31m it is no model"}, {"left": ("x",)},
     {"seconds": 12.5}, {"memory": MEMORY + 1}],
)  # fmt: skip
def test_what_is_not_tame_fails(change):
    with pytest.raises(AssertionError):
        check(Ran(**{**vars(TAME), **change}))
