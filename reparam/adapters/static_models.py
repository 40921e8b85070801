"""Static Paddle programs that a user has, as ONNX files.

    model.json     (PIR, paddle 3)  + model.pdiparams ─┐
    model.pdmodel  (before)         + model.pdiparams ─┴─> paddle2onnx, in a process ─> model.onnx

Nothing of a program is run. The converter goes on without weights, ends with 0 for a failure, and
dies of what it does not know: whatever it does, the result is a whole model or an ExportError.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reparam.adapters.converter import (
    check_opset,
    convert,
    first_error,
    need_converter,
)
from reparam.adapters.light_program import parameters_in
from reparam.adapters.program_repairs import repair_program
from reparam.adapters.static_checks import check_nothing_lost, check_parameters_fit
from reparam.adapters.static_operators import operators_of
from reparam.checkpoint.opening import mapped
from reparam.errors import CheckpointError, ExportError
from reparam.supervision import child_environment

PIR, OLD, PARAMETERS = "a program of paddle 3", "an old program", "parameters"
OLD_PROGRAM_CHILD = Path(__file__).with_name("old_program_child.py")

_HEAD_OF_PARAMETERS = bytes(16)
_LISTED = 4


@dataclass(frozen=True)
class StaticModel:
    """The two files of a static program.

    Attributes:
        program: ``.json`` or ``.pdmodel``.
        parameters: ``.pdiparams``.
        kind: of the program, ``PIR`` or ``OLD``.
    """

    program: Path
    parameters: Path
    kind: str


@dataclass(frozen=True)
class Converted:
    """An ONNX file that the converter made of a static program.

    Attributes:
        path: of the file, which holds every parameter of the program.
        source: the program and its parameters.
        repairs: what of the program was put right before, in words, with counts.
    """

    path: Path
    source: StaticModel
    repairs: dict[str, int] = field(default_factory=dict)


def is_static(path: Path) -> bool:
    """Whether a path looks like that of a static program, of its parameters, or a folder of them.

    Nothing is opened.
    """
    return path.suffix in (".json", ".pdmodel", ".pdiparams") or (
        path.is_dir() and any(map(is_static, (p for p in path.iterdir() if not p.is_dir())))
    )


def find_static(path: Path, parameters: Path | None = None) -> StaticModel:
    """Return the program and the parameters that are meant, told apart by what is in them.

    Args:
        path: of the program, or a folder in which there is one.
        parameters: of the program; the ``.pdiparams`` beside it with its name if None.

    Raises:
        ExportError: there is no program, or no parameters, or more than one; or a file is
            something else.
    """
    program = _only_program(path) if path.is_dir() else path
    kind = kind_of(program)
    if kind not in (PIR, OLD):
        raise ExportError(
            f"'{program}' is no static program",
            found=kind,
            hint=_program_beside(program) if kind == PARAMETERS else "",
        )
    if parameters is None:
        parameters = program.with_suffix(".pdiparams")
        beside = list(path.glob("*.pdiparams")) if path.is_dir() else []
        if not parameters.exists() and len(beside) == 1:
            parameters = beside[0]  # the one pair; whether they fit is looked at later
    if not parameters.exists():
        raise ExportError(
            f"no parameters for '{program}'",
            found=f"no '{parameters}'{_others(program.parent, '*.pdiparams')}",
            why="a program holds no weights",
        )
    found = kind_of(parameters)
    if found != PARAMETERS:
        raise ExportError(f"'{parameters}' holds no parameters", found=found)
    return StaticModel(program, parameters, kind)


def convert_static(
    static: StaticModel, folder: Path, *, opset: int = 17, timeout: float = 600
) -> Converted:
    """Write a static program as an ONNX file, with every parameter in it.

    The file is as the converter makes it, names of inputs and outputs included; it has yet to be
    fused. One program in a row: :func:`find_static`, this, ``open_model(converted.path)``.

    Args:
        static: what :func:`find_static` returned; its files are not changed.
        folder: exists, and takes the file ``model.onnx`` and what is needed on the way; a
            temporary one.
        opset: of the ONNX file, 11 to 21.
        timeout: seconds for each process that is started.

    Raises:
        ExportError: the parameters are not those of the program; or the converter failed, in any
            of its ways, or lost a weight. The message quotes its first error.
        MissingDependencyError: paddle2onnx is not installed.
    """
    check_opset(opset)
    need_converter()
    try:
        return _convert(static, folder, opset, timeout)
    except ExportError as error:
        raise error.located(f"cannot convert '{static.program}': {error.what}") from error


def _convert(static: StaticModel, folder: Path, opset: int, timeout: float) -> Converted:
    program = folder / "program.json"
    if static.kind == OLD:
        _translate(static.program, program, timeout)
    content = _json_of(static.program if static.kind == PIR else program)
    operators = operators_of(content)
    check_parameters_fit(operators, static.parameters)
    repairs = repair_program(operators)
    program.write_text(json.dumps(content), encoding="utf-8")
    model = convert(program, static.parameters, opset=opset, timeout=timeout)
    check_nothing_lost(model, operators, parameters_in(program, static.parameters))
    path = folder / "model.onnx"
    path.write_bytes(model)
    return Converted(path, static, repairs)


def kind_of(path: Path) -> str:
    """Return what a file is: ``PIR``, ``OLD``, ``PARAMETERS``, or something else, in words.

    Raises:
        ExportError: it cannot be read.
    """
    try:
        with mapped(path) as pages:
            head = bytes(pages[:16])
    except CheckpointError as error:
        raise ExportError(error.what, found=error.found, why=error.why) from error
    if head == _HEAD_OF_PARAMETERS:
        return PARAMETERS
    if head.lstrip()[:1] in (b"{", b"["):
        return PIR if _is_program(_json_of(path)) else "JSON that is no program of Paddle"
    if head[:1] == b"\x0a":
        return OLD  # field 1, the blocks; an ONNX file begins with its version
    known = {b"\x80": "a pickle, as checkpoints are", b"\x08": "perhaps an ONNX file",
             b"P": "an archive, as checkpoints are"}  # fmt: skip
    return known.get(head[:1], f"a file that begins with {head[:8]!r}")


def _is_program(content: Any) -> bool:
    try:
        operators = content["program"]["regions"][0]["blocks"][0]["ops"]
        return bool(content["base_code"]["magic"] == "pir") and isinstance(operators, list)
    except (KeyError, IndexError, TypeError):
        return False


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"'{path}' is no static program", found=f"no JSON: {error}") from error


def _only_program(folder: Path) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".pdmodel") and p.is_file())
    programs = [path for path in found if path.suffix == ".pdmodel" or kind_of(path) == PIR]
    if len(programs) != 1:
        names = ", ".join(path.name for path in programs[:_LISTED])
        raise ExportError(
            f"which static program in '{folder}'?" if programs else f"no program in '{folder}'",
            found=f"{len(programs)}: {names}" if programs else "no .json or .pdmodel that is one",
        )
    return programs[0]


def _program_beside(parameters: Path) -> str:
    for path in (parameters.with_suffix(".json"), parameters.with_suffix(".pdmodel")):
        if path.is_file():
            return f"'{path}' may be the program"
    return ""


def _others(folder: Path, pattern: str) -> str:
    names = sorted(path.name for path in folder.glob(pattern))[:_LISTED]
    return f"; there: {', '.join(names)}" if names else ""


def _translate(old: Path, new: Path, timeout: float) -> None:
    """Write an old program as one of paddle 3, in a process that Paddle may end."""
    command = [sys.executable, str(OLD_PROGRAM_CHILD), str(old), str(new)]
    with tempfile.TemporaryFile() as log:  # a file: nothing that inherits it can block us
        try:
            done = subprocess.run(  # noqa: S603 - our own script and interpreter
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ),
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                "paddle did not finish reading the old program",
                found=f"still running after {timeout:g} s; it was ended",
            ) from error
        log.seek(0)
        text = log.read().decode(errors="replace")
    if done.returncode != 0 or not new.is_file():
        raise ExportError("paddle cannot read the old program", found=first_error(text))
