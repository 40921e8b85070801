"""What a command owes the system it runs in: its standard streams, signals, exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT  # what a shell reports for Ctrl-C
_BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)  # 13 wherever there is such a signal
# Windows has no SIGHUP.
_ENDING = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n))


class Ended(BaseException):
    """Another process asked this one to end: it unwinds, so that nothing is left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


@contextmanager
def ending_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into :class:`Ended` in the block, unless they are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in _ENDING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def keep_standard_streams() -> None:
    """Let any name be printed, and no file take the number of a stream that is closed.

    Whatever libraries print goes to numbers 1 and 2; an output file must never have them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what was printed now, where a failure can still be told.

    Raises:
        OSError: it cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def silence() -> None:
    """Let what is still to be printed go nowhere, without a complaint at the end."""
    target = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(target, stream.fileno())
    os.close(target)


def nobody_listens() -> int:
    """Return the exit code for a reader of the output that has gone, as after ``| head``."""
    silence()
    return _BROKEN_PIPE
