"""A static program without its heavy weights, for a converter that only needs the graph.

The converter holds every weight several times, and cannot write more than the 2 GB that protobuf
allows. Weights of convolutions and matrix products are passed on as they are, so they can be
inputs while it works, and be put in their places afterwards, by name.

    before:  builtin.parameter "w" -- conv2d -- y
    after:   pd_op.data "w" --------- conv2d -- y
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any

from reparam.adapters.program_repairs import repair_program
from reparam.errors import ExportError

Files = tuple[Path, Path]

LIGHT = 1 << 16
"""Bytes of a weight that stays with the program."""

_READERS = {"1.conv2d": 1, "1.depthwise_conv2d": 1, "1.matmul": 1}  # operator: operand
_DTYPES = {"0.t_f32": ("float32", 4)}
_CHUNK = 1 << 20
_LONGEST = 1 << 10  # bytes of a TensorDesc: 32 axes take 352, and a longer number takes its square
_LARGEST = (1 << 63) - 1  # bytes that a file can have
_SIZES = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2}  # bytes, by type


@dataclass(frozen=True)
class Light:
    """What became of a program that was written for the converter.

    Attributes:
        heavy: names of the weights that are not in it.
        repairs: what of the program was put right, in words, with counts.
    """

    heavy: set[str]
    repairs: dict[str, int] = field(default_factory=dict)


def lighten(source: Files, target: Files, light: int = LIGHT) -> Light:
    """Write a program without its heavy weights, and so that the converter can read it.

    Args:
        source: ``model.json`` of paddle 3, and its ``.pdiparams``.
        target: where to write both.
        light: bytes of a weight that stays.

    Raises:
        ExportError: the files are not as paddle 3 writes them.
    """
    try:
        content, operators = _operators(source[0])
        names = {op["A"][3] for op in operators if op["#"] == "p"}
        heavy = _heavy(operators, light)
        for operator in operators:
            if operator["#"] == "p" and operator["A"][3] in heavy:
                _make_input(operator)
        repairs = repair_program(operators)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ExportError(
            "the static program is not as paddle 3 writes it", found=f"{error!r}"
        ) from error
    target[0].write_text(json.dumps(content), encoding="utf-8")
    with source[1].open("rb") as whole, target[1].open("wb") as kept:
        for name in sorted(names):  # paddle's order in the file
            _copy_tensor(whole, None if name in heavy else kept)
        if whole.read(1):
            raise ExportError("the parameters file holds more than the program has parameters")
    return Light(heavy, repairs)


def parameters_in(program: Path, parameters: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every parameter of a program, one at a time.

    Raises:
        ExportError: the files are not as paddle 3 writes them.
    """
    _, operators = _operators(program)
    with parameters.open("rb") as stream:
        for name in sorted(op["A"][3] for op in operators if op["#"] == "p"):
            kept = io.BytesIO()
            _copy_tensor(stream, kept, with_head=False)
            yield name, kept.getvalue()
        if stream.read(1):
            raise ExportError("the parameters file holds more than the program has parameters")


