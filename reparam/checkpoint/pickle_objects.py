"""What the names in a pickle of arrays stand for: a table, instead of an import.

A checkpoint may name what is listed here. None of it is looked up: each name stands for a small
function of this module that builds the array, dtype or container meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from reparam.errors import UnsafeCheckpointError

LONGEST_NAME = 256
_LARGEST_KEY = (1 << 61) - 1  # CPython hashes numbers modulo this prime
_SHOWN = 40  # characters
_CODE = re.compile(r"[fiub]\d\d?")  # float, signed, unsigned, bool: what weights are made of
_MOST_AXES = 32  # of an array, in NumPy 1


@dataclass(frozen=True)
class Name:
    """A function or class that the file names; never looked up, only compared."""

    path: str

    def __str__(self) -> str:
        return self.path


class Record:
    """An object that was saved with the weights and is none: its contents are dropped."""


class TupleKey:
    """A tuple as a key; never a weight's, so it is kept apart and not compared."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __str__(self) -> str:
        return f"a tuple of {self.size}"


class ArrayToCome:
    """An array whose shape, dtype and bytes the next BUILD brings, and where it is remembered."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.completed = False


@dataclass
class DtypeToCome:
    dtype: np.dtype[Any]


def named_pairs(items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values; a key may be a name, a number or a tuple.

    Keys whose hashes a file can choose would be made to collide, so that every key is compared
    with all before it. Text hashes unpredictably; of numbers, only those that hash to themselves
    are accepted; tuples are replaced.
    """
    for key, value in items:
        if isinstance(key, tuple):
            yield TupleKey(len(key)), value
        elif isinstance(key, int | float):
            if not -_LARGEST_KEY < key < _LARGEST_KEY:  # NaN is refused here, too
                raise ValueError("a dict with keys that are no names")
            yield key, value
        elif key is None or isinstance(key, str | Name):
            yield key, value
        else:
            raise ValueError("a dict with keys that are no names")


def shown(value: Any) -> str:
    """Return a few characters for an object of the file in a message.

    Only text and numbers are shown as they are: the ``repr`` of a small file's list can be larger
    than memory, or deeper than the stack.
    """
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _LARGEST_KEY):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def array_of(shape: Any, dtype: Any, fortran: bool, raw: Any) -> np.ndarray[Any, Any]:
    if isinstance(raw, str):  # as Python 2 wrote bytes
        raw = raw.encode("latin1")
    if not isinstance(dtype, DtypeToCome) or not isinstance(raw, memoryview | bytes):
        raise ValueError("an array of something that is no number")
    sizes = shape if isinstance(shape, tuple) and len(shape) <= _MOST_AXES else (-1,)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError("an array of an impossible shape")
    if prod(sizes) * dtype.dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {sizes} and {dtype.dtype}")
    flat = np.frombuffer(raw, dtype=dtype.dtype)
    return flat.reshape(sizes, order="F" if fortran else "C")


def _dtype(code: Any, *_: Any) -> DtypeToCome:
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ValueError("arrays of something that is no number")
    return DtypeToCome(np.dtype(code))


def with_byte_order(dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    order, parts = state[1], state[2:5]
    if order not in ("<", ">", "|", "=") or any(part is not None for part in parts):
        raise ValueError("a structured dtype")
    ordered: np.dtype[Any] = dtype.newbyteorder(order)
    return ordered


def _reconstruct(subtype: Any, *_: Any) -> ArrayToCome:
    if subtype != Name("numpy.ndarray"):
        raise ValueError("an array of an unknown class")
    return ArrayToCome()


def _scalar(dtype: Any, raw: Any) -> np.ndarray[Any, Any]:
    return array_of((), dtype, False, raw)


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    return array_of(shape, dtype, order == "F", raw)


def _encode(text: Any, encoding: Any) -> bytes:
    """Protocol 2 writes bytes as text; this is how it says that they are bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(named_pairs(pairs))


def _no_bytes() -> bytes:
    """Protocol 2 writes the contents of an empty array as ``bytes()``."""
    return b""


def as_tuple(items: Any = ()) -> tuple[Any, ...]:
    if not isinstance(items, list | tuple):
        raise ValueError("a tuple of something that is no list")
    return tuple(items)


def _paddle_eval(expression: Any, values: Any = None, *_: Any) -> Any:
    """Paddle writes a tensor as ``eval('data', {'data': array})``; that one form is read."""
    if expression != "data" or not isinstance(values, dict) or set(values) != {"data"}:
        asked = expression[:60] if isinstance(expression, str) else "of another kind"
        raise UnsafeCheckpointError(
            f"the pickle asks to evaluate an expression ({asked}); nothing of it was run",
            why="loading such a file with pickle or paddle.load would run it",
            hint="do not load it elsewhere; ask its author for a file of arrays only",
        )
    return values["data"]


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


@dataclass(frozen=True)
class Vocabulary:
    """The names that a file may use.

    Attributes:
        calls: what each name that is called stands for.
        constants: names that are passed on and compared, never called.
        loads: what would run the file's code: for messages.
        persistent: what stands for an object that is kept outside the pickle, by its id.
    """

    calls: Mapping[str, Callable[..., Any]]
    constants: frozenset[str]
    loads: str = "pickle or paddle.load"
    persistent: Callable[[Any], Any] | None = None


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    **{f"{m}.tuple": as_tuple for m in ("builtins", "__builtin__")},
    **{f"{m}.bytes": _no_bytes for m in ("builtins", "__builtin__")},
    **{f"{m}.eval": _paddle_eval for m in ("builtins", "__builtin__")},
    **{f"numpy.{m}.multiarray._reconstruct": _reconstruct for m in ("core", "_core")},
    **{f"numpy.{m}.multiarray.scalar": _scalar for m in ("core", "_core")},
    **{f"numpy.{m}.numeric._frombuffer": _from_buffer for m in ("core", "_core")},
}
ARRAYS = Vocabulary(CALLS, frozenset({"numpy.ndarray"}))
