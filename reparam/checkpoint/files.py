"""Checkpoint files: named arrays, read without running anything and written whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from reparam.checkpoint.hashing import FileHash, HashingWriter
from reparam.checkpoint.pickle_reader import read_pickle
from reparam.checkpoint.pickle_writer import NAME_TABLE, write_pickle
from reparam.checkpoint.safetensors_writer import write_safetensors
from reparam.errors import CheckpointError
from reparam.files import whole_file

Arrays = dict[str, np.ndarray[Any, Any]]

PDPARAMS, SAFETENSORS = "pdparams", "safetensors"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip file, as PyTorch writes (.pth); this version reads .pdparams and "
    ".safetensors",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for; run 'git lfs pull'",
    b"<!DOCTYPE": "a web page; the download did not give the file",
    b"<html": "a web page; the download did not give the file",
    b"\x1f\x8b": "a gzip file; unpack it first",
}


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of one file.

    ``arrays`` are read-only and in the order of the file; ``names`` is Paddle's table from keys
    to the names that parameters have in a static program (empty where the file has none).
    ``pages`` is the memory-mapped file that the arrays are views of, None if they are copies.
    """

    path: Path
    format: str
    arrays: Arrays
    hash: FileHash = field(repr=False)
    names: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    pages: mmap.mmap | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal; computed in the background, so this may wait."""
        return self.hash.hexdigest()

    def forget_pages(self) -> None:
        """Give back the memory that reading arrays took; they are read again when used again."""
        if self.pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: array.shape for key, array in self.arrays.items()}


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a ``.pdparams`` or ``.safetensors`` file; the contents decide, not the ending.

    Raises:
        UnsafeCheckpointError: a pickle that names code. None of it is run.
        CheckpointError: missing, empty, truncated, of another format, or not weights.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            return _load(path, stream)
    except OSError as error:
        raise CheckpointError(
            f"cannot read '{path}'", found=error.strerror or str(error)
        ) from error
    except CheckpointError as error:
        if f"'{path}'" in error.what:
            raise
        raise error.located(f"cannot read '{path}': {error.what}") from error


def save_checkpoint(
    path: str | Path,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    *,
    names: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write ``arrays`` whole or not at all; the ending of ``path`` chooses the format.

    A ``.pdparams`` file loads in ``paddle.load`` under NumPy 1 and 2. ``names`` is kept in
    ``.pdparams`` files and ``metadata`` in ``.safetensors`` files.

    Raises:
        OutputError: the folder is missing, the file exists and ``force`` is not set, or the disk
            refuses.
        CheckpointError: the ending is neither of the two.
    """
    path = Path(path)
    kind = format_of(path)
    with whole_file(path, force) as temporary:
        write_arrays(temporary, kind, arrays.items(), names=names, metadata=metadata)


def format_of(path: Path) -> str:
    """Return the checkpoint format that the ending of ``path`` means.

    Raises:
        CheckpointError: it means none.
    """
    kind = path.suffix.lstrip(".")
    if kind not in (PDPARAMS, SAFETENSORS):
        raise CheckpointError(
            f"cannot write '{path}': the ending says no format",
            found=f"'{path.suffix}'",
            hint=f"end it in .{PDPARAMS} or .{SAFETENSORS}",
        )
    return kind


def write_arrays(
    path: Path,
    kind: str,
    arrays: Iterable[tuple[str, np.ndarray[Any, Any]]],
    *,
    names: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write named arrays to ``path`` in the format ``kind``, in place; see save_checkpoint.

    Returns:
        The SHA-256 of the file. A ``.pdparams`` file is written array by array as they come.
    """
    with HashingWriter(path) as stream:
        if kind == PDPARAMS:
            write_pickle(stream, _numbers(arrays), names or {})
        else:
            write_safetensors(stream, dict(_numbers(arrays)), metadata or {})
        return stream.hexdigest()


def _numbers(
    arrays: Iterable[tuple[str, np.ndarray[Any, Any]]],
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for key, array in arrays:
        if array.dtype.kind not in "fiub":
            raise CheckpointError(f"cannot write '{key}'", found=f"values of type {array.dtype}")
        yield key, array


def _load(path: Path, stream: IO[bytes]) -> Checkpoint:
    if not path.stat().st_size:
        raise CheckpointError(f"'{path}' is empty")
    pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    buffer = memoryview(pages)
    _refuse_other_formats(path, bytes(buffer[:64]))
    if buffer[0] == 0x80:
        arrays, names = _weights(read_pickle(buffer))
        return Checkpoint(path, PDPARAMS, arrays, FileHash(path), names, pages=pages)
    arrays, metadata = _load_safetensors(path)
    return Checkpoint(path, SAFETENSORS, arrays, FileHash(path), metadata=metadata)


def _refuse_other_formats(path: Path, head: bytes) -> None:
    for magic, description in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise CheckpointError(f"'{path}' is not a checkpoint", found=description)
    if head[0] != 0x80 and head[8:9] != b"{":
        raise CheckpointError(
            f"'{path}' is not a checkpoint",
            found=f"a file that begins with {head[:8]!r}",
            hint=f"reparam reads .{PDPARAMS} (pickle protocol 2 to 5) and .{SAFETENSORS} files",
        )


def _weights(value: Any) -> tuple[Arrays, dict[str, str]]:
    """Take the arrays out of what a pickle holds."""
    if not isinstance(value, dict):
        raise CheckpointError("the file holds no dict of named weights")
    table = value.pop(NAME_TABLE, {})
    arrays, others = {}, []
    for key, item in value.items():
        array = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if isinstance(key, str) and isinstance(array, np.ndarray):
            arrays[key] = array
        else:
            others.append(key)
    if others:
        _refuse_non_weights(others[0], value[others[0]], len(others))
    if not arrays:
        raise CheckpointError("the file holds no weights", found="an empty dict")
    names = table.items() if isinstance(table, dict) else ()
    return arrays, {k: n for k, n in names if isinstance(n, str) and k in arrays}


def _refuse_non_weights(key: Any, item: Any, count: int) -> None:
    nested = isinstance(item, dict) and any(isinstance(a, np.ndarray) for a in item.values())
    raise CheckpointError(
        f"the file holds {count} entries that are no arrays, '{str(key)[:80]}' first",
        found="weights nested under that name" if nested else f"a {type(item).__name__}",
        why="only a flat dict of named arrays is a state dict",
        hint="save the state dict alone: paddle.save(model.state_dict(), 'x.pdparams')",
    )


def _load_safetensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            arrays = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
            metadata = dict(tensors.metadata() or {})
    except (SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' is not a usable .safetensors file", found=str(error).splitlines()[0]
        ) from error
    if not arrays:
        raise CheckpointError(f"'{path}' holds no weights")
    for array in arrays.values():
        array.flags.writeable = False
    return arrays, metadata
