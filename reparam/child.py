"""The process in which a file from elsewhere is read: a script, started by its path.

It takes a request from stdin, calls one function, and sends what becomes of that to what was
stdout; what libraries print goes to stderr. Each message is its length in eight bytes, then a
pickle. The parent is :mod:`reparam.supervision`.
"""

from __future__ import annotations

import logging
import os
import pickle
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

HEAD = struct.Struct("<Q")
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_SIGKILL = 9  # by its number: Windows has no such name


class Channel:
    """The way to the parent; threads may share it."""

    def __init__(self) -> None:
        self._number = os.dup(1)
        os.dup2(2, 1)  # what is printed is no answer
        self._lock = threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        """Send one message.

        Raises:
            Exception: the content cannot be pickled. Nothing was sent.
        """
        data = pickle.dumps((kind, content))
        with self._lock, os.fdopen(os.dup(self._number), "wb") as stream:
            stream.write(HEAD.pack(len(data)) + data)


class _Forwarding(logging.Handler):
    """Hands what the package logs to the parent, which decides where it goes."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send("log", (record.name, record.levelno, record.getMessage()))


def main() -> None:
    """Answer requests until there are no more."""
    if sys.platform == "win32":
        import msvcrt

        for number in (0, 1):
            msvcrt.setmode(number, os.O_BINARY)
    channel = Channel()
    request = _received()
    if request is None:
        return
    sys.path[:] = request["path"]
    _end_with(request["parent"])
    log = logging.getLogger("reparam")
    log.addHandler(_Forwarding(channel))
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        function = _found(request["function"])
        _limit(request["memory"])
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent tells it
        _send_error(channel, error)
        return
    while (given := _received()) is not None:
        _answer(channel, function, given)


def _answer(channel: Channel, function: Callable[..., Any], given: dict[str, Any]) -> None:
    options = given["options"]
    if given["teller"]:
        options[given["teller"]] = lambda message: channel.send("tell", str(message))
    try:
        channel.send("result", function(*given["arguments"], **options))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent tells it
        _send_error(channel, error)


def _send_error(channel: Channel, error: BaseException) -> None:
    """Send an error with its traceback; one that cannot be sent as it is becomes text."""
    if isinstance(error, MemoryError):
        del error
        channel.send("memory", "")
        return
    lines = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - of this process
        channel.send("error", (error, lines))
    except Exception:  # noqa: BLE001 - an error of a library may break in any way
        channel.send("error", (RuntimeError(f"{type(error).__name__}: {error}"), lines))


def _received() -> dict[str, Any] | None:
    """Return the next request; None if the parent has no more, or is gone."""
    head = _read(HEAD.size)
    data = b"" if head is None else _read(HEAD.unpack(head)[0])
    return pickle.loads(data) if data else None  # noqa: S301 - the parent is this program


def _read(size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _found(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def _end_with(parent: int) -> None:
    """End this process when its parent ends, in whatever way; where Linux does that for us."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, _SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _limit(memory: int | None) -> None:
    """Limit what this process and those that it starts may map, beyond what is mapped now.

    Libraries map much more than they use, the more so the more cores there are; what they take
    when they are imported is no fault of the file.
    """
    if memory is None or sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - a cheap start
        mapped = int(stream.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + memory
    if soft != resource.RLIM_INFINITY:  # the user's own, which is never raised
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


if __name__ == "__main__":
    main()
