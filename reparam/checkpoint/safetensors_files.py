"""``.safetensors`` files: checked by the library, arrays as views of the mapped file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reparam.checkpoint.stored_forms import bfloat16
from reparam.errors import CheckpointError

Arrays = dict[str, np.ndarray[Any, Any]]

_LONGEST_HEADER = 100_000_000  # of the format
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def is_safetensors(buffer: memoryview) -> bool:
    """Return whether a file begins with a JSON object and a length that one can have.

    The length comes first and may be any eight bytes, those of a pickle or a zip file among them;
    of these it would be far over the limit.
    """
    length = int.from_bytes(buffer[:8], "little")
    return bytes(buffer[8:9]) == b"{" and length <= _LONGEST_HEADER


def read_safetensors(path: Path, buffer: memoryview) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays, read-only views of ``buffer``, and the metadata of a file.

    Args:
        buffer: the contents of the file at ``path``.

    Raises:
        CheckpointError: the file is damaged, or holds values of a type that weights never have.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # checks the header, its offsets and the size
            pass
        start = 8 + int.from_bytes(buffer[:8], "little")
        header = json.loads(bytes(buffer[8:start]))
        metadata = header.pop("__metadata__", None) or {}
        contents = buffer[start:]
        return {key: _view(path, key, row, contents) for key, row in header.items()}, metadata
    except (SafetensorError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"'{path}' is not a usable .safetensors file", found=str(error).splitlines()[0]
        ) from error


def _view(
    path: Path, key: str, row: Mapping[str, Any], contents: memoryview
) -> np.ndarray[Any, Any]:
    code, (begin, end) = row["dtype"], row["data_offsets"]
    if code not in _DTYPES and code != "BF16":
        raise CheckpointError(
            f"'{path}' holds values that are no weights", found=f"'{key}' is of type {code}"
        )
    dtype = bfloat16() if code == "BF16" else np.dtype(_DTYPES[code])
    shaped: np.ndarray[Any, Any]
    shaped = np.frombuffer(contents[begin:end], dtype=dtype).reshape(row["shape"])
    return shaped
