"""The zip file that ``torch.save`` writes since PyTorch 1.6, without PyTorch.

One folder holds ``data.pkl`` (the pickle), ``data/N`` (a storage each), ``byteorder`` and
``version``. Nothing is compressed, so arrays are views of the mapped file. The standard library
reads the directory of the archive; each entry is then checked to lie in the file, apart from the
others.

Source: ``caffe2/serialize/inline_container.h`` and ``torch/serialization.py`` of PyTorch 2.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from itertools import pairwise
from typing import Any

from reparam.checkpoint.hashing import CheckSum
from reparam.checkpoint.pickle_reader import unpickled
from reparam.checkpoint.torch_objects import vocabulary
from reparam.errors import CheckpointError

ZIP = b"PK\x03\x04"

_HEADER = struct.Struct("<4s22xHH")  # of an entry: signature, lengths of its name and its extra
_LARGEST_DIRECTORY = 64 << 20  # bytes; 100 for each of half a million storages
_UNREADABLE = (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError,
               UnicodeDecodeError, ValueError, struct.error)  # fmt: skip
_CHECKPOINTS = (".pth", ".pt", ".pdparams", ".safetensors", ".bin", ".ckpt", ".tar")


def read_archive(buffer: memoryview) -> tuple[Any, list[CheckSum]]:
    """Return what a zip file of ``torch.save`` holds, and the check sums of its storages.

    Arrays are read-only views of ``buffer``.

    Raises:
        UnsafeCheckpointError: its pickle names code, which was not run.
        CheckpointError: a damaged archive, or one of another kind.
    """
    entries = _entries(buffer)
    folder = _folder(tuple(entries))
    order = bytes(_contents(buffer, entries.get(f"{folder}byteorder"), b"little"))
    if order not in (b"little", b"big"):
        raise CheckpointError("the byte order of the file is unknown", found=repr(order[:20]))

    def located(key: str, count: int, width: int) -> memoryview:
        entry = entries.get(f"{folder}data/{key}")
        if entry is None:
            raise CheckpointError(
                "the values of a tensor are missing",
                found=f"no entry 'data/{key}' in the archive",
                hint="copy or download the file again",
            )
        if entry.stop - entry.start != count * width:
            raise CheckpointError(
                "a storage has another size than its tensors say",
                found=f"'data/{key}' has {entry.stop - entry.start:,} bytes; needed: "
                f"{count * width:,}",
                hint="copy or download the file again",
            )
        return buffer[entry.start : entry.stop]

    pickle = entries[f"{folder}data.pkl"]
    _check_now(buffer, pickle)
    words = vocabulary(located, big_endian=order == b"big")
    value, _ = unpickled(buffer[pickle.start : pickle.stop], words)
    return value, [entry for entry in entries.values() if entry.crc and entry.start < entry.stop]


class _File:
    """A buffer as ``zipfile`` wants it, that gives no more at once than a directory takes."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        place = (0, self._position, len(self._buffer))[whence] + offset
        if place < 0:
            raise OSError("before the start of the file")
        self._position = place
        return place

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        stop = len(self._buffer) if count < 0 else self._position + count
        part = self._buffer[self._position : stop]
        if len(part) > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {len(part):,} bytes")
        self._position += len(part)
        return bytes(part)


def _entries(buffer: memoryview) -> dict[str, CheckSum]:
    """Return where each entry of the archive stands, by its name."""
    file: Any = _File(buffer)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except _UNREADABLE as error:
        raise CheckpointError(
            "the directory at the end of the zip file is missing or damaged",
            found=str(error),
            why="torch.save writes it last: a file that was cut off lacks it",
            hint="copy or download the file again and compare the size",
        ) from error
    _refuse_other_archives([info.filename for info in infos])
    entries: dict[str, CheckSum] = {}
    for info in infos:
        if info.filename in entries:
            raise _damaged(f"'{info.filename[:80]}' is there twice")
        entries[info.filename] = _place(buffer, info)
    for before, after in pairwise(sorted(entries.values())):
        if before.stop > after.start:
            raise _damaged(f"'{before.name[:80]}' and '{after.name[:80]}' share bytes")
    return entries


def _place(buffer: memoryview, info: zipfile.ZipInfo) -> CheckSum:
    name = info.filename[:80]
    if info.flag_bits & 1:
        raise CheckpointError("the zip file is encrypted", found=f"'{name}'")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CheckpointError(
            "the zip file is compressed, as torch.save never does",
            found=f"'{name}': {info.compress_size:,} bytes that stand for {info.file_size:,}",
            hint="unpack it; if that gives a folder with data.pkl, pack that with zip -0 -r",
        )
    start = info.header_offset
    if not 0 <= start <= len(buffer) - _HEADER.size:
        raise _damaged(f"'{name}' would begin at byte {start:,} of {len(buffer):,}")
    signature, name_length, extra_length = _HEADER.unpack_from(buffer, start)
    if signature != ZIP:
        raise _damaged(f"no entry at byte {start:,}, where '{name}' should be")
    start += _HEADER.size + name_length + extra_length
    if start + info.file_size > len(buffer):
        raise _damaged(f"'{name}' would end at byte {start + info.file_size:,} of {len(buffer):,}")
    return CheckSum(start, start + info.file_size, info.CRC, info.filename)


def _folder(names: tuple[str, ...]) -> str:
    """Return the folder that everything is in, with its slash."""
    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) == 1:
        return found[0].removesuffix("data.pkl")
    inside = [name for name in names if name.lower().endswith(_CHECKPOINTS)]
    raise CheckpointError(
        "a zip file that torch.save did not write",
        found=f"{len(found) or 'no'} FOLDER/data.pkl among {len(names)} entries",
        hint=f"unpack it and name '{inside[0][:80]}'" if inside else "",
    )


def _refuse_other_archives(names: list[str]) -> None:
    inner = [name.partition("/")[2] for name in names]
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise CheckpointError(
            "a TorchScript archive, as torch.jit.save writes it: a program with its weights",
            hint="save its weights alone: torch.save(torch.jit.load(FILE).state_dict(), "
            "'weights.pth')",
        )
    if "archive_format" in inner or "models/model.json" in inner:
        raise CheckpointError(
            "an archive of torch.export: a program with its weights",
            hint="save its weights alone: torch.save(torch.export.load(FILE).state_dict, "
            "'weights.pth')",
        )
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            "a NumPy archive (.npz), which is no checkpoint of PyTorch or Paddle",
            hint="reparam.save_checkpoint('x.safetensors', dict(numpy.load(FILE))) makes one of it",
        )


def _contents(buffer: memoryview, entry: CheckSum | None, default: bytes) -> bytes | memoryview:
    return default if entry is None else buffer[entry.start : entry.stop]


def _check_now(buffer: memoryview, entry: CheckSum) -> None:
    """Compare the check sum of a small entry; 0 says that it was not computed."""
    if entry.crc and zlib.crc32(buffer[entry.start : entry.stop]) != entry.crc:
        raise _damaged(f"'{entry.name}' does not have its check sum")


def _damaged(found: str) -> CheckpointError:
    return CheckpointError(
        "the zip file is damaged", found=found, hint="copy or download the file again"
    )
