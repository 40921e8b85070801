"""Output files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
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


@contextmanager
def whole_files(paths: Sequence[Path], force: bool = False) -> Iterator[list[Path]]:
    """Yield a path for each of ``paths`` to be written to; put all in place, or none.

    The paths that are yielded have the same names, in temporary folders beside the files, so that
    files may refer to each other by name. A file that the block does not write is left out.

    Raises:
        OutputError: as :func:`whole_file`.
    """
    with ExitStack() as stack:
        folders: dict[Path, Path] = {}
        for path in paths:
            if path.parent not in folders:
                folders[path.parent] = stack.enter_context(_folder_in(path.parent))
        temporary = [folders[path.parent] / path.name for path in paths]
        try:
            yield temporary
            _put_all_in_place(dict(zip(paths, temporary, strict=True)), force)
        except OSError as error:
            raise OutputError(
                f"cannot write '{paths[0]}'", found=error.strerror or str(error)
            ) from error


@contextmanager
def _folder_in(parent: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".reparam.", suffix=".part", dir=parent))
    except OSError as error:
        raise OutputError(f"cannot write in '{parent}'", found=error.strerror or "") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_all_in_place(files: Mapping[Path, Path], force: bool) -> None:
    """Put files in place one after the other; if one cannot be, put back what was there."""
    with ExitStack() as undo:
        for path, temporary in files.items():
            if not temporary.exists():
                continue
            check_output(path, force)
            before = temporary.with_name(f"{temporary.name}.before")
            if force and path.exists():
                _keep(path, before)
            _put_in_place(temporary, path, force)
            undo.callback(_put_back, path, before)
        undo.pop_all()


def _keep(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copy2(path, copy)


def _put_back(path: Path, before: Path) -> None:
    if before.exists():
        before.replace(path)
    else:
        path.unlink()
