"""ONNX files as data: parsing, counting, and what they promise to callers.

A model is the bytes of a file, or what parsing made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import numpy.typing as npt

from reparam.errors import ExportError, MissingDependencyError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Value:
    """An input or output: its name, its shape (a text names an open axis), its dtype."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Interface:
    """What a file promises to the code that calls it, and what it asks of a runtime."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opset: int
    ir_version: int
    parameters: int


def import_onnx() -> Any:
    """Return the ``onnx`` module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx":
            raise
        raise MissingDependencyError.of("onnx", "reading an ONNX file", "export") from error
    return onnx


def parse_model(model: Any) -> Any:
    """Return the ``onnx.ModelProto`` in some bytes; one that is parsed already is the same object.

    Raises:
        ExportError: they hold none.
    """
    onnx = import_onnx()
    if isinstance(model, onnx.ModelProto):
        return model
    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        proto = onnx.load_model_from_string(model)
    except decode_error as error:
        raise ExportError("this is not an ONNX model", found=f"{len(model)} bytes") from error
    if not proto.graph.node:
        raise ExportError("this is not an ONNX model", found="no graph, or a graph without nodes")
    return proto


def op_counts(model: Any) -> dict[str, int]:
    """Return how many nodes there are of each operator, by name, subgraphs not included."""
    counts = Counter(node.op_type for node in parse_model(model).graph.node)
    return dict(sorted(counts.items()))


def interface_of(model: Any) -> Interface:
    """Return the interface of a model; parameters are the elements of its float initializers."""
    proto = parse_model(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    return Interface(
        inputs=tuple(_value(v) for v in proto.graph.input if v.name not in constants),
        outputs=tuple(_value(v) for v in proto.graph.output),
        opset=opsets.get("", 0),
        ir_version=proto.ir_version,
        parameters=sum(
            prod(tensor.dims)
            for tensor in proto.graph.initializer
            if _dtype(tensor.data_type).startswith(("float", "bfloat"))
        ),
    )


def arrays_of(model: Any) -> dict[str, Array]:
    """Return the initializers of a model by name.

    Raises:
        ExportError: they are kept in other files, which are not looked for.
    """
    proto = parse_model(model)
    refuse_external(proto)
    to_array = import_onnx().numpy_helper.to_array
    return {tensor.name: to_array(tensor) for tensor in proto.graph.initializer}


def refuse_external(proto: Any) -> None:
    """Refuse a model whose initializers are in other files, at paths that it chose.

    Raises:
        ExportError: one of them is.
    """
    external = import_onnx().TensorProto.EXTERNAL
    if any(tensor.data_location == external for tensor in proto.graph.initializer):
        raise ExportError(
            "the model keeps its weights in other files", why="only the file itself is read"
        )


def inputs_of(model: Any, operator: str) -> list[tuple[str, ...]]:
    """Return the names that each node of one operator reads, in the order of the graph."""
    nodes = parse_model(model).graph.node
    return [tuple(node.input) for node in nodes if node.op_type == operator]


def stamp(proto: Any, producer: tuple[str, str], metadata: Mapping[str, str]) -> None:
    """Make a model state its producer (name and version) and some metadata."""
    proto.producer_name, proto.producer_version = producer
    import_onnx().helper.set_model_props(proto, dict(metadata))


def add_metadata(proto: Any, metadata: Mapping[str, str]) -> None:
    """Make a model state more metadata than it does."""
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)


def _value(value: Any) -> Value:
    if value.type.WhichOneof("value") not in (None, "tensor_type"):
        return Value(value.name, (), _kind(value.type))
    dims = value.type.tensor_type.shape.dim
    shape = tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else str(dim.dim_param) for dim in dims
    )
    return Value(value.name, shape, _dtype(value.type.tensor_type.elem_type))


def _kind(found: Any) -> str:
    """Return the name of a type: of a sequence, an optional, a map, with the types in it."""
    kind = str(found.WhichOneof("value") or "").removesuffix("_type")
    inner = getattr(found, f"{kind}_type", None)
    if inner is None:
        return "undefined"
    if kind in ("tensor", "sparse_tensor"):
        dims = (dim.dim_param or dim.dim_value for dim in inner.shape.dim)
        return f"{kind}({_dtype(inner.elem_type)} [{', '.join(map(str, dims))}])"
    if kind == "map":
        return f"map({_dtype(inner.key_type)}, {_kind(inner.value_type)})"
    return f"{kind}({_kind(inner.elem_type)})" if kind in ("sequence", "optional") else kind


def _dtype(element: int) -> str:
    name = str(import_onnx().TensorProto.DataType.Name(element)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
