"""How Paddle stores one weight in a pickle: named, in slices, and bfloat16 as uint16.

Source: ``paddle/framework/io.py`` and ``io_utils.py`` of Paddle 3.3: ``_pickle_save``,
``_unpack_saved_dict``, ``_pack_loaded_dict``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from reparam.errors import CheckpointError

Arrays = dict[str, np.ndarray[Any, Any]]

NAME_TABLE = "StructuredToParameterName@@"
SLICE_TABLE = "UnpackBigParamInfor@@"
BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Unreadable:
    """A tensor of a kind that is no plain array of numbers; refused if it is to be a weight."""

    kind: str


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16."""
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


@lru_cache
def name_of(dtype: np.dtype[Any]) -> str:
    """Return ``dtype.name``, which NumPy puts together each time it is asked."""
    return str(dtype.name)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether ``dtype`` is one that weights are trained in; NumPy's kind does not say."""
    return dtype.kind == "f" or name_of(dtype) == BFLOAT16


def stored_array(item: Any) -> np.ndarray[Any, Any] | None:
    """Return the array that an entry of a state dict is, None if it is no array.

    A tensor saved in a nested object is a pair of its name and its array.
    """
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        item = item[1]
    return item if isinstance(item, np.ndarray) else None


def from_uint16(arrays: Arrays) -> tuple[Arrays, int]:
    """Return ``arrays`` with those of uint16 as bfloat16, and how many those are.

    Paddle has no parameters of uint16: NumPy lacks bfloat16, so Paddle writes its bits under that
    name. Views, no copies.
    """
    stored = {key: array for key, array in arrays.items() if name_of(array.dtype) == "uint16"}
    if not stored:
        return arrays, 0
    dtype = bfloat16()
    viewed = {key: array.astype("=u2", copy=False).view(dtype) for key, array in stored.items()}
    for array in viewed.values():
        array.flags.writeable = False
    return {**arrays, **viewed}, len(stored)


def joined(arrays: Arrays, table: Any, room: int | None = None) -> Arrays:
    """Return ``arrays`` with those that were stored in slices put together.

    With pickle protocol 2 or 3 Paddle cuts an array of over 2**30 bytes into flat pieces ``w@@.0``,
    ``w@@.1`` ... and writes a table ``{w: {"OriginShape": ..., "slices": [...]}}``. The pieces are
    apart in the file, so this copies them; arrays in one piece stay the views they are.

    Args:
        table: what the file holds under ``SLICE_TABLE``, None if nothing.
        room: bytes that all joined arrays together may take; those in an honest file fit into it.

    Raises:
        CheckpointError: the table does not fit the pieces.
    """
    if table is None:
        return arrays
    result = dict(arrays)
    for key, shape, slices in _rows(table, arrays, room):
        pieces = [result.pop(name) for name in slices]
        whole = np.concatenate(pieces).reshape(shape)
        whole.flags.writeable = False
        result[key] = whole
    order = {name: place for place, name in enumerate(arrays)}
    first = {key: row["slices"][0] for key, row in table.items()}
    return dict(sorted(result.items(), key=lambda item: order[first.get(item[0], item[0])]))


def table_under(table: Any, prefix: str) -> Any:
    """Return the rows of a table of slices whose keys begin with ``prefix``, without it.

    Anything else is returned as it is, for :func:`joined` to refuse.
    """
    if not prefix or not isinstance(table, dict):
        return table
    rows = {}
    for key, row in table.items():
        if isinstance(key, str) and key.startswith(prefix):
            _, slices = _row(key, row)
            names = [name.removeprefix(prefix) for name in slices]
            rows[key.removeprefix(prefix)] = {**row, "slices": names}
    return rows


def _rows(
    table: Any, arrays: Mapping[str, np.ndarray[Any, Any]], room: int | None
) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    """Yield each row of the table of slices, once the whole of it is known to fit."""
    if not isinstance(table, dict):
        raise _contradiction("no table")
    rows, total = [], 0
    used: set[str] = set()
    for key, row in table.items():
        shape, slices = _row(key, row)
        pieces = [arrays.get(name) for name in slices]
        if used & set(slices) or len(set(slices)) < len(slices) or key in arrays:
            raise _contradiction(f"'{str(key)[:80]}' is stored twice")
        used |= set(slices)
        total += _bytes_of(key, shape, pieces)
        if room is not None and total > room:
            raise _contradiction(f"{total} bytes in slices in a file of {room} bytes")
        rows.append((str(key), shape, slices))
    yield from rows


def _row(key: Any, row: Any) -> tuple[tuple[int, ...], list[str]]:
    shape = row.get("OriginShape") if isinstance(row, dict) else None
    slices = row.get("slices") if isinstance(row, dict) else None
    if not isinstance(key, str) or not _list_of(shape, int) or not _list_of(slices, str):
        raise _contradiction(f"'{str(key)[:80]}' has no list of slices and no shape")
    return tuple(shape or ()), list(slices or ())


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def _bytes_of(key: str, shape: tuple[int, ...], pieces: list[np.ndarray[Any, Any] | None]) -> int:
    there = [piece for piece in pieces if piece is not None]
    if not there or len(there) < len(pieces):
        raise _contradiction(f"'{key}' lacks {len(pieces) - len(there)} of {len(pieces)} slices")
    if any(piece.ndim != 1 or piece.dtype != there[0].dtype for piece in there):
        raise _contradiction(f"'{key}' has slices that are not flat, or of several dtypes")
    size = sum(piece.size for piece in there)
    if min(shape, default=1) < 0 or prod(shape) != size or len(shape) > 32:
        raise _contradiction(f"'{key}' has {size} values for the shape {shape}")
    return sum(piece.nbytes for piece in there)


def _contradiction(found: str) -> CheckpointError:
    return CheckpointError(
        "the table of sliced arrays does not fit the arrays",
        found=found,
        why="a large weight can only be put together from all of its slices",
        hint="save the checkpoint again, with paddle.save(..., protocol=4)",
    )
