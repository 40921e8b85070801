"""Functions that crash, hang, print and fill the memory, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from reparam.__main__ import main
from reparam.errors import ExportError, GraphError, NotFusibleError
from reparam.supervision import (
    MEMORY,
    Child,
    Limits,
    is_want_of_memory,
    memory_limit,
    supervised,
)
from tests.environment.places import has_ended

MADE_UP = "tests.supervision.made_up"
WHAT = "cannot use 'x.onnx'"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is mapped")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def call(name: str, *arguments, **options):
    return supervised(f"{MADE_UP}:{name}", *arguments, what=WHAT, **options)


def found_of(name: str, *arguments, **options) -> str:
    with pytest.raises(GraphError) as caught:
        call(name, *arguments, **options)
    assert caught.value.what == WHAT
    return caught.value.found


def test_an_answer_and_what_is_told_on_the_way_arrive(capfd):
    told: list[str] = []
    assert call("add", 1, b=2, tell=told.append, teller="tell") == 3
    assert told == ["adding 1"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "what a library prints on stdout\n")


def test_what_the_package_logs_is_logged_here(caplog):
    call("log", "a word")
    assert caplog.record_tuples == [("reparam.made_up", 30, "a word of the child")]


@pytest.mark.parametrize(
    "line",
    ["\x1b[1;31m2025-01-01 [E:onnxruntime:, x.cc:1 Run] Non-zero status\x1b[m",
     "W0101 00:00:00.1  7 operator.cc:1] hm"],
)  # fmt: skip
def test_lines_of_native_libraries_are_kept_back(line, capfd):
    call("say", line)
    assert capfd.readouterr().err == ""


def test_other_lines_come_through_without_control_characters(capfd):
    call("say", "a\x1b[31m\x1b]0;title\x07b")
    assert capfd.readouterr().err == "a?]0;title?b\n"


def test_an_error_of_ours_arrives_whole():
    with pytest.raises(NotFusibleError) as caught:
        call("refuse")
    error = caught.value
    assert (error.what, error.found, error.why, error.hint) == (
        "cannot fuse it", "two", "of three", "none")  # fmt: skip


def test_another_error_arrives_with_its_traceback():
    with pytest.raises(ZeroDivisionError, match="by nought") as caught:
        call("fail")
    assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_sent_arrives_as_text():
    with pytest.raises(RuntimeError, match="Odd: odd"):
        call("fail_oddly")


def test_an_answer_that_cannot_be_sent_is_an_error():
    with pytest.raises(TypeError, match="pickle"):
        call("answer_with_a_lock")


@pytest.mark.parametrize(
    ("name", "arguments", "found"),
    [
        ("nest", (), "it is nested too deeply"),
        ("kill_itself", (signal.SIGSEGV,), "the process that read it was ended by SIGSEGV"),
        ("kill_itself", (signal.SIGFPE,), "the process that read it was ended by SIGFPE"),
        ("exit_with", (0,), "the process that read it ended with exit status 0 and no answer"),
        ("abort_for_memory", (), f"there is not enough memory (its limit: {MEMORY >> 20:,} MiB)"),
    ],
)
def test_each_way_to_die_is_told(name, arguments, found):
    assert found_of(name, *arguments) == found


@ON_LINUX
def test_memory_is_limited():
    small = Limits(memory=100 << 20)
    assert found_of("allocate", 200 << 20, limits=small) == (
        "there is not enough memory (its limit: 100 MiB)"
    )
    assert call("allocate", 50 << 20, limits=small) == 50 << 20


def test_another_class_of_error():
    with pytest.raises(ExportError):
        call("exit_with", 1, error=ExportError)


def test_a_hanging_process_and_all_that_it_left_is_ended(tmp_path):
    told = tmp_path / "told"
    found = found_of("start_another_and_hang", told, limits=Limits(timeout=3), writes=[told])
    assert found == "still running after 3 s; it was ended"
    assert all(has_ended(int(number)) for number in told.read_text().split())
    assert {path.name for path in tmp_path.iterdir()} == {"told", "temporary"}


@ON_LINUX
def test_a_process_ends_with_its_parent_and_the_next_clears_up(tmp_path, temporary):
    told = tmp_path / "told"
    script = (f"import tempfile; tempfile.tempdir = {str(temporary)!r}\n"
              "from pathlib import Path; from reparam.supervision import supervised\n"
              f"supervised('{MADE_UP}:start_another_and_hang', Path({str(told)!r}))")  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", script])
    while not told.exists():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    other, child = map(int, told.read_text().split())
    assert has_ended(child)
    assert len(list(temporary.iterdir())) == 1
    call("add", 1, 2)
    assert list(temporary.iterdir()) == []
    subprocess.run(["kill", "-9", str(other)], check=True)


def test_its_temporary_files_and_modules_are_its_parents(temporary):
    folder, path = call("where")
    assert Path(folder).is_relative_to(temporary)
    assert path == sys.path


def test_one_process_answers_often_until_it_dies():
    with Child(f"{MADE_UP}:process_id", 60, None) as child:
        assert child.call() == child.call()
        child.end()
        with pytest.raises(GraphError, match="cannot run"):
            child.call()


NO_ROOM = "libphi.so: failed to map segment from shared object"


def _caused(error: ImportError, cause: BaseException) -> ImportError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (ImportError(NO_ROOM), True),
        (_caused(ImportError("numpy"), ImportError(NO_ROOM)), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("No module named 'x'"), False),
        (ValueError(NO_ROOM), False),
    ],
)
def test_errors_that_say_that_there_is_not_enough_memory(error, expected):
    assert is_want_of_memory(error) is expected


def test_a_command_that_cannot_import_a_library_for_want_of_memory_says_so(monkeypatch, capsys):
    def fail(_: str) -> None:
        raise ImportError(NO_ROOM)

    monkeypatch.setattr("reparam.__main__.import_module", fail)
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "x.onnx"])
    assert caught.value.code == 2
    assert "Error: there is not enough memory\n  found: libphi.so" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("4GiB", 4 << 30), ("500M", 500 << 20), ("1.5 kb", 1536)],
)
def test_amounts_of_memory(text, size):
    assert memory_limit(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1e9", "4PiB", "9" * 5000])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(ValueError, match="no amount of memory"):
        memory_limit(text)


def test_the_limit_counts_weights_that_are_kept_beside_the_file(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\n\x08location\x12\x05w.bin\n\x08location\x12\x04../y")
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    (tmp_path / "x.pdiparams").write_bytes(bytes(100))
    assert Limits().memory_for([path]) == MEMORY + 8 * (path.stat().st_size + 1100)
    assert Limits(memory=7).memory_for([path]) == 7
