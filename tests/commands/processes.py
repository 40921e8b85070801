"""The command line in processes of its own, and machines on which something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reparam.__main__ import main

REPARAM = [sys.executable, "-m", "reparam"]
# What a script changes has to be changed where graphs are read, so that is in the same process.
MAIN = """
from importlib import import_module
from reparam import supervision
from reparam.__main__ import main

def in_this_process(function, *arguments, limits=None, files=(), writes=(), what="", error=None,
                    teller="", **options):
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments, **options)

supervision.supervised = in_this_process
main()
"""


def reparam(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a traceback is a failure whatever is tested."""
    return run([*REPARAM, *map(str, arguments)], **options)


def scripted(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command after ``script`` has changed something in its process."""
    return run([sys.executable, "-c", script + "\n" + MAIN, *map(str, arguments)], **options)


def forked(script: str, *arguments: object) -> int:
    """Return the exit code of what :func:`scripted` runs, in a copy of this process.

    The copy has imported everything already, which is most of the time of a small command.
    Nothing of it is read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the threads of xdist, which wait
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        exec(script, {})
        main([str(argument) for argument in arguments])
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    finally:
        os._exit(70)  # it ended in another way than a command does


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    chosen = {"capture_output": True, "text": True, "timeout": 120, **options}
    done = subprocess.run(command, **chosen)
    assert "Traceback" not in (done.stderr or "")
    assert "Exception ignored" not in (done.stderr or "")
    return done


def with_environment(**changes: str | None) -> dict[str, str]:
    """Return the environment with some variables changed, or removed where None."""
    merged = {**os.environ, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder; what is temporary counts."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def one_error(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Assert exit code 2 and one message that says all of ``said``."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("Error:") == 1
    for part in said:
        assert part in done.stderr
