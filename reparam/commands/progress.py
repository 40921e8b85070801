"""What a command is doing, told on stderr to those who wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from rich.status import Status

PATIENCE = 2.0  # seconds that a command may take before it says what it is doing


@contextmanager
def progress(first: str = "") -> Iterator[Callable[[str], None]]:
    """Yield a function that tells what is being done, beginning with ``first``.

    Nothing is shown of what is over in two seconds. Later there is one live line in a terminal;
    elsewhere what is being done and all that follows are lines of their own.
    """
    teller = _Teller(first)
    timer = Timer(PATIENCE, teller.begin)
    timer.daemon = True
    timer.start()
    try:
        yield teller.tell
    finally:
        timer.cancel()
        teller.end()


class _Teller:
    def __init__(self, first: str) -> None:
        self._latest = first
        self._shown = self._over = False
        self._status: Status | None = None
        self._lock = Lock()  # the timer has a thread of its own

    def tell(self, message: str) -> None:
        with self._lock:
            self._latest = message
            self._show()

    def begin(self) -> None:
        with self._lock:
            if not self._over:
                self._shown = True
                self._show()

    def end(self) -> None:
        with self._lock:
            self._over, self._shown = True, False
            if self._status:
                self._status.stop()

    def _show(self) -> None:
        if not self._shown or not self._latest:
            return
        if not sys.stderr.isatty():
            click.echo(self._latest, err=True)
        else:
            self._status = self._status or _live_line()
            room = self._status.console.width - len("- ...")
            more = "..." if len(self._latest) > room else ""
            self._status.update(self._latest[:room] + more)


def _live_line() -> Status:
    from rich.console import Console

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(stderr=True, highlight=False, markup=False, color_system=colours)
    status = console.status("", spinner="line")  # of characters that every terminal has
    status.start()
    return status
