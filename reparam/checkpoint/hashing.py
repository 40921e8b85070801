"""SHA-256 beside the work: of a file that is being read, and of one that is being written."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, NamedTuple, Protocol

from reparam.errors import CheckpointError

_CHUNK = 1 << 20


class Writable(Protocol):
    """What has a ``write`` for bytes."""

    def write(self, data: bytes | memoryview, /) -> int: ...


class CheckSum(NamedTuple):
    """The CRC-32 that a file gives for its own bytes from ``start`` to ``stop``."""

    start: int
    stop: int
    crc: int
    name: str


class FileHash:
    """The SHA-256 of a file, computed in a thread from now on; asking for it waits.

    Args:
        sums: apart from each other; checked on the way.
    """

    def __init__(self, path: Path, sums: Iterable[CheckSum] = ()) -> None:
        self._found: Future[str] = Future()
        # A daemon, so that an error elsewhere need not wait for the end of a large file.
        Thread(target=self._run, args=(path, sums), name="sha256", daemon=True).start()

    def hexdigest(self) -> str:
        """Return it in hexadecimal.

        Raises:
            OSError: the file could not be read.
            CheckpointError: a check sum is wrong.
        """
        return self._found.result()

    def _run(self, path: Path, sums: Iterable[CheckSum]) -> None:
        try:
            self._found.set_result(_of_file(path, sums))
        except (OSError, CheckpointError) as error:
            self._found.set_exception(error)


class HashingWriter:
    """A file to write to that knows the SHA-256 of what was written; a context manager.

    Large pieces are hashed in a thread while the next is made. They must not change afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._stream: IO[bytes] = path.open("wb")
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._pending: Future[None] | None = None

    def __enter__(self) -> HashingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        self._stream.close()

    def write(self, data: bytes | memoryview) -> int:
        self._settle()
        if len(data) < _CHUNK:
            self._digest.update(data)
        else:
            self._pending = self._pool.submit(self._digest.update, data)
        return self._stream.write(data)

    def hexdigest(self) -> str:
        """Return the SHA-256 of everything written so far, in hexadecimal."""
        self._settle()
        return self._digest.hexdigest()

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _of_file(path: Path, sums: Iterable[CheckSum]) -> str:
    digest, chunk = hashlib.sha256(), bytearray(_CHUNK)
    checked = _Checked(path, sums)
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(chunk):
            digest.update(memoryview(chunk)[:size])
            checked.update(memoryview(chunk)[:size])
    return digest.hexdigest()


class _Checked:
    """Compares check sums with a file that comes in pieces."""

    def __init__(self, path: Path, sums: Iterable[CheckSum]) -> None:
        self._path = path
        self._sums = sorted(sums, reverse=True)  # the first one last
        self._crc = self._position = 0

    def update(self, piece: memoryview) -> None:
        end = self._position + len(piece)
        while self._sums and self._sums[-1].start < end:
            start, stop, crc, name = self._sums[-1]
            part = piece[max(start - self._position, 0) : stop - self._position]
            self._crc = zlib.crc32(part, self._crc)
            if stop > end:
                break
            if self._crc != crc:
                raise CheckpointError(
                    f"'{self._path}' is damaged: '{name}' does not have its check sum",
                    found=f"CRC-32 {self._crc:08x}; needed: {crc:08x}",
                    why="some of the weights are not those that were saved",
                    hint="copy or download the file again",
                )
            self._sums.pop()
            self._crc = 0
        self._position = end
