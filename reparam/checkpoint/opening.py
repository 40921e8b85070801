"""Opening files that were named by a user: never a download, never a wait."""

from __future__ import annotations

import mmap
import os
import re
import stat
from pathlib import Path

from reparam.errors import CheckpointError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)")  # Path makes one slash of two
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)
TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".pth.tar", ".pt.tar", ".bin")
ENDINGS = (".pdparams", ".pdema", ".safetensors", *TORCH_ENDINGS)  # of checkpoints
_LISTED = 4


def check_input(path: Path) -> None:
    """Refuse what is no file that can be read, before anything else is done.

    Raises:
        CheckpointError: a URL, a folder, a pipe or a device; missing, or not readable.
    """
    os.close(_opened(path))


def mapped(path: Path) -> mmap.mmap:
    """Return the contents of a file, mapped into memory.

    Raises:
        CheckpointError: as :func:`check_input`, or the file is empty.
    """
    handle = _opened(path)
    try:
        if not os.fstat(handle).st_size:
            raise CheckpointError(f"'{path}' is empty")
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    """Return a handle of a regular file; opening a pipe would wait for its other end."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        url = _URL.match(str(path))
        if url and not path.exists():
            raise CheckpointError(
                f"'{url[1]}//{url[2]}' is a URL, not a file",
                why="reparam never downloads anything",
                hint="download the file first, then name it here",
            ) from error
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    raise _not_a_file(path, mode)


def _unreadable(path: Path, found: str) -> CheckpointError:
    return CheckpointError(f"cannot read '{path}'", found=found)


def _not_a_file(path: Path, mode: int) -> CheckpointError:
    kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
    inside: list[str] = []
    if stat.S_ISDIR(mode):
        inside = sorted(str(p) for p in path.iterdir() if p.name.endswith(ENDINGS))
    return CheckpointError(
        f"cannot read '{path}'",
        found=f"{kind}; needed: a file",
        hint=f"name a file in it: {', '.join(inside[:_LISTED])}" if inside else "",
    )
