"""The data of tensors: taken out of a parsed ONNX file, or found in the files that it names.

    before:  TensorProto with its data, or with the place of it in another file
    after:   TensorProto with the number of its data in a list

What is left of the model is light: it can be copied, checked and walked at no cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.adapters.onnx_model import import_onnx
from reparam.errors import GraphError
from reparam.graph.files_outside import DataFiles, damaged

if TYPE_CHECKING:
    import onnx_ir as ir

Buffer = bytes | memoryview

HEAVY = 1024  # bytes; smaller tensors stay in the file: shapes and scalars, which runtimes read
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_FIELDS = {  # of the types that are not kept in int32_data: the field, and its numbers an element
    "FLOAT": ("float_data", 1),
    "COMPLEX64": ("float_data", 2),
    "DOUBLE": ("double_data", 1),
    "COMPLEX128": ("double_data", 2),
    "INT64": ("int64_data", 1),
    "UINT32": ("uint64_data", 1),
    "UINT64": ("uint64_data", 1),
    "STRING": ("string_data", 1),
}
_DTYPES = {"float_data": "<f4", "double_data": "<f8", "int64_data": "<i8", "uint64_data": "<u8",
           "int32_data": "<i4"}  # fmt: skip
_BYTE = 8  # bits; what is smaller is packed in files
_PIECE = 1 << 16  # numbers at once: NumPy makes Python objects of them on the way
_MARK = "reparam:"  # begins the location of a tensor whose data is in the list


def take_out(model: Any, files: DataFiles) -> list[Buffer]:
    """Take the data of heavy tensors out of an ``onnx.ModelProto``; return it.

    Data that is kept in ``files`` is taken from there, whatever its size. Every tensor is checked:
    that it has a type, and as much data as its shape needs.

    Raises:
        GraphError: a tensor has no type, a wrong amount of data, or it is not where it should be.
    """
    taken: list[Buffer] = []
    for tensor in tensors_of(model):
        try:
            data = _data_of(tensor, files)
        except GraphError as error:
            name = f"'{tensor.name}'" if tensor.name else "of a Constant"
            raise GraphError(
                error.what, found=f"tensor {name}: {error.found}", why=error.why, hint=error.hint
            ) from error
        if data is not None:
            for field in (*_TYPED, "raw_data", "external_data"):
                tensor.ClearField(field)
            tensor.data_location = import_onnx().TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=mark(len(taken)))
            taken.append(data)
    return taken


def mark(number: int) -> str:
    """Return the location that stands for data in a list."""
    return f"{_MARK}{number}"


def number_of(tensor: Any) -> int | None:
    """Return where in a list the data of a ``TensorProto`` is; None if it is in the tensor."""
    for entry in tensor.external_data:
        if entry.key == "location" and entry.value.startswith(_MARK):
            return int(entry.value.removeprefix(_MARK))
    return None


def tensors_of(model: Any) -> Iterator[Any]:
    """Yield every ``onnx.TensorProto`` of a model, those of nodes and subgraphs too."""
    for graph in graphs_of(model):
        yield from getattr(graph, "initializer", ())  # a function has none
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def graphs_of(model: Any) -> Iterator[Any]:
    """Yield the graph of an ``onnx.ModelProto``, its functions, and all subgraphs of both."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            if node.attribute:
                waiting.extend(subgraphs_of(node))


