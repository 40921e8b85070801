"""Files as torch.save writes them, made without PyTorch: whole ones, and wrong ones.

The real thing is in tests/golden; what is written here is held to it by test_torch_files.py.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
KINDS = {
    "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16",
    "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
    "bool": "Bool",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names; nothing of that name need exist."""

    module: str
    name: str

    def __call__(self) -> None:
        """Only so that the pickler takes it for something to call."""


class Call:
    """Pickles as a call of what ``function`` names."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Storage:
    """Bytes outside the pickle."""

    def __init__(self, raw: bytes, kind: str, count: int, key: str | None = None) -> None:
        self.raw, self.kind, self.count, self.key = raw, kind, count, key


@dataclass(frozen=True)
class Reference:
    """A persistent id, whatever it is."""

    identifier: Any


def storage(array: np.ndarray) -> Storage:
    return Storage(array.tobytes(), KINDS[array.dtype.name], array.size)


def tensor(array: np.ndarray) -> Call:
    """Return a tensor with a storage of its own."""
    steps = np.zeros(array.shape).strides
    return view(storage(array), 0, array.shape, tuple(step // 8 for step in steps))


def view(held: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Call:
    hooks = Call(OrderedDict)
    return rebuilt("_rebuild_tensor_v2", held, offset, size, stride, False, hooks, *more)


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Call]:
    return {key: tensor(array) for key, array in arrays.items()}


def rebuilt(name: str, *arguments: Any) -> Call:
    """Return the call of one of PyTorch's functions that make tensors."""
    return Call(Name("torch._utils", name), *arguments)


def typed(array: np.ndarray, dtype: str) -> Call:
    """Return a tensor of a dtype that has no kind of storage."""
    held = Storage(array.tobytes(), "storage.Untyped", array.nbytes)
    steps = tuple(step // array.itemsize for step in array.strides)
    more = (False, OrderedDict(), Name("torch", dtype))
    return rebuilt("_rebuild_tensor_v3", held, 0, array.shape, steps, *more)


class _Pickler(pickle._Pickler):
    def __init__(self, stream: io.BytesIO, protocol: int, legacy: bool) -> None:
        super().__init__(stream, protocol)
        self.legacy = legacy
        self.storages: dict[str, Storage] = {}

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Reference):
            self.save(obj.identifier)
            self.write(b"Q")
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        if obj.key is None:
            obj.key = str(len(self.storages))
        self.storages[obj.key] = obj
        kind = Name("torch", f"{obj.kind}Storage")
        identifier = ("storage", kind, obj.key, "cpu", obj.count)
        return (*identifier, None) if self.legacy else identifier


def pickled(value: Any, protocol: int, legacy: bool = False) -> tuple[bytes, dict[str, Storage]]:
    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol, legacy)
    pickler.dump(value)
    return stream.getvalue(), pickler.storages


def zipped(
    value: Any,
    *,
    protocol: int = 2,
    folder: str = "archive",
    change: Callable[[dict[str, bytes]], None] = lambda _: None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return the zip file of ``value``.

    Args:
        change: what to do with the entries before they are written.
    """
    pickle, storages = pickled(value, protocol)
    entries = {"data.pkl": pickle, "byteorder": b"little"}
    entries.update({f"data/{key}": held.raw for key, held in storages.items()})
    entries["version"] = b"3\n"
    change(entries)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, contents in entries.items():
            info = zipfile.ZipInfo(f"{folder}/{name}")
            info.compress_type = compression
            # An extra field that puts the contents at a multiple of 64, as torch.save does.
            start = stream.tell() + 30 + len(info.filename) + 4
            info.extra = b"FB" + struct.pack("<H", -start % 64) + b"Z" * (-start % 64)
            archive.writestr(info, contents)
    return stream.getvalue()


def without_sums(contents: bytes) -> bytes:
    """Return a zip file that says of no entry what its check sum is."""
    found, place = bytearray(contents), 0
    while (place := contents.find(b"PK\x01\x02", place + 1)) > 0:
        found[place + 16 : place + 20] = bytes(4)
    return bytes(found)


def legacy(value: Any, *, protocol: int = 2) -> bytes:
    """Return the file of ``value`` in the form before PyTorch 1.6."""
    head = b"".join(pickle.dumps(part, protocol) for part in (MAGIC, PROTOCOL, MACHINE))
    body, storages = pickled(value, protocol, legacy=True)
    keys = sorted(storages)
    tail = b"".join(struct.pack("<q", storages[key].count) + storages[key].raw for key in keys)
    return head + body + pickle.dumps(keys, protocol) + tail


def every_dtype() -> dict[str, np.ndarray]:
    numbers = np.arange(12).reshape(3, 4)
    return {
        **{name: numbers.astype(name) for name in KINDS if name != "bfloat16"},
        "bfloat16": numbers.astype(ml_dtypes.bfloat16),
        "scalar": np.array(0.37),
        "empty": np.zeros((0, 3), np.float32),
    }


def put(folder: Path, contents: bytes, name: str = "x.pth") -> Path:
    path = folder / name
    path.write_bytes(contents)
    return path


FORMS = {"zip": zipped, "legacy": legacy}
