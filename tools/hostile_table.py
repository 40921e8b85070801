"""Print the table of docs/hostile.md: each hostile file of the tests through one command.

    python -m tools.hostile_table [PART OF A NAME]

The files are those of the modules ``tests.hostile.*_files``, each a tuple ``CASES``; a module may
have a function ``command_of(case, path)`` that returns a command line, else it is ``fuse``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.hostile.harness import TIMEOUT, Case, Ran, run

FILES = Path(__file__).parents[1] / "tests" / "hostile"
HEAD = "| kind | input | bytes | answer | s | MiB |\n| --- | --- | ---: | --- | ---: | ---: |"
_LONGEST = 110  # characters of an answer


def main(part: str = "") -> None:
    """Print the rows of the cases whose names have ``part`` in them."""
    print(HEAD)
    for module, case in cases():
        if part in case.name:
            print(row(module, case), flush=True)


def cases() -> Iterator[tuple[Any, Case]]:
    """Yield every case, and the module that it is in."""
    for path in sorted(FILES.glob("*_files.py")):
        if path.stem.startswith("test_"):
            continue
        module = import_module(f"tests.hostile.{path.stem}")
        for case in module.CASES:
            yield module, case


def row(module: Any, case: Case) -> str:
    """Return the row of one case, which is run."""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "work"
        folder.mkdir()
        path = case.make(folder)
        size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
        command_of = getattr(module, "command_of", lambda _, path: ["fuse", path.name])
        ran = run([*command_of(case, path), "--timeout", TIMEOUT], folder)
    answer = answer_of(ran)
    seconds, memory = f"{ran.seconds:.1f}", f"{ran.memory / 2**20:.0f}"
    return f"| {case.kind} | {case.name} | {size:,} | {answer} | {seconds} | {memory} |"


def answer_of(ran: Ran) -> str:
    """Return the exit status, and what was found where that is not 0."""
    lines = [line.strip() for line in ran.stderr.splitlines()]
    found = [line.partition("found:")[2].strip() for line in lines if line.startswith("found:")]
    error = [line.partition("Error:")[2].strip() for line in lines if line.startswith("Error:")]
    text = (found or error or ["answered"])[0].replace("|", r"\|")
    left = f"; LEFT {', '.join(ran.left)}" if ran.left else ""
    return f"{ran.code}: {text if len(text) < _LONGEST else text[:_LONGEST] + '...'}{left}"


if __name__ == "__main__":
    main(*sys.argv[1:2])