def described_in(parameters: Path) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield what a parameters file says of each array in it: its type, as Paddle counts, its shape.

    Raises:
        ExportError: the file is not as paddle writes it, or is cut short.
    """
    size = parameters.stat().st_size
    with parameters.open("rb") as stream:
        while stream.tell() < size:
            kind, shape = _described(_read_head(stream)[1])
            stream.seek(prod(shape) * _SIZES[kind], 1)
            yield kind, shape
        if stream.tell() > size:
            raise ExportError("the parameters file is truncated")


def outputs_in(program: Path) -> list[tuple[str, tuple[int | None, ...], str]]:
    """Return name, shape (None where open) and dtype of every output of a program, in order."""
    _, operators = _operators(program)
    found = []
    for operator in operators:
        if operator["#"] != "1.fetch":
            continue
        attributes = {entry["N"]: entry["AT"]["D"] for entry in operator["A"]}
        dtype, shape, *_ = operator["O"][0]["TT"]["D"]
        sizes = tuple(None if size < 0 else int(size) for size in shape)
        found.append((attributes["col"], attributes["name"], sizes, _DTYPES[dtype["#"]][0]))
    return [(name, sizes, dtype) for _, name, sizes, dtype in sorted(found, key=lambda f: f[0])]


def _operators(program: Path) -> tuple[Any, Any]:
    content = json.loads(program.read_text(encoding="utf-8"))
    return content, content["program"]["regions"][0]["blocks"][0]["ops"]


def _heavy(operators: Collection[Any], light: int) -> set[str]:
    """Return the names of large parameters that only convolutions and products read."""
    parameters = {op["O"]["%"]: op for op in operators if op["#"] == "p"}
    kept = set()
    for operator in operators:
        operands = [] if operator["#"] == "p" else [entry["%"] for entry in operator["I"]]
        weight = _READERS.get(operator["#"])
        kept |= {value for at, value in enumerate(operands) if at != weight}
    return {
        operator["A"][3]
        for value, operator in parameters.items()
        if value not in kept and _bytes_of(operator) > light
    }


def _bytes_of(operator: Any) -> int:
    dtype, shape, *_ = operator["O"]["TT"]["D"]
    size = _DTYPES[dtype["#"]][1] if dtype["#"] in _DTYPES else 0
    for axis in shape:
        size *= axis
    return int(size)


def _make_input(operator: dict[str, Any]) -> None:
    """Turn the operator of a parameter into that of an input, in place."""
    name, output = operator["A"][3], operator["O"]
    dtype, shape, *_ = output["TT"]["D"]
    attributes = {
        "name": {"#": "0.a_str", "D": name},
        "shape": {"#": "1.a_intarray", "D": shape},
        "dtype": {"#": "1.a_dtype", "D": _DTYPES[dtype["#"]][0]},
        "place": {"#": "1.a_place", "D": [0, 0, ""]},
    }
    stop = {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": True}]}
    operator.clear()
    operator.update(
        {
            "#": "1.data",
            "A": [{"AT": value, "N": key} for key, value in attributes.items()],
            "I": [],
            "O": [output],
            "OA": [{"AT": stop, "N": "stop_gradient"}],
        }
    )


def _copy_tensor(source: IO[bytes], target: IO[bytes] | None, with_head: bool = True) -> None:
    """Copy one tensor of a ``.pdiparams`` file, or its values alone, or pass over it.

    uint32 version, uint64 levels (0), uint32 version, int32 n, n bytes of a TensorDesc, values.
    """
    head, desc = _read_head(source)
    left = _values(desc)
    if target is None:
        source.seek(left, 1)
        return
    if with_head:
        target.write(head + desc)
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise ExportError("the parameters file is truncated")
        target.write(chunk)
        left -= len(chunk)


def _read_head(source: IO[bytes]) -> tuple[bytes, bytes]:
    """Return what comes before the TensorDesc of an array, and that."""
    head = source.read(20)
    if len(head) != 20 or head[:16] != bytes(16):
        raise _unknown_file()
    (length,) = struct.unpack("<i", head[16:])
    if not 0 <= length <= _LONGEST:
        raise _unknown_file()
    return head, source.read(length)


def _described(desc: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the type and the shape that a TensorDesc announces (1: data type, 2: dims)."""
    numbers = list(_varints(desc))
    if len(numbers) % 2 or set(numbers[::2]) - {0x08, 0x10}:
        raise _unknown_file()
    fields = list(zip(numbers[::2], numbers[1::2], strict=True))
    kind = next((number for field, number in fields if field == 0x08), None)
    if kind not in _SIZES:
        raise ExportError("the parameters file holds an array of an unknown type")
    shape = tuple(number for field, number in fields if field == 0x10)
    if prod(shape) * _SIZES[kind] > _LARGEST:
        raise ExportError("the parameters file announces an array that no file can hold")
    return kind, shape


def _values(desc: bytes) -> int:
    """Return the bytes of the values that a TensorDesc announces."""
    kind, shape = _described(desc)
    return prod(shape) * _SIZES[kind]


def _unknown_file() -> ExportError:
    return ExportError("the parameters file is not as paddle 3 writes it")


def _varints(data: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
