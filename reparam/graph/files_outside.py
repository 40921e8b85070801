"""Weights that a model keeps in other files: found beside it, and nowhere else."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from reparam.errors import GraphError

_DIGITS = 19  # of 2^63; Python refuses to read numbers of over 4,300


class DataFiles:
    """The files beside a model that hold data of its tensors, mapped into memory.

    Args:
        folder: of the model; nothing outside of it is opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pages: dict[Path, memoryview] = {}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that were opened, in order of their first use."""
        return tuple(self._pages)

    @property
    def size(self) -> int:
        """The bytes in all of them."""
        return sum(len(pages) for pages in self._pages.values())

    def part(self, where: Mapping[str, str], needed: int) -> memoryview:
        """Return the bytes of one tensor.

        Args:
            where: what the model says: ``location``, ``offset``, ``length``.
            needed: how many bytes the tensor has.

        Raises:
            GraphError: the place is outside of the folder, is not there, or is too short.
        """
        location = where.get("location", "")
        if not needed:
            self._inside(location)
            return memoryview(b"")
        offset, length = _number(where, "offset", 0), _number(where, "length", needed)
        pages = self._opened(location)
        if length != needed:
            raise damaged(f"{length} bytes of '{location}' are said to be its data", needed)
        if offset + needed > len(pages):
            raise GraphError(
                "weights are missing",
                found=f"'{location}' has {len(pages)} bytes; needed: {offset + needed}",
                hint="copy or download the file again",
            )
        return pages[offset : offset + needed]

    def _opened(self, location: str) -> memoryview:
        path = self._inside(location)
        if path not in self._pages:
            self._pages[path] = _mapped(path, location)
        return self._pages[path]

    def _inside(self, location: str) -> Path:
        """Return where a file really is, which has to be in the folder of the model."""
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        absolute = posix.is_absolute() or windows.drive or windows.root
        if absolute or ".." in posix.parts + windows.parts:
            raise _outside(location)
        try:
            folder = Path(os.path.realpath(self._folder))
            path = Path(os.path.realpath(folder / location))
        except ValueError as error:  # a NUL in the name
            raise _missing(location, "a null byte in the name") from error
        if not path.is_relative_to(folder):
            raise _outside(location, f"a link to '{path}'")
        if path == folder:
            raise _missing(location, "no file is named")
        return path


def _number(where: Mapping[str, str], key: str, default: int) -> int:
    text = where.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        shown = text if len(text) <= _DIGITS else f"{text[:_DIGITS]}..."
        raise damaged(f"the {key} of its data is '{shown}'")
    return int(text)


def _mapped(path: Path, location: str) -> memoryview:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise _missing(location, "no regular file")
            if about.st_nlink > 1 and about.st_uid != path.parent.stat().st_uid:
                raise _outside(location, "a second name of a file of someone else")
            if not about.st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(handle)
    except OSError as error:
        raise _missing(location, error.strerror or str(error)) from error


def _outside(location: str, found: str = "") -> GraphError:
    return GraphError(
        "weights may not be read from outside of its folder",
        found=f"'{location}' is named as their file" + (f", {found}" if found else ""),
        why="a file from elsewhere must not choose what is read on this machine",
        hint="put the model and its weights into one folder",
    )


def _missing(location: str, found: str) -> GraphError:
    return GraphError(
        "weights are missing",
        found=f"its data should be in '{location}': {found}",
        hint="put the file of weights beside the model, under the name that the model knows",
    )


def damaged(found: str, needed: int = 0) -> GraphError:
    """Return the error for a tensor whose data is not what its shape needs."""
    return GraphError(
        "the file is damaged, or was cut short",
        found=found + (f"; needed: {needed}" if needed else ""),
        hint="copy, download or export it again",
    )
