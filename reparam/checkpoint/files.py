"""Checkpoint files: named arrays, read without running anything and written whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reparam.checkpoint.hashing import CheckSum, FileHash, HashingWriter
from reparam.checkpoint.layouts import Layout
from reparam.checkpoint.opening import TORCH_ENDINGS, mapped
from reparam.checkpoint.pickle_reader import read_pickle
from reparam.checkpoint.pickle_writer import write_pickle
from reparam.checkpoint.roles import QUANTISED
from reparam.checkpoint.safetensors_files import is_safetensors, read_safetensors
from reparam.checkpoint.safetensors_writer import write_safetensors
from reparam.checkpoint.selection import find_weights
from reparam.checkpoint.siblings import averaging_notices
from reparam.checkpoint.stored_forms import from_uint16, is_floating, name_of
from reparam.checkpoint.torch_archive import ZIP, read_archive
from reparam.checkpoint.torch_legacy import MAGIC, read_legacy
from reparam.errors import CheckpointError, OptimizerStateError, UnsupportedModelError
from reparam.files import whole_file

Arrays = dict[str, np.ndarray[Any, Any]]

PDPARAMS, SAFETENSORS = "pdparams", "safetensors"
TORCH = "torch"  # read, never written: .pth, .pt, .ckpt, .bin
_ENDINGS = {"pdparams": PDPARAMS, "pdema": PDPARAMS, "safetensors": SAFETENSORS}
_KEPT = 4 << 20  # bytes; forgetting after every array takes longer than reading small ones
_MOST_SHARING = 16  # how often a file may name the same bytes, on average
_OTHER_FORMATS = {
    b"PK\x05\x06": "an empty zip file",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for; run 'git lfs pull'",
    b"<!DOCTYPE": "a web page; the download did not give the file",
    b"<html": "a web page; the download did not give the file",
    b"\x1f\x8b": "a gzip file; unpack it first",
}


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """The arrays of one file.

    ``arrays`` are read-only and in the order of the file; ``names`` is Paddle's table from keys
    to the names that parameters have in a static program (empty where the file has none).
    ``layout`` says where in the file they stood; keys are as they are without its prefix.
    ``pages`` is the memory-mapped file that the arrays are views of, None if they are copies.
    """

    path: Path
    format: str
    arrays: Arrays
    hash: FileHash = field(repr=False)
    names: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    pages: mmap.mmap | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: {len(self.arrays)} arrays, {self.format}>"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal; computed in the background, so this may wait."""
        return self.hash.hexdigest()

    def forget_pages(self) -> None:
        """Give back the memory that reading arrays took; they are read again when used again."""
        if self.pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)

    def in_passing(
        self, arrays: Iterable[tuple[str, np.ndarray[Any, Any]]]
    ) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Yield ``arrays``, made of those of the file, and forget now and then what was read."""
        passed = 0
        for key, array in arrays:
            yield key, array
            passed += array.nbytes
            if passed >= _KEPT:
                self.forget_pages()
                passed = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: array.shape for key, array in self.arrays.items()}


def load_checkpoint(
    path: str | Path, *, prefix: str | None = None, accept_quantised: bool = False
) -> Checkpoint:
    """Read a ``.pdparams``, ``.safetensors`` or ``.pth`` file; the contents decide, not the ending.

    The weights are found where they stand: within other dicts, behind wrappers' prefixes, beside
    the state of an optimizer. ``Checkpoint.layout`` says what was found and what was left out.

    Args:
        prefix: use only the weights under this name or prefix, and take it off.
        accept_quantised: return a checkpoint of quantisation-aware training as well, which
            nothing but an inspection has a use for.

    Raises:
        UnsafeCheckpointError: a pickle that names code. None of it is run.
        PartError: several sets of weights could be meant, or ``prefix`` names none.
        OptimizerStateError: the file holds the state of an optimizer.
        CheckpointError: missing, empty, truncated, of another format, or not weights.
        UnsupportedModelError: a checkpoint of quantisation-aware training.
    """
    path = Path(path)
    try:
        checkpoint = _load(path, prefix)
    except OptimizerStateError as error:
        raise _without_weights(path, error) from error
    except CheckpointError as error:
        if f"'{path}'" in error.what:
            raise
        raise error.located(f"cannot read '{path}': {error.what}") from error
    if checkpoint.layout.kind == QUANTISED and not accept_quantised:
        _refuse_quantised(path)
    return checkpoint


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
    kind = _ENDINGS.get(path.suffix.lstrip("."))
    if kind is None and path.name.endswith(TORCH_ENDINGS):
        raise CheckpointError(
            f"cannot write '{path}': reparam reads files of PyTorch and writes none",
            why="such a file is a pickle, which runs code where it is loaded",
            hint=f"end it in .{SAFETENSORS}; PyTorch loads that by safetensors.torch.load_file",
        )
    if kind is None:
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
            write_pickle(stream, _without_uint16(_numbers(arrays)), names or {})
        else:
            write_safetensors(stream, dict(_numbers(arrays)), metadata or {})
        return stream.hexdigest()


def _numbers(
    arrays: Iterable[tuple[str, np.ndarray[Any, Any]]],
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for key, array in arrays:
        if array.dtype.kind not in "fiub" and not is_floating(array.dtype):
            raise CheckpointError(f"cannot write '{key}'", found=f"values of type {array.dtype}")
        yield key, array


def _without_uint16(
    arrays: Iterable[tuple[str, np.ndarray[Any, Any]]],
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for key, array in arrays:
        if name_of(array.dtype) == "uint16":
            raise CheckpointError(
                f"cannot write '{key}' to a .{PDPARAMS} file",
                found="values of type uint16",
                why="Paddle stores bfloat16 under that name, and would read them as such",
                hint=f"write a .{SAFETENSORS} file",
            )
        yield key, array


def _load(path: Path, prefix: str | None) -> Checkpoint:
    pages = mapped(path)
    buffer = memoryview(pages)
    _refuse_other_formats(path, buffer)
    kind, notices = PDPARAMS, []
    metadata: dict[str, str] = {}
    sums: list[CheckSum] = []
    if is_safetensors(buffer):
        kind = SAFETENSORS
        everything, metadata = read_safetensors(path, buffer)
        found = find_weights(everything, prefix)
        arrays = found.arrays
    elif is_torch(buffer):
        kind = TORCH
        value, sums = read_archive(buffer) if buffer[:4] == ZIP else (read_legacy(buffer), [])
        found = find_weights(value, prefix, len(buffer))
        arrays = found.arrays
    else:
        found = find_weights(read_pickle(buffer), prefix, len(buffer))
        notices = averaging_notices(path, found.names, prefix)
        arrays, count = from_uint16(found.arrays)
        if count:
            notices.append(f"{count} arrays of uint16 are bfloat16, which Paddle stores so")
    _refuse_multiplied(arrays, len(buffer))
    layout = replace(found.layout, notices=(*found.layout.notices, *notices))
    hashed = FileHash(path, sums)
    return Checkpoint(path, kind, arrays, hashed, found.names, metadata, layout, pages)


def is_torch(buffer: memoryview) -> bool:
    """Return whether a file was written by ``torch.save``, now or before PyTorch 1.6."""
    head = bytes(buffer[:64])
    return head.startswith(ZIP) or (head[:1] == b"\x80" and MAGIC in head)


def _refuse_multiplied(arrays: Arrays, size: int) -> None:
    """Refuse a small file that stands for endless weights by naming the same bytes many times."""
    total = sum(array.nbytes for array in arrays.values())
    if total > _MOST_SHARING * size:
        raise CheckpointError(
            "the weights are many times larger than the file",
            found=f"{total:,} bytes of weights in {size:,} bytes",
            why="such a file would fill memory and disk",
        )


def _without_weights(path: Path, error: OptimizerStateError) -> OptimizerStateError:
    beside = path.with_suffix(".pdparams")
    there = beside != path and beside.is_file()
    named = f"the weights are in '{beside}'"
    hint = named if there else "name the file of the weights saved with it"
    return OptimizerStateError(f"cannot read '{path}': {error.what}", hint=hint)


def _refuse_quantised(path: Path) -> None:
    raise UnsupportedModelError(
        f"'{path}' is a checkpoint of quantisation-aware training (QAT)",
        found="scales of quantisers beside the weights",
        why="the scales were trained for these weights; any fusion changes what they mean",
        hint="convert the network to deploy form before quantisation-aware training, as "
        "PaddleDetection does, and export the result with PaddleSlim",
    )


def _refuse_other_formats(path: Path, buffer: memoryview) -> None:
    head = bytes(buffer[:512])
    for magic, description in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise CheckpointError(f"'{path}' is not a checkpoint", found=description)
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"'{path}' is not a checkpoint",
            found="a tar file, or one of PyTorch before 0.2",
            hint="unpack it and name the checkpoint in it; an old one is read by torch.load and "
            "written anew by torch.save",
        )
    if not (head[0] == 0x80 or head.startswith(ZIP) or is_safetensors(buffer)):
        raise CheckpointError(
            f"'{path}' is not a checkpoint",
            found=f"a file that begins with {head[:8]!r}",
            hint=f"reparam reads .{PDPARAMS} (pickle protocol 2 to 5), .{SAFETENSORS} and .pth "
            "files",
        )
