"""What every test runs with."""

from __future__ import annotations

import compileall
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Tests start hundreds of `reparam` processes, and compiling the source is half of the time of each.
# It is compiled here once, whatever the environment says. They write no byte code themselves: some
# run on a full disk, where Python leaves a file that is cut short.
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" not in os.environ:
    for folder in ("reparam", "models"):
        compileall.compile_dir(ROOT / folder, quiet=2)
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# pytest imports readline, which sets these behind the back of Python: for the processes that tests
# start, and in the workers of xdist, which are such processes.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)
    os.unsetenv(variable)


@pytest.fixture(autouse=True)
def _graphs_are_read_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no process for each graph: tests/supervision and tests/hostile test that it is done."""
    monkeypatch.setattr("reparam.supervision.supervised", _in_this_process)


def _in_this_process(
    function: str,
    *arguments: Any,
    limits: Any = None,
    files: Any = (),
    writes: Any = (),
    what: str = "",
    error: Any = None,
    teller: str = "",
    **options: Any,
) -> Any:
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments, **options)
