"""Writing named arrays as a ``.pdparams`` pickle that every Paddle and both NumPy majors load.

The standard pickler names NumPy's functions by where this NumPy keeps them, so a file written
under NumPy 2 does not load under NumPy 1. The names written here exist in both. Array contents
go to the file straight from memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from reparam.checkpoint.hashing import Writable
from reparam.checkpoint.stored_forms import BFLOAT16, NAME_TABLE, name_of

_RECONSTRUCT, _NDARRAY, _DTYPE = b"\x00", b"\x01", b"\x02"  # places in the memo
_PREAMBLE = (
    b"\x80\x04"
    b"cnumpy.core.multiarray\n_reconstruct\nq" + _RECONSTRUCT + b"0"
    b"cnumpy\nndarray\nq" + _NDARRAY + b"0"
    b"cnumpy\ndtype\nq" + _DTYPE + b"0"
    b"}"
)


def write_pickle(
    stream: Writable,
    arrays: Iterable[tuple[str, np.ndarray[Any, Any]]],
    names: Mapping[str, str],
) -> None:
    """Write named arrays as they come, then Paddle's table of parameter names unless empty."""
    stream.write(_PREAMBLE)
    for key, array in arrays:
        stream.write(_text(key))
        _write_array(stream, array)
        stream.write(b"s")
    if names:
        stream.write(_text(NAME_TABLE) + b"}")
        for key, name in names.items():
            stream.write(_text(key) + _text(name) + b"s")
        stream.write(b"s")
    stream.write(b".")


def _write_array(stream: Writable, array: np.ndarray[Any, Any]) -> None:
    contents = np.ascontiguousarray(array).reshape(array.shape)
    if name_of(contents.dtype) == BFLOAT16:
        contents = contents.view(np.uint16)
    empty = b"K\x00\x85" + b"C\x01b\x87"  # (0,), b"b": NumPy's placeholder before the state
    stream.write(b"h" + _RECONSTRUCT + b"h" + _NDARRAY + empty + b"R")
    stream.write(b"(K\x01" + _shape(array.shape) + _dtype(contents.dtype) + b"\x89")
    stream.write(b"\x8e" + struct.pack("<Q", contents.nbytes))
    stream.write(contents.reshape(-1).view(np.uint8).data)
    stream.write(b"tb")


def _shape(shape: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in shape) + b"t"


def _dtype(dtype: np.dtype[Any]) -> bytes:
    code = f"{dtype.kind}{dtype.itemsize}"
    order = "|" if dtype.itemsize == 1 else dtype.str[0]
    made = b"h" + _DTYPE + _text(code) + b"\x89\x88\x87R"
    return made + b"(K\x03" + _text(order) + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded
