"""Writing named arrays as a ``.safetensors`` file, straight from memory to an open file.

The library's ``save_file`` copies every array, and makes a temporary of its own beside the path
it is given, which a killed process leaves there and which a file without a name has no place
for. The format is a header length, a JSON header and the arrays, so it is written here; the
library reads it, and the tests compare the two.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.checkpoint.hashing import Writable
from reparam.checkpoint.stored_forms import name_of
from reparam.errors import CheckpointError

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_safetensors(
    stream: Writable,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str],
) -> None:
    """Write ``arrays``, widest dtype first so that each is aligned, and ``metadata``.

    Raises:
        CheckpointError: a dtype that the format does not have.
    """
    order = sorted(arrays, key=lambda key: (-arrays[key].dtype.itemsize, key))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key in order:
        array, start = arrays[key], end
        end += array.nbytes
        code = _DTYPES.get(name_of(array.dtype))
        if code is None:
            raise CheckpointError(
                f"cannot write '{key}'",
                found=f"values of type {array.dtype}, which .safetensors does not have",
            )
        header[key] = {
            "dtype": code,
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    for key in order:
        array = np.ascontiguousarray(arrays[key])
        if not array.size:
            continue
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        stream.write(array.reshape(-1).view(np.uint8).data)
