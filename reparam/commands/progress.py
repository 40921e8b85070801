"""What a command is doing, told on stderr to those who wait."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING, Literal

import click

from reparam.commands.output import NORMAL, VERBOSE, loudness

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 2.0  # seconds that a command may take before it says what it is doing
_LONG = 1.0  # seconds from which on it is told how long a step took
_BAR = 20  # characters
_ROOM_FOR_BAR = 60  # columns of a terminal; a narrower one shows the step alone


@contextmanager
def progress(first: str = "", steps: int | None = None) -> Iterator[Callable[[str], None]]:
    """Yield a function that tells the next step, beginning with ``first``.

    Nothing is shown of what is over in two seconds. Later there is one live line in a terminal,
    with a bar; elsewhere each step is a line, and one more with its seconds if it took long.
    ``--verbose`` shows it from the start, ``--quiet`` never.

    Args:
        steps: how many there are, if that is known: they are numbered then, ``[2/6] converting``.
    """
    teller = _Teller(steps)
    if first:
        teller.tell(first)
    if loudness() == VERBOSE:
        teller.begin()
    timer = Timer(PATIENCE, teller.begin)
    timer.daemon = True
    if loudness() == NORMAL:
        timer.start()
    try:
        yield teller.tell
    finally:
        timer.cancel()
        teller.end()


class _Teller:
    def __init__(self, steps: int | None) -> None:
        self._steps = steps
        self._number = 0
        self._latest = ""
        self._since = time.monotonic()
        self._shown = self._over = False
        self._live: Progress | None = None
        self._lock = Lock()  # the timer has a thread of its own

    def tell(self, message: str) -> None:
        with self._lock:
            self._finish()
            self._latest, self._number, self._since = message, self._number + 1, time.monotonic()
            self._show()

    def begin(self) -> None:
        with self._lock:
            if not self._over:
                self._shown = True
                self._show()

    def end(self) -> None:
        with self._lock:
            self._finish()
            self._over, self._shown = True, False
            if self._live:
                self._live.stop()

    @property
    def _step(self) -> str:
        steps = self._steps
        if steps is None or self._number > steps:
            return self._latest
        return f"[{self._number}/{steps}] {self._latest}"

    def _show(self) -> None:
        if not self._shown or not self._latest:
            return
        if not sys.stderr.isatty():
            click.echo(f"{self._step} ...", err=True)
            return
        self._live = self._live or _live_line(self._steps)
        width = self._live.console.width
        room = width - len("...  100 s") - (_BAR + 1 if width >= _ROOM_FOR_BAR else 0)
        more = "..." if len(self._step) > room else ""
        self._live.update(
            self._live.task_ids[0],
            description=self._step[:room] + more,
            completed=min(self._number - 1, self._steps or 0),
        )
        self._live.start()  # of a live line that is there already: nothing

    def _finish(self) -> None:
        """Tell how long a step took that was shown as a line."""
        took = time.monotonic() - self._since
        if self._shown and self._latest and took >= _LONG and not sys.stderr.isatty():
            click.echo(f"{self._step}: {took:.1f} s", err=True)


def _live_line(steps: int | None) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Seconds(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.elapsed or 0:.0f} s")

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(stderr=True, highlight=False, markup=False, color_system=colours)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), Seconds()]
    if console.width >= _ROOM_FOR_BAR:
        columns.insert(1, BarColumn(_BAR))
    live = Progress(*columns, console=console, transient=True)
    live.add_task("", total=steps)
    return live
