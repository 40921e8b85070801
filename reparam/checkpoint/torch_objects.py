"""What the names in a file of ``torch.save`` stand for: storages, and tensors as views of them.

A tensor is a storage (a run of bytes outside the pickle), an offset, sizes and strides. Several
tensors may share a storage; each becomes a read-only array over the bytes as they lie in the file.

Source: ``torch/_utils.py`` (``_rebuild_*``), ``torch/serialization.py`` (``persistent_id``,
``persistent_load``) and ``torch/storage.py`` of PyTorch 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from reparam.checkpoint.pickle_objects import (
    ARRAYS,
    CALLS,
    Name,
    Record,
    Vocabulary,
    as_tuple,
    shown,
)
from reparam.checkpoint.stored_forms import BFLOAT16, Unreadable, bfloat16
from reparam.errors import CheckpointError

_DTYPES = {
    "torch.float64": "f8", "torch.float32": "f4", "torch.float16": "f2", "torch.bfloat16": BFLOAT16,
    "torch.int64": "i8", "torch.int32": "i4", "torch.int16": "i2", "torch.int8": "i1",
    "torch.uint64": "u8", "torch.uint32": "u4", "torch.uint16": "u2", "torch.uint8": "u1",
    "torch.bool": "?",
}  # fmt: skip
_STORAGES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": BFLOAT16,
    "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
_OF_STORAGES = {
    **{f"torch.{m}{kind}Storage": code for m in ("", "cuda.") for kind, code in _STORAGES.items()},
    **{f"torch.{m}{untyped}Storage": "u1" for m in ("", "storage.", "cuda.")
       for untyped in ("Untyped", "_Untyped")},
}  # fmt: skip
_UNREADABLE_STORAGES = {  # what is in them, and the bytes of an element
    **{f"torch.{kind}Storage": (f"{kind} values, which are quantised", width) for kind, width in
       {"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}.items()},
    "torch.ComplexFloatStorage": ("complex numbers", 8),
    "torch.ComplexDoubleStorage": ("complex numbers", 16),
}  # fmt: skip
_UNREADABLE_DTYPES = {
    f"torch.{name}": f"values of type {name}"
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
                 "float8_e8m0fnu", "float4_e2m1fn_x2", "complex32", "complex64", "complex128",
                 "qint8", "quint8", "qint32", "quint4x2", "quint2x4",
                 *(f"{u}int{bits}" for u in ("u", "") for bits in range(1, 8)))
}  # fmt: skip
_TENSORS = {"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter",
            "torch.nn.parameter.Buffer"}  # fmt: skip
_OTHER_CONSTANTS = {
    "torch.strided", "torch.sparse_coo", "torch.sparse_csr", "torch.per_tensor_affine",
    "torch.per_channel_affine", "torch.per_tensor_symmetric", "torch.per_channel_symmetric",
    "torch.per_channel_affine_float_qparams", "torch.contiguous_format", "torch.channels_last",
    "torch.preserve_format",
}  # fmt: skip
_MARKED = "a tensor whose bytes are not its values (stored negated, or in a device's own form)"
_MOST_AXES = 32  # of an array, in NumPy 1
_LONGEST_KEY = 40


@dataclass(frozen=True)
class Storage:
    """Bytes outside the pickle, and how to read them.

    ``raw`` is None while it is not known where they stand; ``kind`` says what they are if they
    are no numbers that an array can hold.
    """

    key: str
    code: str
    raw: memoryview | None
    big_endian: bool
    kind: str = ""


Located = Callable[[str, int, int], "memoryview | None"]


def vocabulary(located: Located, *, big_endian: bool = False) -> Vocabulary:
    """Return what the names in a state dict of PyTorch stand for.

    Args:
        located: gives the bytes of a storage by its key, its number of elements and the bytes
            of each; or None if they are not looked for yet, and tensors of it are empty arrays.
    """

    def persistent(identifier: Any) -> Storage:
        return _storage(identifier, located, big_endian)

    return Vocabulary(
        calls=_CALLS,
        constants=ARRAYS.constants | _CONSTANTS,
        loads="pickle or torch.load",
        persistent=persistent,
    )


def _storage(identifier: Any, located: Located, big_endian: bool) -> Storage:
    """Return the storage with the persistent id ('storage', kind, key, device, elements)."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise ValueError("a reference to something that is no storage")
    tag, kind, key, _, count, *view = identifier
    known = isinstance(tag, str) and tag == "storage" and isinstance(kind, Name)
    if not known or not _counts(count):
        raise ValueError("a reference to something that is no storage")
    if not isinstance(key, str) or len(key) > _LONGEST_KEY or not key.isalnum():
        raise CheckpointError("a storage has a name that PyTorch does not give", found=shown(key))
    if kind.path in _UNREADABLE_STORAGES:
        what, width = _UNREADABLE_STORAGES[kind.path]
        return Storage(key, "", located(key, count, width), big_endian, what)
    if kind.path not in _OF_STORAGES:
        raise ValueError(f"a storage of the kind '{kind.path}'")
    code = _OF_STORAGES[kind.path]
    width = _dtype(code, False).itemsize
    raw = located(key, count, width)
    if view and view[0] is not None and raw is not None:
        raw = _part(raw, view[0], width)
    return Storage(key, code, raw, big_endian)


