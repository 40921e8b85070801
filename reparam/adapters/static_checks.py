"""Whether the parameters of a static program are its own, and all of them in an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from reparam.adapters.light_program import described_in
from reparam.adapters.onnx_model import import_onnx, parse_model
from reparam.errors import ExportError

_Told = tuple[int, bytes]  # how many bytes, and their hash

_KINDS = {"0.t_bool": 0, "0.t_i32": 2, "0.t_i64": 3, "0.t_f16": 4, "0.t_f32": 5, "0.t_f64": 6,
          "0.t_bf16": 22}  # fmt: skip


def check_parameters_fit(operators: list[Any], parameters: Path) -> None:
    """Refuse a file of parameters that are not those of a program, by their shapes and types.

    The file has no names: Paddle writes the arrays in the order of their names, and the converter
    would take whatever comes.

    Raises:
        ExportError: there are more or fewer, or one has another shape or type.
    """
    needed = []
    for operator in operators:
        if operator["#"] == "p":
            dtype, shape, *_ = operator["O"]["TT"]["D"]
            needed.append((operator["A"][3], _KINDS.get(dtype["#"]), tuple(shape)))
    needed.sort(key=lambda entry: entry[0])
    found = list(described_in(parameters))
    why = f"'{parameters}' is not of this program"
    if len(found) != len(needed):
        raise ExportError(
            "the parameters do not fit the program",
            found=f"{len(found)} arrays; needed: {len(needed)}",
            why=why,
        )
    for (name, kind, shape), (its_kind, its_shape) in zip(needed, found, strict=True):
        if shape != its_shape or kind not in (None, its_kind):
            raise ExportError(
                "the parameters do not fit the program",
                found=f"shape {its_shape}, type {its_kind} for '{name}'; "
                f"needed: {shape}, type {kind}",
                why=why,
            )


def check_nothing_lost(
    model: bytes, operators: list[Any], parameters: Iterable[tuple[str, bytes]]
) -> None:
    """Refuse an ONNX file that does not hold the parameters that the operators read.

    Each is there under its name or another one, bit for bit; what the converter arranged in
    another way has to be as much, at least, as what is not found like that.

    Raises:
        ExportError: one is missing, or has other values.
    """
    read = {entry["%"] for op in operators if op["#"] != "p" for entry in op["I"]}
    needed = {op["A"][3] for op in operators if op["#"] == "p" and op["O"]["%"] in read}
    stored = dict(_constants_of(parse_model(model).graph))
    others = {found for name, found in stored.items() if name not in needed}
    lost: list[str] = []
    missing = 0
    for name, content in parameters:
        expected = _told_by(content)
        if name in needed and stored.get(name) != expected and expected not in others:
            lost.append(name)
            missing += len(content)
    spare = sum(size for size, _ in others)
    if any(name in stored for name in lost) or missing > spare:
        raise ExportError(
            "paddle2onnx did not write every weight",
            found=f"{len(lost)} of {len(needed)} are not in the ONNX file, '{lost[0]}' first",
        )


def _told_by(content: bytes) -> _Told:
    return len(content), hashlib.sha256(content).digest()


def _constants_of(graph: Any) -> Iterator[tuple[str, _Told]]:
    """Yield the name and the contents of every initializer and Constant, subgraphs included."""
    to_array = import_onnx().numpy_helper.to_array
    for tensor in graph.initializer:
        yield tensor.name, _told_by(to_array(tensor).tobytes())
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], _told_by(to_array(attribute.t).tobytes())
            for inner in (attribute.g, *attribute.graphs):
                yield from _constants_of(inner)
