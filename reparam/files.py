"""Output files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reparam.errors import OutputError


def check_output(path: Path, force: bool = False) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        OutputError: the folder does not exist, the path is a folder, or a file is there already
            and ``force`` is not set.
    """
    if path.is_dir():
        raise OutputError(
            f"cannot write '{path}'", found="a folder of that name", hint="name a file"
        )
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot write '{path}'",
            found=f"no folder '{path.parent}'",
            hint="create the folder, or write elsewhere with -o",
        )
    if path.exists() and not force:
        raise OutputError(
            f"'{path}' exists already",
            why="nothing is overwritten without being asked",
            hint="--force replaces it, -o writes elsewhere",
        )


@contextmanager
def whole_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` when the block ends well.

    Whatever ends the block otherwise, Ctrl-C included, leaves neither the file nor the temporary.

    Raises:
        OutputError: as :func:`check_output`, or the disk refuses the write.
    """
    check_output(path, force)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write in '{path.parent}'", found=error.strerror or "") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _put_in_place(temporary, path, force)
    except OSError as error:
        raise OutputError(f"cannot write '{path}'", found=error.strerror or str(error)) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _put_in_place(temporary: Path, path: Path, force: bool) -> None:
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    if force:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, this never replaces what came there meanwhile
    except FileExistsError as error:
        raise OutputError(f"'{path}' appeared while it was being made", hint="--force") from error
    except OSError:  # a file system without hard links
        temporary.replace(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
