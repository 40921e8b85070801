"""Work on files from elsewhere, in a process with a clock and a memory limit.

Native libraries parse, infer, load and run what is in an ONNX file; a file can make them crash,
never end or take all memory. So whoever is asked to use such a file starts one process for it:

    result = supervised("reparam.graph.pipeline:fuse_onnx", path, limits=Limits(timeout=60))

The process never outlives the call, nor does anything that it starts or leaves in TMPDIR, and each
way in which it can die is an error in our words.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

from reparam.child import HEAD
from reparam.drafts import clear_stale, scratch_folder
from reparam.errors import GraphError, ReparamError

CHILD = Path(__file__).with_name("child.py")
TIMEOUT = 600.0
"""Seconds by default: some hundred times what the largest network that we know of takes."""
MEMORY = 2 << 30
"""Bytes by default, besides those for the file: what runtimes map for themselves, and room."""
TIMES_THE_FILE = 8
"""A file is held as bytes, as parsed, as float64 of the proof, as written, and by two sessions."""

_LINES = 20  # of what a process says on stderr, kept to tell why it died
_LINE = 300  # characters of such a line that are told
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(?:([KMGT])i?)?B?", re.IGNORECASE)
_NATIVE = re.compile(r"\[[VIWEF]:onnxruntime:|^[IWEF]\d{4} |^(?:libc\+\+abi|terminate called)|"
                     r"^\[libprotobuf|^\s+what\(\):|^OpenBLAS ")  # fmt: skip
_ALLOCATION = re.compile(
    r"bad_alloc|failed to (?:allocate memory|map segment)|cannot allocate|memory allocation",
    re.IGNORECASE,
)
_SEARCHED = 1 << 28  # bytes
# A StringStringEntryProto with the key "location", then the length of its value and the value.
_LOCATION = re.compile(rb"\n\x08location\x12([\x01-\x7f])([^\x00]{1,127})", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Limits:
    """What the work on one file may take.

    Attributes:
        timeout: seconds from start to end.
        memory: bytes that a process may map beyond what libraries take as they are imported; None
            is :data:`MEMORY` and :data:`TIMES_THE_FILE` the size of the file. Kept on Linux only.
    """

    timeout: float = TIMEOUT
    memory: int | None = None

    def memory_for(self, files: Sequence[Path]) -> int:
        """Return the limit for work on some files, in bytes."""
        if self.memory is not None:
            return self.memory
        return MEMORY + TIMES_THE_FILE * sum(map(_size_with_data, files))


def supervised(
    function: str,
    *arguments: Any,
    limits: Limits | None = None,
    files: Sequence[Path] = (),
    writes: Sequence[Path] = (),
    what: str = "",
    error: type[ReparamError] = GraphError,
    teller: str = "",
    **options: Any,
) -> Any:
    """Return what a function returns in a process of its own.

    Args:
        function: ``package.module:name``; it, its arguments and its result can be pickled.
        limits: of the process.
        files: that it reads, for the memory limit.
        writes: files that it writes; drafts beside them are cleared away if it is killed.
        what: the first line of an error that says how the process died.
        error: of which class that is.
        teller: the keyword parameter that takes a function of one text; calls of it reach the
            one in ``options``.

    Raises:
        ReparamError: the function raised it, or the process died: by a signal, for want of
            memory or time, or without an answer.
    """
    limits = limits or Limits()
    with Child(function, limits.timeout, limits.memory_for(files), what=what, error=error) as child:
        try:
            return child.call(*arguments, teller=teller, **options)
        except BaseException:
            child.end()  # before what it locks is looked at
            for folder in {path.absolute().parent for path in writes}:
                clear_stale(folder)
            raise


class Child:
    """A process that calls one function, as often as it is asked.

    Leaving the ``with`` block ends it, all that it started, and its temporary folder.

    Args:
        function: ``package.module:name``.
        timeout: seconds for the start and the first call, then for each further one.
        memory: bytes, as in :class:`Limits`.
        what: the first line of an error that says how the process died.
        error: of which class that is.
    """

    def __init__(
        self,
        function: str,
        timeout: float,
        memory: int | None,
        *,
        what: str = "",
        error: type[ReparamError] = GraphError,
    ) -> None:
        self._function, self._timeout, self._memory = function, timeout, memory
        self._what, self._error = what or f"cannot run '{function}'", error
        self._messages: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._log: deque[str] = deque(maxlen=_LINES)

    def __enter__(self) -> Child:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            self._process = subprocess.Popen(  # noqa: S603 - our own script and interpreter
                [sys.executable, "-I", str(CHILD)],  # alone: the path comes with the request
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=child_environment(os.environ, folder),
                start_new_session=True,  # so that all that it starts can be ended with it
            )
            stack.callback(self._close)
            self._readers = [
                threading.Thread(target=read, args=(stream,), daemon=True)
                for read, stream in (
                    (self._read_messages, self._process.stdout),
                    (self._read_log, self._process.stderr),
                )
            ]
            for reader in self._readers:
                reader.start()
            self._deadline = time.monotonic() + self._timeout
            self._send({"function": self._function, "memory": self._memory, "path": sys.path,
                        "parent": os.getpid()})  # fmt: skip
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, *arguments: Any, teller: str = "", **options: Any) -> Any:
        """Return what the function returns; as :func:`supervised`.

        Raises:
            ReparamError: as :func:`supervised`.
        """
        tell = options.pop(teller, None) if teller else None
        self._send({"arguments": arguments, "options": options,
                    "teller": teller if tell is not None else ""})  # fmt: skip
        while True:
            kind, content = self._next()
            if kind == "result":
                self._deadline = time.monotonic() + self._timeout
                return content
            if kind == "tell" and tell is not None:
                tell(content)
            elif kind == "log":
                name, level, message = content
                logging.getLogger(name).log(level, "%s", message)
            elif kind == "memory":
                raise self._out_of_memory()
            elif kind == "error":
                self._deadline = time.monotonic() + self._timeout
                raise self._as_raised(*content)
            elif kind == "over":
                raise self._died()

    def end(self) -> None:
        """Kill the process and all that it started, now."""
        end_group(self._process)

    def _close(self) -> None:
        self.end()
        for reader in self._readers:
            reader.join(1)  # what has left the group may hold the pipes
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _send(self, request: Mapping[str, Any]) -> None:
        data = pickle.dumps(request)
        with suppress(BrokenPipeError):  # it died already; its end is told by call()
            stream = self._process.stdin
            assert stream is not None
            stream.write(HEAD.pack(len(data)) + data)
            stream.flush()

    def _next(self) -> tuple[str, Any]:
        try:
            return self._messages.get(timeout=max(self._deadline - time.monotonic(), 0))
        except queue.Empty as error:
            self.end()
            raise self._error(
                self._what,
                found=f"still running after {self._timeout:g} s; it was ended",
                hint="--timeout gives it more time",
            ) from error

    def _read_messages(self, stream: IO[bytes]) -> None:
        """Hand over what the process sends; the end of it, or what is no message, is the end."""
        with suppress(OSError, ValueError):
            while len(head := stream.read(HEAD.size)) == HEAD.size:
                (size,) = HEAD.unpack(head)
                data = stream.read(size)
                if len(data) != size:
                    break
                self._messages.put(pickle.loads(data))  # noqa: S301 - of our own process
        self._messages.put(("over", None))

    def _read_log(self, stream: IO[bytes]) -> None:
        """Pass on what is said on stderr, but for the lines of native libraries, which are kept."""
        with suppress(OSError, ValueError):
            for raw in stream:
                line = _COLOUR.sub("", raw.decode(errors="replace")).rstrip()
                self._log.append(_UNPRINTABLE.sub("?", line))
                if line and not _NATIVE.search(line) and sys.stderr is not None:
                    sys.stderr.write(self._log[-1] + "\n")

    def _as_raised(self, error: BaseException, lines: str) -> BaseException:
        if isinstance(error, ReparamError):
            return error
        if is_want_of_memory(error):
            return self._out_of_memory()
        if isinstance(error, RecursionError):
            return self._error(self._what, found="it is nested too deeply")
        error.__cause__ = _Remote(lines)
        return error

    def _out_of_memory(self) -> ReparamError:
        own = _system_limit()
        if own is not None and (self._memory is None or own <= self._memory):
            limit, hint = f" (the system's limit: {_in_mib(own)})", "ulimit -v unlimited"
        elif self._memory is not None:
            limit, hint = f" (its limit: {_in_mib(self._memory)})", "--memory-limit gives it more"
        else:
            limit = hint = ""
        return self._error(self._what, found=f"there is not enough memory{limit}", hint=hint)

    def _died(self) -> ReparamError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._readers[1].join(1)
        if any(_ALLOCATION.search(line) for line in self._log):
            return self._out_of_memory()
        said = next((line.strip() for line in reversed(self._log) if line.strip()), "")
        ending = ending_of(self._process.returncode)
        return self._error(
            self._what,
            found=f"the process that read it {ending}" + (f": {said[:_LINE]}" if said else ""),
            why="a library that reparam calls gave up on it",
        )


class _Remote(Exception):  # noqa: N818 - a traceback, not an error of its own
    """Carries the traceback of another process as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def memory_limit(text: str) -> int:
    """Return the bytes that a text such as ``4GiB``, ``500M`` or ``1000000`` means.

    Raises:
        ValueError: it means none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is no amount of memory: 4GiB, 500MiB")
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


def is_want_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory; a library's import does it, too."""
    if isinstance(error, MemoryError):
        return True
    found: BaseException | None = error if isinstance(error, ImportError | OSError) else None
    while found is not None and not _ALLOCATION.search(str(found)):
        found = found.__cause__ or found.__context__
    return found is not None


