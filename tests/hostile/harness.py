"""Commands on hostile files: what they answer, take and leave, all their processes together.

A case is a file that a function makes. ``Case.commands`` says which commands take such a file;
:func:`run` runs one, and :func:`check` holds it to the ceilings.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 8
"""Seconds that commands are given by ``--timeout``."""
SECONDS = 12
"""What a command may take, its start and its end included."""
MEMORY = 1 << 30
"""Bytes that all processes of a command may hold at once."""

_EVERY = 0.03  # seconds between two looks at the processes
_GRACE = 1.0  # seconds in which an ended process has to be gone
_STUCK = 60.0  # seconds until a command is killed; the test fails by SECONDS then
_MARK = "REPARAM_HOSTILE"  # an environment variable by which all processes of a command are found
_TRACES = ("Traceback", "Exception ignored", "Fatal Python error")


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        name: of the case, which is that of its test too.
        make: writes the file into a folder that it is given, and returns the path for the command.
        says: what the message says of it; empty where the file is used.
        kind: ``"onnx"``, ``"static"``, ``"checkpoint"`` or ``"configuration"``.
        code: exit status of a command that reads all of the file.
    """

    name: str
    make: Callable[[Path], Path]
    says: str = ""
    kind: str = "onnx"
    code: int = 2


@dataclass(frozen=True)
class Ran:
    """One command on one file.

    Attributes:
        code: exit status; negative where a signal ended it.
        seconds: from start to end.
        memory: most bytes that its processes held at once.
        left: files that it left in the working folder or in TMPDIR, and processes.
    """

    command: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float
    memory: int
    left: tuple[str, ...]


def run(arguments: Sequence[object], folder: Path, *, script: Sequence[str] = ()) -> Ran:
    """Run a command in ``folder``, in which its files are, and watch it to its end.

    Args:
        arguments: of ``reparam``.
        folder: the working folder; TMPDIR is another one.
        script: what runs in place of ``python -m reparam``.
    """
    command = [*(script or (sys.executable, "-m", "reparam")), *map(str, arguments)]
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir(exist_ok=True)
    before, mark = _files(folder), secrets.token_hex(8)
    environment = {**os.environ, "TMPDIR": str(temporary), _MARK: mark}
    out, err = (folder.with_name(f"{folder.name}.{name}") for name in ("stdout", "stderr"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout,
            stderr=stderr, start_new_session=True,
        )  # fmt: skip
        memory = _watch(process, mark, started)
        seconds = time.monotonic() - started
    left = [f"process {process_id}" for process_id in _end_all(mark)]
    left += [f"{path} in TMPDIR" for path in sorted(_files(temporary))]
    new = _files(folder) - before
    left += [str(p) for p in sorted(new) if process.returncode or p.name.startswith(".")]
    shutil.rmtree(temporary)
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
    return Ran(tuple(command), process.returncode, *texts, seconds, memory, tuple(left))


def check(ran: Ran, *, code: int = 2, says: str = "") -> None:
    """Assert the right exit status, one message at most, and the ceilings."""
    told = f"{ran.command}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    assert ran.code == code, told
    assert not any(trace in ran.stderr for trace in _TRACES), told
    assert ran.stderr.count("Error:") == (1 if code == 2 else 0), told
    assert says in ran.stderr + ran.stdout, told
    assert not any(sign in ran.stderr + ran.stdout for sign in ("\x1b", "\r")), told
    assert not ran.left, f"{ran.left}\n{told}"
    assert ran.seconds <= SECONDS, f"{ran.seconds:.1f} s\n{told}"
    assert ran.memory <= MEMORY, f"{ran.memory / 2**20:.0f} MiB\n{told}"


def _watch(process: subprocess.Popen[bytes], mark: str, started: float) -> int:
    """Return the most bytes that the processes with a mark held at once, when the first is over."""
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(_resident, _marked(mark))))
        if time.monotonic() > started + _STUCK:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(_EVERY)
    return most


def _marked(mark: str) -> list[int]:
    """Return the processes that inherited a mark; those of other users are not readable."""
    sought = f"{_MARK}={mark}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if sought in (path / "environ").read_bytes():
                    found.append(int(path.name))
    return found


def _resident(process_id: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    return 0


def _end_all(mark: str) -> list[int]:
    """Return the processes that outlive the command, which are ended."""
    deadline = time.monotonic() + _GRACE
    while (alive := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(_EVERY)
    for process_id in alive:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
    return alive


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}
