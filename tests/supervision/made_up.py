"""Functions that behave badly, to be called in a process of their own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reparam.drafts import hidden_folder
from reparam.errors import NotFusibleError


def add(a: Any, b: Any, tell: Callable[[str], None] = lambda _: None) -> Any:
    tell(f"adding {a}")
    os.write(1, b"what a library prints on stdout\n")
    return a + b


def say(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def log(text: str) -> None:
    logging.getLogger("reparam.made_up").warning("%s of %s", text, "the child")


def refuse() -> None:
    raise NotFusibleError("cannot fuse it", found="two", why="of three", hint="none")


def fail() -> None:
    raise ZeroDivisionError("by nought")


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


def fail_oddly() -> None:
    raise Odd(1, 2)


def nest() -> None:
    nest()


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def exit_with(status: int) -> None:
    os._exit(status)


def allocate(size: int) -> int:
    return len(bytearray(size))


def abort_for_memory() -> None:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.kill(os.getpid(), signal.SIGABRT)


def answer_with_a_lock() -> Any:
    import threading

    return threading.Lock()


def where() -> tuple[str, list[str]]:
    return tempfile.mkdtemp(), sys.path


def process_id() -> int:
    return os.getpid()


def start_another_and_hang(told: Path) -> None:
    """Leave a process, a temporary file and a draft behind, and hang."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    tempfile.mkdtemp()
    with hidden_folder(told.parent):
        told.with_suffix(".part").write_text(f"{other.pid} {os.getpid()}")
        told.with_suffix(".part").rename(told)
        time.sleep(100)
