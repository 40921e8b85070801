"""Trying a package in a process of its own, which it may end, stall or print in as it likes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from reparam.supervision import child_environment, end_group, signal_name

CHILD = Path(__file__).resolve().parents[1] / "trials" / "child.py"
WORKS, FAILS, NOT_TRIED = "works", "fails", "not tried"

_LONGEST = 300  # characters of what a package says that are quoted
_RAISED = re.compile(r"[\w.]*(?:Error|Exception|Warning|Interrupt|Exit)\b: ")
_OURS = "error: "  # before what the child says itself
_GRACE = 10  # seconds that the process has beyond the limit, if nobody ends it


@dataclass(frozen=True)
class Step:
    """What became of importing a package, or of one trial of it.

    Attributes:
        name: ``import``, or that of the trial.
        state: ``works``, ``fails`` or ``not tried``.
        found: how it fails, in words.
        values: what it told where it works.
    """

    name: str
    state: str
    found: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


class Processes:
    """The processes that try packages; leaving the ``with`` block ends all of them."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False
        self._lock = Lock()  # several threads ask

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                end_group(process)

    def ask(self, module: str, steps: Sequence[str]) -> tuple[dict[str, Step], str]:
        """Return what became of importing a module and of the steps after it, and what it printed.

        The first step that fails ends the process: those behind it are not tried.
        """
        request = json.dumps({"module": module, "steps": list(steps),
                              "seconds": self._seconds + _GRACE})  # fmt: skip
        process = self._start([sys.executable, str(CHILD), request])
        if process is None:
            return {name: Step(name, NOT_TRIED) for name in ("import", *steps)}, ""
        try:
            output, log = process.communicate(timeout=self._seconds)
            ending = _ending(process.returncode, log)
        except subprocess.TimeoutExpired:
            end_group(process)
            output, log = _rest_of(process)
            ending = f"does not come to an end: it was ended after {self._seconds} s"
        finally:
            with self._lock:
                self._running.discard(process)
            end_group(process)  # and whatever it has started
            process.wait()
        return _steps(("import", *steps), output, ending), log

    def _start(self, command: list[str]) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(  # noqa: S603 - our own script and interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=child_environment(os.environ),
                start_new_session=True,  # so that all that it starts can be ended with it
            )
            self._running.add(process)
            return process


def _rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what an ended process had said, unless something outside its group holds its pipes."""
    try:
        return process.communicate(timeout=1)
    except subprocess.TimeoutExpired:
        return "", ""


def _ending(status: int, log: str) -> str:
    said = last_line(log)
    if status < 0:
        return f"ends the process ({signal_name(-status)})" + (f": {said}" if said else "")
    if status == 0:
        return "ends the process as if all was well" + (f": {said}" if said else "")
    return said or f"ends the process with exit status {status}"


def last_line(log: str) -> str:
    """Return the last line that states an error, else the last line, without its label."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line) or line.startswith(_OURS)]
    line = (raised or lines or [""])[-1].removeprefix(_OURS)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _steps(names: Sequence[str], output: str, ending: str) -> dict[str, Step]:
    told: dict[str, Any] = {}
    for line in output.splitlines():
        with suppress(ValueError, LookupError, TypeError):  # cut short, or of another process
            answer = json.loads(line)
            told[answer["step"]] = answer["values"]
    steps, failed = {}, False
    for name in names:
        if name in told:
            steps[name] = Step(name, WORKS, values=told[name])
        else:
            steps[name] = Step(name, NOT_TRIED) if failed else Step(name, FAILS, ending)
            failed = True
    return steps