def child_environment(
    variables: Mapping[str, str], temporary: Path | None = None
) -> dict[str, str]:
    """Return the variables of a child: no package is installed in it, no index is asked.

    Args:
        temporary: the folder for its temporary files, if it has one of its own.
    """
    kept = {k: v for k, v in variables.items() if k != "POLYGRAPHY_AUTOINSTALL_DEPS"}
    own = {} if temporary is None else dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    return kept | own | {"PIP_NO_INDEX": "1", "PYTHONUNBUFFERED": "1", "GLOG_minloglevel": "2"}


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a session, and all in it; wait for its end."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # it is over
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def ending_of(status: int | None) -> str:
    """Return how a process ended, from its exit status, as the end of a sentence."""
    if status is None:
        return "did not end"
    if status >= 0:
        return f"ended with exit status {status} and no answer"
    return f"was ended by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """Return the name of a signal, or its number where it has none."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _system_limit() -> int | None:
    """Return the bytes that this process may map, if the system limits it."""
    if sys.platform != "linux":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _in_mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def _size_with_data(path: Path) -> int:
    """Return the bytes of a model and of its weights, which may be in files beside it."""
    if path.is_dir():
        return sum(map(_size, path.iterdir()))
    beside = {path.with_suffix(".pdiparams")} | {path.parent / name for name in _locations(path)}
    return _size(path) + sum(map(_size, beside - {path}))


def _locations(path: Path) -> set[str]:
    """Return the files that an ONNX file keeps weights in; nothing is parsed.

    Weights are outside where they are large, so a file that is large itself is not searched.
    """
    if not 0 < _size(path) < _SEARCHED:
        return set()
    with suppress(OSError, ValueError), path.open("rb") as stream:
        found = {match[2][: match[1][0]] for match in _LOCATION.finditer(stream.read())}
        names = {name.decode(errors="replace") for name in found}
        return {name for name in names if PurePath(name).name == name}
    return set()


def _size(path: Path) -> int:
    with suppress(OSError, ValueError):
        found = path.stat()
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0
