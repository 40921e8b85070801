"""Static programs that are made to confuse or starve who reads them, each by a function."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.harness import Case

PARAMETER: dict[str, Any] = {
    "#": "p",
    "A": [0, 1, 0, "weight"],
    "O": {"%": 1, "TT": {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, [2, 2], "NCHW", [], 0]}},
}
RELU: dict[str, Any] = {"#": "1.relu", "A": [], "I": [{"%": 1}], "O": [{"%": 2}]}
SCALE = {"#": "1.a_array", "D": [{"#": "0.a_f64", "D": 2.0}]}


def program(*operators: Any) -> dict[str, Any]:
    return {
        "base_code": {"magic": "pir", "version": 1},
        "program": {"regions": [{"blocks": [{"ops": list(operators)}]}]},
    }


def array(*dims: int) -> bytes:
    """Return a float32 array of zeros as Paddle writes it."""
    desc = b"\x08\x05" + b"".join(b"\x10" + varint(dim) for dim in dims)
    size = 4
    for dim in dims:
        size *= dim
    return bytes(16) + struct.pack("<i", len(desc)) + desc + bytes(size if size < 1 << 20 else 0)


def varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def saved(text: str, parameters: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "inference.json"
        path.write_text(text)
        path.with_suffix(".pdiparams").write_bytes(parameters)
        return path

    return write


def case(name: str, says: str, content: Any, parameters: bytes = b"") -> Case:
    parameters = parameters or array(2, 2)
    text = content if isinstance(content, str) else json.dumps(content)
    return Case(name, saved(text, parameters), says, kind="static")


def without(*path: Any) -> dict[str, Any]:
    """Return a program whose parameter lacks what is at a place in it."""
    operator = copy.deepcopy(PARAMETER)
    holder: Any = operator
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return program(operator, RELU)


def scaled(attribute: Any) -> dict[str, Any]:
    return program(PARAMETER, {**RELU, "#": "1.nearest_interp", "A": [attribute]})


GOOD = program(PARAMETER, RELU)
HEAD = json.dumps(GOOD)[:-1]
LONG = bytes(16) + struct.pack("<i", 1 << 20) + b"\x08\x05" + b"\xff" * (1 << 20)
CASES = (
    case("a parameter without D", "whose type has no 'D'", without("O", "TT", "D")),
    case("a parameter without a type", "whose type has no 'D'", without("O", "TT")),
    case("a parameter without an output", "without a numbered output", without("O")),
    case("a parameter without a name", "without a name", without("A", 3)),
    case("an operator without inputs", "no list of numbered inputs", program({"#": "1.relu"})),
    case("an operator that is a number", "has no name", program(7)),
    case("a scale without a type", "no list of named attributes", scaled(
        {"N": "scale", "AT": {"#": "1.a_array", "D": [2.0]}})),
    case("600,000 operators", "at most 500,000", HEAD.replace('"ops": [', '"ops": ['
         + "1," * 600_000) + "}"),
    case("100,000 lists in lists", "no JSON", HEAD + ', "x": ' + "[" * 100_000),
    case("a number of 5,000 digits", "no JSON", HEAD + ', "x": ' + "9" * 5000 + "}"),
    case("33 axes", "at most 32 numbers", program(
        {**PARAMETER, "O": {"%": 1, "TT": {"D": [{"#": "0.t_f32"}, [1] * 33]}}})),
    case("an array of 2^80 bytes", "that no file can hold", GOOD, array(1 << 40, 1 << 38)),
    case("a number of a million bytes", "not as paddle 3 writes it", GOOD, LONG),
)  # fmt: skip
