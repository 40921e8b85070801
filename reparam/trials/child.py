"""Import one package and try what it is there for; run by file path, in a process of its own.

The argument is a JSON object: the ``module``, the ``steps`` to try after importing it, and the
``seconds`` after which this process is ended. Each step that works is a line of JSON on stdout;
what packages print goes to stderr, and so does the traceback of the first step that does not
work, with which this process ends. A package can end it at any moment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # where the package 'reparam' is


def main(argument: str) -> None:
    """Tell of the import, then of each step."""
    request = json.loads(argument)
    if hasattr(signal, "alarm"):  # if nobody is left to end this process
        signal.alarm(request["seconds"])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module = import_module(request["module"])
    _tell(answers, "import", _described(module))
    for step in request["steps"]:
        _tell(answers, step, _tried(module, step))


def _tried(module: Any, step: str) -> dict[str, Any]:
    errors, trials = (import_module(f"reparam.{name}") for name in ("errors", "trials.steps"))
    name, _, detail = step.partition(":")
    trial = getattr(trials, f"try_{name}")
    try:
        told: dict[str, Any] = trial(module, detail) if detail else trial(module)
    except errors.ReparamError as error:
        said = ": ".join(part for part in (error.what, error.found) if part)
        # Paths in the temporary folder of the trial, which is gone, become names of files.
        sys.exit("error: " + re.sub(r"'\S*\.reparam-\w+\.part/files/", "'", said))
    return told


def _described(module: Any) -> dict[str, Any]:
    where = getattr(module, "__file__", None)
    if where is None:
        sys.exit(f"error: {next(iter(module.__path__))} is a folder, not the package")
    ir_version = getattr(module, "IR_VERSION", None)  # of onnx
    told = {"version": str(getattr(module, "__version__", "")), "where": str(where)}
    return told if ir_version is None else told | {"ir_version": int(ir_version)}


def _tell(answers: Any, step: str, values: dict[str, Any]) -> None:
    answers.write(json.dumps({"step": step, "values": values}) + "\n")
    answers.flush()


def _without_this_folder(entries: list[str]) -> list[str]:
    """Return the module path without the folder of this script, and with that of this package."""
    here = Path(__file__).resolve().parent
    kept = [entry for entry in entries if not entry or Path(entry).resolve() != here]
    return kept if str(ROOT) in kept else [*kept, str(ROOT)]


if __name__ == "__main__":
    sys.path[:] = _without_this_folder(sys.path)
    main(sys.argv[1])
