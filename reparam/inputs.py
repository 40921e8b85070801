"""Opening files that were named by a user: never a download, never a wait."""

from __future__ import annotations

import mmap
import os
import re
import stat
from pathlib import Path

from reparam.errors import ReparamError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)")  # Path makes one slash of two
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)
_LISTED = 4


def check(path: Path, error: type[ReparamError], endings: tuple[str, ...] = ()) -> None:
    """Refuse what is no file that can be read, before anything else is done.

    Args:
        error: what to raise.
        endings: of files that are named instead, where ``path`` is a folder that holds some.

    Raises:
        ReparamError: a URL, a folder, a pipe or a device; missing, or not readable.
    """
    os.close(_opened(path, error, endings))


def mapped(path: Path, error: type[ReparamError], endings: tuple[str, ...] = ()) -> mmap.mmap:
    """Return the contents of a file, mapped into memory.

    Raises:
        ReparamError: as :func:`check`, or the file is empty.
    """
    handle = _opened(path, error, endings)
    try:
        if not os.fstat(handle).st_size:
            raise error(f"'{path}' is empty")
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise _unreadable(path, problem.strerror or str(problem), error) from problem
    finally:
        os.close(handle)


def small_text(path: Path, most: int, error: type[ReparamError], encoding: str = "utf-8") -> str:
    """Return the text of a file of at most ``most`` bytes.

    Raises:
        ReparamError: as :func:`check`; larger, or not of the encoding.
    """
    with os.fdopen(_opened(path, error), "rb") as stream:
        contents = stream.read(most + 1)
    if len(contents) > most:
        raise _unreadable(path, f"more than {most:,} bytes", error)
    try:
        return contents.decode(encoding)
    except UnicodeDecodeError as problem:
        raise _unreadable(path, "bytes that are not UTF-8", error) from problem


def _opened(path: Path, error: type[ReparamError], endings: tuple[str, ...] = ()) -> int:
    """Return a handle of a regular file; opening a pipe would wait for its other end."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as problem:
        url = _URL.match(str(path))
        if url and not path.exists():
            raise error(
                f"'{url[1]}//{url[2]}' is a URL, not a file",
                why="reparam never downloads anything",
                hint="download the file first, then name it here",
            ) from problem
        found = getattr(problem, "strerror", None) or str(problem)
        raise _unreadable(path, found, error) from problem
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    raise _not_a_file(path, mode, error, endings)


def _unreadable(path: Path, found: str, error: type[ReparamError]) -> ReparamError:
    return error(f"cannot read '{path}'", found=found)


def _not_a_file(
    path: Path, mode: int, error: type[ReparamError], endings: tuple[str, ...]
) -> ReparamError:
    kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
    inside: list[str] = []
    if stat.S_ISDIR(mode) and endings:
        inside = sorted(str(p) for p in path.iterdir() if p.name.endswith(endings))
    return error(
        f"cannot read '{path}'",
        found=f"{kind}; needed: a file",
        hint=f"name a file in it: {', '.join(inside[:_LISTED])}" if inside else "",
    )