def subgraphs_of(node: Any) -> list[Any]:
    """Return the graphs that a node has in its attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def _data_of(tensor: Any, files: DataFiles) -> Buffer | None:
    """Return the data of a tensor, checked; None if it stays where it is."""
    dtype = _dtype_of(tensor)
    if tensor.HasField("segment"):
        raise damaged("it is a part of a larger tensor, which onnx does not put together")
    if any(dim < 0 for dim in tensor.dims):
        raise damaged(f"its shape is {tuple(tensor.dims)}")
    elements = prod(tensor.dims)
    typed, numbers = _FIELDS.get(dtype.name, ("int32_data", 1))
    if dtype.name == "STRING":
        _check_fields(tensor, {typed})
        _check_count(len(tensor.string_data), elements, "texts")
        return None
    needed = -(-elements * dtype.bitwidth // 8)
    if tensor.data_location == import_onnx().TensorProto.EXTERNAL:
        _check_fields(tensor, set())
        where = {entry.key: entry.value for entry in tensor.external_data}
        if not all(isinstance(text, str) for text in where.values()):
            raise damaged("the place of its data is no UTF-8")
        return files.part(where, needed)
    if tensor.HasField("raw_data"):
        _check_fields(tensor, {"raw_data"})
        raw: bytes = tensor.raw_data
        _check_count(len(raw), needed, "bytes")
        return raw if needed >= HEAVY else None
    _check_fields(tensor, {typed})
    values = getattr(tensor, typed)
    _check_count(len(values), (needed if dtype.bitwidth < _BYTE else elements) * numbers, "numbers")
    if needed < HEAVY:
        return None
    return _packed(values, typed, dtype.bitwidth if typed != "float_data" else 0)


def _dtype_of(tensor: Any) -> ir.DataType:
    if tensor.data_type not in _known_types():
        raise damaged(f"its type has the number {tensor.data_type}, which no type has")
    dtype: ir.DataType = import_onnx_ir().DataType(tensor.data_type)
    return dtype


@cache
def _known_types() -> frozenset[int]:
    """Return the numbers of the types that both the reader and the checker know."""
    ir, onnx = import_onnx_ir(), import_onnx()
    known = {dtype.value for dtype in ir.DataType if dtype.value}
    return frozenset(known & set(onnx.TensorProto.DataType.values()))


def _check_fields(tensor: Any, allowed: set[str]) -> None:
    found = {field for field in _TYPED if len(getattr(tensor, field))}
    found |= {"raw_data"} & {"raw_data" if tensor.HasField("raw_data") else ""}
    if found - allowed:
        raise damaged(f"it has data in {', '.join(sorted(found))}")


def _check_count(found: int, needed: int, what: str) -> None:
    if found != needed:
        raise damaged(f"it holds {found} {what}", needed)


def _packed(values: Any, field: str, bits: int) -> bytes:
    """Return a list of numbers as ``raw_data`` has them."""
    parts = []
    for start in range(0, len(values), _PIECE):
        part = np.array(values[start : start + _PIECE], _DTYPES[field])
        if field == "int32_data" and bits < 32:
            part = part.astype("<u2" if bits == 16 else np.uint8)  # the lowest bits, wrapped
        elif field == "uint64_data" and bits == 32:
            part = part.astype("<u4")
        parts.append(part.tobytes())
    return b"".join(parts)


def put_back(model: ir.Model, taken: list[Buffer]) -> None:
    """Give the tensors of an ``ir.Model`` the data that :func:`take_out` took; it is not copied."""
    ir = import_onnx_ir()
    functions = model.functions.values()
    for node in chain(model.graph.all_nodes(), *(f.all_nodes() for f in functions)):
        for attribute in list(node.attributes.values()):
            if attribute.is_ref():
                continue
            name, doc = attribute.name, attribute.doc_string
            if attribute.type == ir.AttributeType.TENSOR:
                tensor = _filled(attribute.value, taken)
                if tensor is not attribute.value:
                    node.attributes[name] = ir.AttrTensor(name, tensor, doc)
            elif attribute.type == ir.AttributeType.TENSORS:
                tensors = [_filled(tensor, taken) for tensor in attribute.value]
                node.attributes[name] = ir.AttrTensors(name, tensors, doc)
    for graph in chain(model.graphs(), *(f.subgraphs() for f in functions)):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _filled(value.const_value, taken)


def _filled(tensor: ir.TensorProtocol, taken: list[Buffer]) -> ir.TensorProtocol:
    onnx_ir = import_onnx_ir()
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return tensor
    data = taken[int(str(tensor.location).removeprefix(_MARK))]
    told: dict[str, Any] = {
        "name": tensor.name,
        "doc_string": tensor.doc_string,
        "metadata_props": dict(tensor.metadata_props),
    }
    filled: ir.TensorProtocol
    if tensor.dtype.bitwidth < _BYTE:
        packed = np.frombuffer(data, np.uint8)
        filled = onnx_ir.PackedTensor(packed, tensor.dtype, shape=tensor.shape, **told)
    else:
        flat = np.frombuffer(data, tensor.dtype.numpy().newbyteorder("<"))
        filled = onnx_ir.Tensor(flat.reshape(tensor.shape.numpy()), tensor.dtype, **told)
    return filled
