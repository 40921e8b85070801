"""The paddle2onnx converter, kept in a child process that it may end as it likes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from reparam.adapters.converter_versions import hint_of_versions, need_converting_versions
from reparam.adapters.onnx_model import parse_model
from reparam.drafts import scratch_folder
from reparam.errors import ExportError, MissingDependencyError
from reparam.supervision import child_environment, signal_name

CHILD = Path(__file__).with_name("converter_child.py")
OPSETS = range(11, 22)  # what paddle2onnx 2.1 converts to without changing the number
GO = b"go\n"  # what the child waits for
FIRST_WITHOUT = (3, 13)  # Python for which there is no wheel of paddle2onnx 2.1

_ERROR = re.compile(r"\[ERROR\]|\b\w*Error\b|\berror:", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LABELS = re.compile(r"^(?:[\d: -]*\[(?:ERROR|Paddle2ONNX)\]|error:|\s)*", re.IGNORECASE)


def has_converter() -> bool:
    """Whether paddle2onnx is installed; it is not imported."""
    return importlib.util.find_spec("paddle2onnx") is not None


def no_converter() -> tuple[str, str]:
    """Return why there is no converter here, and what to do."""
    if sys.version_info >= FIRST_WITHOUT:
        here, last = sys.version_info[:2], (FIRST_WITHOUT[0], FIRST_WITHOUT[1] - 1)
        return (
            f"Python {here[0]}.{here[1]}, for which paddle2onnx has no wheel",
            f"Python {last[0]}.{last[1]} or older for --onnx; --paddle works here",
        )
    return "the package 'paddle2onnx' is not installed", 'pip install "reparam[export]"'


def need_converter() -> None:
    """Refuse at once what would fail at the end.

    Raises:
        MissingDependencyError: paddle2onnx is not installed, or it or paddle is too old.
    """
    if not has_converter():
        found, hint = no_converter()
        raise MissingDependencyError(
            "writing an ONNX file needs the converter paddle2onnx", found=found, hint=hint
        )
    need_converting_versions()


def convert(program: Path, parameters: Path, *, opset: int = 17, timeout: float = 600) -> bytes:
    """Return the ONNX file that paddle2onnx makes of a static program, as it made it.

    Args:
        program: ``model.json``, as :func:`reparam.adapters.static_program.save_static` writes it.
        parameters: its ``.pdiparams``.
        opset: of the ONNX file, 11 to 21.
        timeout: seconds until the converter is ended.

    Raises:
        ExportError: as :class:`Converter`.
    """
    with Converter(program, parameters, opset=opset) as converter:
        converter.start()
        return converter.result(timeout)


class Converter:
    """One run of paddle2onnx, in a process that imports it while its input is still being made.

    The process does not outlive the ``with`` block, Ctrl-C included.

    Args:
        program: ``model.json``, which need not be there yet.
        parameters: its ``.pdiparams``.
        opset: of the ONNX file, 11 to 21.

    Raises:
        ExportError: an input is missing, the opset is out of range, or the converter failed,
            died, hung, or wrote something else than a model. The message quotes its first error.
        MissingDependencyError: paddle2onnx is not installed.
    """

    def __init__(self, program: Path, parameters: Path, *, opset: int = 17) -> None:
        check_opset(opset)
        self.inputs = (program, parameters)
        self._opset = opset

    def __enter__(self) -> Converter:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            self._output, self._log = folder / "model.onnx", folder / "log.txt"
            arguments = map(str, (*self.inputs, self._output, self._opset))
            with self._log.open("wb") as stream:  # a file: nothing that inherits it can block us
                self._process = subprocess.Popen(  # noqa: S603 - our own script and interpreter
                    [sys.executable, str(CHILD), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=child_environment(os.environ),
                )
            self._folder = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._close_stdin()
        self._process.wait()
        self._folder.close()

    def start(self) -> None:
        """Let the converter read its input, which is whole now.

        Raises:
            ExportError: an input is missing.
        """
        _check_inputs(*self.inputs)
        with suppress(BrokenPipeError):  # it died already; result() says how
            self._process.stdin.write(GO)  # type: ignore[union-attr]
        self._close_stdin()

    def result(self, timeout: float) -> bytes:
        """Return the model, at most ``timeout`` seconds from now.

        Raises:
            ExportError: there is none.
        """
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                "paddle2onnx did not finish",
                found=f"still running after {timeout:g} s; it was ended",
                hint="--timeout gives it more time",
            ) from error
        text = self._log.read_text(encoding="utf-8", errors="replace")
        if status != 0:
            raise _failure(_ending(status), text)
        if "[ERROR]" in text:  # it can report a failure and end well
            raise _failure("reported an error and went on", text)
        model = self._output.read_bytes() if self._output.exists() else b""
        if not model:
            raise _failure("wrote no model", text)
        try:
            parse_model(model)
        except ExportError as error:
            raise ExportError(
                "paddle2onnx wrote no model", found=f"{len(model)} bytes that are no ONNX model"
            ) from error
        return model

    def _close_stdin(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]


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


def _ending(status: int) -> str:
    if status >= 0:
        return f"failed with exit status {status}"
    return f"was ended by {signal_name(-status)}"


def _failure(ending: str, log: str) -> ExportError:
    return ExportError(f"paddle2onnx {ending}", found=first_error(log), hint=hint_of_versions())


def first_error(log: str) -> str:
    """Return the first line of a converter's log that states an error, else its last line."""
    lines = [line for raw in log.splitlines() if (line := _COLOUR.sub("", raw).strip())]
    stated = (line for line in lines if _ERROR.search(line))
    for line in (*stated, *lines[-1:]):
        if text := _LABELS.sub("", line):
            return text
    return "it printed nothing"
