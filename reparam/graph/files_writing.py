"""Writing ONNX files piece by piece, so that no second copy of the weights is ever made.

A protobuf message is its fields one after the other, and a field that is a message is a number
that names it, a length, and that message. So a model without its weights is serialised as usual,
and the weights are put in between. The bytes are those that serialising all at once would give.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.adapters.onnx_files import LIMIT
from reparam.checkpoint.hashing import HashingWriter
from reparam.errors import GraphError
from reparam.graph.files_checks import allow_constants, check_valid
from reparam.graph.files_serde import serialized
from reparam.graph.files_tensors import HEAVY, Buffer, graphs_of, mark, number_of, tensors_of

if TYPE_CHECKING:
    import onnx_ir as ir

_ALIGNED = 4096  # bytes, a page: runtimes can map what begins at one
_BYTE = 8  # bits; what is smaller is packed in files
_WIRE_BYTES = 2  # the wire type of what has a length: bytes, texts, messages


@dataclass(frozen=True)
class Written:
    """A model that was written.

    Attributes:
        sha256: of the file, in hexadecimal.
        bytes: of the file.
        data_sha256: of the file of weights; empty if there is none.
        data_bytes: of that file.
    """

    sha256: str
    bytes: int
    data_sha256: str = ""
    data_bytes: int = 0


def heavy_bytes(model: ir.Model) -> int:
    """Return the bytes of the initializers that go into a second file, if there is one."""
    return sum(
        int(tensor.nbytes)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None and _is_heavy(tensor)
    )


def write_model(model: ir.Model, path: Path, data: Path | None = None) -> Written:
    """Write a model over a draft. The same model gives the same bytes, and is not changed.

    Args:
        model: as :func:`reparam.graph.files.open_model` returns it, changed or not.
        path: of the draft; never a file that the model was read from.
        data: takes the heavy initializers, in the same folder; None puts them into the file.

    Raises:
        GraphError: the model cannot be written, is not valid, or does not fit into one file.
        OSError: the disk refuses the write.
    """
    proto, weights = _light(model, everywhere=data is not None)
    check_valid(proto)
    told: dict[str, Any] = {}
    if data is not None:
        with HashingWriter(data) as stream:
            told["data_bytes"] = _write_data(proto, weights, stream, data.name)
            told["data_sha256"] = stream.hexdigest()
        weights = []
    pieces = _pieces(proto, weights)
    size = sum(map(_size, pieces))
    if size > LIMIT:
        raise GraphError(
            "the model does not fit into one file",
            found=f"{size} bytes; a file may have {LIMIT}",
            hint="write the weights into a second file",
        )
    with HashingWriter(path) as stream:
        for piece in pieces:
            stream.write(piece if isinstance(piece, bytes) else _bytes_of(piece))
        return Written(stream.hexdigest(), size, **told)


def _light(model: ir.Model, everywhere: bool) -> tuple[Any, list[ir.TensorProtocol]]:
    """Return the model without its heavy initializers, and those in the order of their numbers.

    Args:
        model: not changed, but for the time that this takes.
        everywhere: take those of subgraphs too.
    """
    taken: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in model.graphs() if everywhere else (model.graph,):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or not _is_heavy(tensor):
                    continue
                taken.append((value, tensor))
                value.const_value = _emptied(tensor, len(taken) - 1)
        proto = serialized(model)
    finally:
        for value, tensor in taken:
            value.const_value = tensor
    _drop_echoes(proto)
    allow_constants(proto)
    return proto, [tensor for _, tensor in taken]


def _drop_echoes(proto: Any) -> None:
    """Drop what serialising says of initializers though they say it themselves."""
    for graph in graphs_of(proto):
        tensors = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
        if not tensors:
            continue
        kept = [v for v in graph.value_info if not _is_echo(v, tensors.get(v.name))]
        if len(kept) < len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(kept)


def _is_echo(value: Any, tensor: Any) -> bool:
    if tensor is None or value.doc_string or value.metadata_props or value.type.denotation:
        return False
    declared = value.type.tensor_type
    dims = list(declared.shape.dim)
    return (
        declared.elem_type == tensor.data_type
        and [dim.dim_value for dim in dims] == list(tensor.dims)
        and all(dim.HasField("dim_value") and not dim.denotation for dim in dims)
    )


def _is_heavy(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != import_onnx_ir().DataType.STRING and tensor.nbytes >= HEAVY


def _emptied(tensor: ir.TensorProtocol, number: int) -> ir.TensorProtocol:
    """Return a tensor of which only a number is written, in place of its data."""
    onnx_ir = import_onnx_ir()
    told = {"doc_string": tensor.doc_string, "metadata_props": dict(tensor.metadata_props)}
    shape, name = onnx_ir.Shape(tensor.shape), tensor.name or ""
    emptied: ir.TensorProtocol = onnx_ir.ExternalTensor(
        mark(number), None, None, tensor.dtype, shape=shape, name=name, **told
    )
    return emptied


def _write_data(
    proto: Any, weights: list[ir.TensorProtocol], stream: HashingWriter, location: str
) -> int:
    """Write weights one after the other, and say in the model where each is; return the bytes."""
    end = 0
    for tensor in tensors_of(proto):
        number = number_of(tensor)
        if number is None:
            continue
        weight = _bytes_of(weights[number])
        gap = -end % _ALIGNED
        stream.write(bytes(gap))
        stream.write(weight)
        del tensor.external_data[:]
        told = {"location": location, "offset": end + gap, "length": len(weight)}
        for key, value in told.items():
            tensor.external_data.add(key=key, value=str(value))
        end += gap + len(weight)
    return end


def _pieces(proto: Any, weights: list[ir.TensorProtocol]) -> list[bytes | ir.TensorProtocol]:
    """Return what a file consists of: bytes, and weights of which the bytes come next.

    The model is taken apart.
    """
    graph = proto.graph
    number_of_graph = _field_number(proto, "graph")
    number_of_tensors = _field_number(graph, "initializer")
    inside: list[bytes | ir.TensorProtocol] = []
    for tensor in graph.initializer:
        parts = _pieces_of_tensor(tensor, weights)
        inside += [_opening(number_of_tensors, sum(map(_size, parts))), *parts]
    del graph.initializer[:]
    before, after = _split(graph, number_of_tensors)
    size = len(before) + sum(map(_size, inside)) + len(after)
    proto.ClearField("graph")
    head, tail = _split(proto, number_of_graph)
    return [head + _opening(number_of_graph, size) + before, *inside, after + tail]


def _pieces_of_tensor(
    tensor: Any, weights: list[ir.TensorProtocol]
) -> list[bytes | ir.TensorProtocol]:
    number = number_of(tensor) if weights else None
    if number is None:
        return [tensor.SerializeToString()]
    for field in ("data_location", "external_data"):
        tensor.ClearField(field)
    number_of_data = _field_number(tensor, "raw_data")
    before, after = _split(tensor, number_of_data)
    weight = weights[number]
    return [before + _opening(number_of_data, _size(weight)), weight, after]


def _field_number(message: Any, name: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[name].number)


def _split(message: Any, number: int) -> tuple[bytes, bytes]:
    """Return the fields of a message up to a number, and those after it; it is taken apart."""
    after = type(message)()
    after.CopyFrom(message)
    for field, _ in message.ListFields():
        (message if field.number > number else after).ClearField(field.name)
    return message.SerializeToString(), after.SerializeToString()


def _opening(number: int, size: int) -> bytes:
    """Return what stands before a field of ``size`` bytes: its number, its kind, its length."""
    return _varint(number << 3 | _WIRE_BYTES) + _varint(size)


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first, as protobuf writes it."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _size(piece: bytes | ir.TensorProtocol) -> int:
    return len(piece) if isinstance(piece, bytes) else int(piece.nbytes)


def _bytes_of(tensor: ir.TensorProtocol) -> Buffer:
    """Return the data of a tensor as the file has it, not copied if that can be."""
    if tensor.dtype.bitwidth < _BYTE or sys.byteorder == "big":
        data: Buffer = tensor.tobytes()
    else:
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
    if len(data) != tensor.nbytes:
        raise GraphError(
            "the graph contradicts itself",
            found=f"tensor '{tensor.name}' has {len(data)} bytes; needed: {tensor.nbytes}",
        )
    return data
