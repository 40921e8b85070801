"""The converter's child process: every way in which it can fail is one ExportError."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from reparam.adapters import converter
from reparam.adapters.converter import convert, first_error
from reparam.adapters.paddle_models import import_paddle
from reparam.adapters.static_program import save_static
from reparam.errors import ExportError
from reparam.supervision import child_environment
from tests.converter import needs_converter

Static = tuple[Path, Path]


@pytest.fixture
def static(tmp_path: Path) -> Static:
    """Two files that are there; the scripts below do not look into them."""
    program, parameters = tmp_path / "model.json", tmp_path / "model.pdiparams"
    program.write_text("{}")
    parameters.write_bytes(b"weights")
    return program, parameters


def use_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    script = tmp_path / "child.py"
    script.write_text(f"import os, sys, time\nOUTPUT = sys.argv[3]\n{body}\n")
    monkeypatch.setattr(converter, "CHILD", script)


FAILURES = {
    "exit 1": (
        "print('first');print('RuntimeError: no such operator', file=sys.stderr);sys.exit(1)",
        "failed with exit status 1",
        "RuntimeError: no such operator",
    ),
    "SystemExit": (
        "raise SystemExit('[Paddle2ONNX] [ERROR] cannot')",
        "failed with exit status 1",
        "cannot",
    ),
    "abort": (
        "print('[ERROR][Paddle2ONNX] aborted here', flush=True); os.abort()",
        "was ended by SIGABRT",
        "aborted here",
    ),
    "silent death": ("os.kill(os.getpid(), 9)", "was ended by SIGKILL", "it printed nothing"),
    "writes nothing": ("print('all is well')", "wrote no model", "all is well"),
    "writes an empty file": ("open(OUTPUT, 'w').close()", "wrote no model", "printed nothing"),
    "reports an error and goes on": (
        "open(OUTPUT, 'wb').write(b'x'); print('[Paddle2ONNX] [ERROR] Failed to load.')",
        "reported an error and went on",
        "Failed to load.",
    ),
    "writes garbage": (
        "open(OUTPUT, 'wb').write(bytes(range(256)))",
        "wrote no model",
        "256 bytes that are no ONNX model",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_told_with_its_first_error(
    name: str, static: Static, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, ending, cause = FAILURES[name]
    use_child(monkeypatch, tmp_path, body)
    with pytest.raises(ExportError) as caught:
        convert(*static)
    assert ending in caught.value.what
    assert cause in caught.value.found


def test_child_that_hangs_is_ended(
    static: Static, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pid"
    use_child(
        monkeypatch,
        tmp_path,
        f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)",
    )
    with pytest.raises(ExportError, match="did not finish"):
        convert(*static, timeout=1.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_ctrl_c_ends_the_child_and_leaves_no_folder(static: Static, tmp_path: Path) -> None:
    note, temporary = tmp_path / "pid", tmp_path / "temporary"
    temporary.mkdir()
    child = tmp_path / "child.py"
    child.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"open({str(note)!r} + '.part', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(note)!r} + '.part', {str(note)!r})\n"
        "time.sleep(600)\n"
    )
    parent = (
        "import signal\n"
        "from pathlib import Path\n"
        "from reparam.adapters import converter\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"converter.CHILD = Path({str(child)!r})\n"
        f"converter.convert(Path({str(static[0])!r}), Path({str(static[1])!r}))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
    )
    for _ in range(1200):
        if note.exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("lost", [0, 1])
def test_missing_input_is_refused_before_anything_runs(
    lost: int, static: Static, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "CHILD", Path("/nowhere"))
    static[lost].unlink()
    with pytest.raises(ExportError, match=("no program at", "no parameters at")[lost]):
        convert(*static)


@pytest.mark.parametrize("opset", [7, 10, 22])
def test_opset_out_of_range_is_refused(opset: int, static: Static) -> None:
    with pytest.raises(ExportError, match=f"opset {opset}"):
        convert(*static, opset=opset)


def test_child_may_not_install_packages() -> None:
    environment = child_environment({"POLYGRAPHY_AUTOINSTALL_DEPS": "1", "PATH": "/bin"})
    assert "POLYGRAPHY_AUTOINSTALL_DEPS" not in environment
    assert environment["PIP_NO_INDEX"] == "1"
    assert environment["PATH"] == "/bin"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            "\x1b[0;31m2026-01-02 03:04:05 [ERROR]\tFailed to convert: (Unimplemented) no\x1b[0m\n"
            "  [Hint: Expected something.]\n",
            "Failed to convert: (Unimplemented) no",
        ),
        (
            "[Paddle2ONNX] \n[ERROR][Paddle2ONNX] Due to x, aborted.\nFatalError: y",
            "Due to x, aborted.",
        ),
        ("[ERROR]\nTraceback\nValueError: z\n", "ValueError: z"),
        ("one\ntwo\n", "two"),
        ("", "it printed nothing"),
    ],
)
def test_first_error(log: str, line: str) -> None:
    assert first_error(log) == line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Static:
    """One convolution as a static program."""
    paddle = import_paddle()
    folder = tmp_path_factory.mktemp("static")
    return save_static(paddle.nn.Conv2D(3, 4, 3), "image", [None, 3, 8, 8], folder)


@needs_converter
def test_real_converter_returns_a_model_and_runs_no_pip(
    saved: Static, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pip-ran"
    trap, module = tmp_path / "bin", tmp_path / "modules" / "pip"
    trap.mkdir()
    for name in ("pip", "pip3", "uv"):
        (trap / name).write_text(f"#!/bin/sh\ntouch {note}\n")
        (trap / name).chmod(0o755)
    module.mkdir(parents=True)
    (module / "__init__.py").write_text(f"open({str(note)!r}, 'w').close()\n")
    (module / "__main__.py").write_text("")
    monkeypatch.setenv("PATH", f"{trap}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(module.parent))
    monkeypatch.setenv("POLYGRAPHY_AUTOINSTALL_DEPS", "1")
    graph = onnx.load_model_from_string(convert(*saved)).graph
    assert [value.name for value in graph.input] == ["image"]
    assert "Conv" in [n.op_type for n in graph.node]
    assert not note.exists()


@needs_converter
def test_child_falls_back_on_the_python_of_paddle(
    saved: Static, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = convert(*saved)
    script = tmp_path / "child.py"
    text = converter.CHILD.read_text()
    script.write_text(
        text.replace("    folder = Path(", "    raise OSError('no library')\n    _ = (")
    )
    assert script.read_text() != text
    monkeypatch.setattr(converter, "CHILD", script)
    assert convert(*saved) == quick


@needs_converter
def test_child_whose_parent_is_gone_ends(saved: Static, tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    done = subprocess.run(
        [sys.executable, str(converter.CHILD), *map(str, saved), str(output), "17"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "is gone" in done.stderr
    assert not output.exists()


@needs_converter
def test_real_converter_given_no_weights_is_refused(saved: Static, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pdiparams"
    empty.write_bytes(b"")
    with pytest.raises(ExportError, match="paddle2onnx"):
        convert(saved[0], empty)
