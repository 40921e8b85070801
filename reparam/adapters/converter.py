"""The paddle2onnx converter, kept in a child process that it may end as it likes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from reparam.adapters.onnx_model import parse_model
from reparam.errors import ExportError, MissingDependencyError

CHILD = Path(__file__).with_name("converter_child.py")
OPSETS = range(11, 22)  # what paddle2onnx 2.1 converts to without changing the number
_HERE = ".".join(map(str, sys.version_info[:2]))
_NO_WHEEL = sys.version_info >= (3, 13)
NO_CONVERTER = (
    f"Python {_HERE}, for which paddle2onnx has no wheel"
    if _NO_WHEEL
    else "the package 'paddle2onnx' is not installed"
)
INSTEAD = (
    "export under Python 3.10, 3.11 or 3.12; fuse, inspect, verify and bench of ONNX files "
    "work here"
    if _NO_WHEEL
    else 'pip install "reparam[export]"'
)

_ERROR = re.compile(r"\[ERROR\]|\b\w*Error\b|\berror:", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LABELS = re.compile(r"^(?:[\d: -]*\[(?:ERROR|Paddle2ONNX)\]|error:|\s)*", re.IGNORECASE)


def has_converter() -> bool:
    """Whether paddle2onnx is installed; it is not imported."""
    return find_spec("paddle2onnx") is not None


def need_converter() -> None:
    """Refuse at once what would fail at the end.

    Raises:
        MissingDependencyError: paddle2onnx is not installed.
    """
    if not has_converter():
        raise MissingDependencyError(
            "writing an ONNX file needs the converter paddle2onnx",
            found=NO_CONVERTER,
            hint=INSTEAD,
        )


def convert(program: Path, parameters: Path, *, opset: int = 17, timeout: float = 600) -> bytes:
    """Return the ONNX file that paddle2onnx makes of a static program, as it made it.

    Args:
        program: ``model.json``, as :func:`reparam.adapters.static_program.save_static` writes it.
        parameters: its ``.pdiparams``.
        opset: of the ONNX file, 11 to 21.
        timeout: seconds until the converter is ended.

    Raises:
        ExportError: an input is missing, the opset is out of range, or the converter failed,
            died, hung, or wrote something else than a model. The message quotes its first error.
    """
    check_opset(opset)
    _check_inputs(program, parameters)
    with tempfile.TemporaryDirectory(prefix="reparam-convert-") as folder:
        output = Path(folder, "model.onnx")
        log = Path(folder, "log.txt")
        status = _run_child([program, parameters, output, opset], log, timeout)
        text = log.read_text(encoding="utf-8", errors="replace")
        if status != 0:
            raise _failure(_ending(status), text)
        if "[ERROR]" in text:  # it can report a failure and end well
            raise _failure("reported an error and went on", text)
        model = output.read_bytes() if output.exists() else b""
    if not model:
        raise _failure("wrote no model", text)
    try:
        parse_model(model)
    except ExportError as error:
        raise ExportError(
            "paddle2onnx wrote no model", found=f"{len(model)} bytes that are no ONNX model"
        ) from error
    return model


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the child: no package is installed in it, no index asked."""
    kept = {k: v for k, v in environment.items() if k != "POLYGRAPHY_AUTOINSTALL_DEPS"}
    return kept | {"PIP_NO_INDEX": "1", "PYTHONUNBUFFERED": "1"}


def check_opset(opset: int) -> None:
    """Refuse an opset that the converter does not write.

    Raises:
        ExportError: it is not one of 11 to 21.
    """
    if opset not in OPSETS:
        raise ExportError(
            f"cannot export opset {opset}",
            why=f"the converter writes opsets {OPSETS[0]} to {OPSETS[-1]}",
            hint="--opset 17",
        )


def _check_inputs(program: Path, parameters: Path) -> None:
    for path, role in ((program, "program"), (parameters, "parameters")):
        if not path.is_file():
            raise ExportError(
                f"cannot convert '{program.name}'",
                found=f"no {role} at '{path}'",
                why="the converter would go on and write a model without weights",
            )


def _run_child(arguments: list[object], log: Path, timeout: float) -> int:
    """Return the exit status of the child, which does not outlive this call, Ctrl-C included."""
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    with log.open("wb") as stream:  # a file, not a pipe: nothing that inherits it can block us
        try:
            done = subprocess.run(  # noqa: S603 - our own script, run by our own interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                "paddle2onnx did not finish",
                found=f"still running after {timeout:g} s; it was ended",
                hint="--timeout gives it more time",
            ) from error
    return done.returncode


def _ending(status: int) -> str:
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}"


def _failure(ending: str, log: str) -> ExportError:
    return ExportError(f"paddle2onnx {ending}", found=first_error(log))


def first_error(log: str) -> str:
    """Return the first line of a converter's log that states an error, else its last line."""
    lines = [line for raw in log.splitlines() if (line := _COLOUR.sub("", raw).strip())]
    stated = (line for line in lines if _ERROR.search(line))
    for line in (*stated, *lines[-1:]):
        if text := _LABELS.sub("", line):
            return text
    return "it printed nothing"