def _part(raw: memoryview, view: Any, width: int) -> memoryview:
    """Return the part of a storage that is a storage itself: (key, offset, elements)."""
    _, start, count = view if isinstance(view, tuple) and len(view) == 3 else (None, -1, -1)
    if not _counts(start, count) or (start + count) * width > len(raw):
        raise ValueError("a part of a storage that is not inside it")
    return raw[start * width : (start + count) * width]


def _dtype(code: str, big_endian: bool) -> np.dtype[Any]:
    if code != BFLOAT16:
        ordered: np.dtype[Any] = np.dtype(code).newbyteorder(">" if big_endian else "<")
        return ordered
    if big_endian:
        raise CheckpointError("bfloat16 in the byte order of another machine cannot be read")
    return bfloat16()


def _rebuild(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any = False, __: Any = (), meta: Any = ()
) -> np.ndarray[Any, Any] | Unreadable:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if meta:
        return Unreadable(_MARKED)
    return _tensor(storage, storage.code, offset, size, stride)


def _rebuild_typed(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, meta: Any = ()
) -> np.ndarray[Any, Any] | Unreadable:
    """Return a tensor of a dtype that has no kind of storage of its own."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Name):
        raise ValueError("a tensor without a storage")
    if meta:
        return Unreadable(_MARKED)
    if dtype.path in _UNREADABLE_DTYPES:
        return Unreadable(_UNREADABLE_DTYPES[dtype.path])
    if dtype.path not in _DTYPES:
        raise ValueError(f"a tensor of the dtype '{dtype.path}'")
    return _tensor(storage, _DTYPES[dtype.path], offset, size, stride)


def _tensor(
    storage: Storage, code: str, offset: Any, size: Any, stride: Any
) -> np.ndarray[Any, Any] | Unreadable:
    if storage.kind:
        return Unreadable(storage.kind)
    dtype = _dtype(code, storage.big_endian)
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise ValueError("a tensor of an impossible shape")
    if len(size) > _MOST_AXES or not _counts(offset, *size, *stride):
        raise ValueError("a tensor of an impossible shape")
    if storage.raw is None or 0 in size:
        empty = np.zeros(size if 0 in size else (0,), dtype)
        empty.flags.writeable = False
        return empty
    elements = len(storage.raw) // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= elements:
        raise CheckpointError(
            "a tensor reaches outside its storage",
            found=f"shape {size}, strides {stride}, offset {offset}: element {last} of storage "
            f"'{storage.key}', which has {elements}",
            why="the file is damaged, or was made to be read wrongly",
        )
    if prod(size) >= 1 << 60:
        raise ValueError("a tensor of an impossible shape")
    width = dtype.itemsize
    strides = tuple(step * width if n > 1 else 0 for n, step in zip(size, stride, strict=True))
    array: np.ndarray[Any, Any] = np.ndarray(size, dtype, storage.raw, offset * width, strides)
    return array


def _counts(*values: Any) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, np.ndarray | Unreadable):
        raise ValueError("a parameter of something that is no tensor")
    return tensor


def _with_attributes(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Return a tensor that Python attributes were saved with."""
    if not isinstance(function, Name) or function.path not in _REBUILDING:
        raise ValueError("a tensor of an unknown kind")
    if not isinstance(kind, Name) or not isinstance(arguments, tuple):
        raise ValueError("a tensor of an unknown kind")
    if kind.path not in _TENSORS:
        return Unreadable(f"a tensor of the class '{kind.path}'")
    return _REBUILDING[function.path](*arguments)


def _unreadable(kind: str) -> Callable[..., Unreadable]:
    return lambda *_: Unreadable(kind)


_REBUILDING: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _unreadable("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a tensor without values (meta)"),
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    **CALLS,
    **_REBUILDING,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Size": as_tuple,
    "torch.device": lambda *_: Record(),
    "torch.serialization._get_layout": lambda *_: Record(),
}
_CONSTANTS = frozenset(
    {*_OF_STORAGES, *_UNREADABLE_STORAGES, *_DTYPES, *_UNREADABLE_DTYPES, *_TENSORS,
     *_OTHER_CONSTANTS}
)  # fmt: skip
