"""ONNX files on disk: weights put in their places, inside the file or in a second one beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.onnx_model import import_onnx
from reparam.adapters.onnx_runtime import open_session
from reparam.errors import ExportError

Array = npt.NDArray[Any]

LIMIT = (1 << 31) - (1 << 26)
"""Bytes of weights that fit into one file: protobuf writes less than 2 GB, graph included."""

_INSIDE = 1024  # bytes; what is smaller stays in the file: runtimes read shapes from there
_ALIGNED = 4096  # bytes, a page: runtimes can map what begins at one


def write_model(
    proto: Any, weights: Mapping[str, Array], path: Path, data: Path | None = None
) -> None:
    """Write a model whose inputs in ``weights`` are its weights; the model is not changed.

    Args:
        proto: an ``onnx.ModelProto`` that fits into memory twice, as it has no weights yet.
        weights: by the name of the input that each replaces.
        path: the file.
        data: takes the weights, in the same folder; None puts them into the file.

    Raises:
        ExportError: a weight is no input, or one of another shape.
    """
    onnx = import_onnx()
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    shapes = _taken_out(model.graph, set(weights))
    with ExitStack() as stack:
        stream = None if data is None else stack.enter_context(data.open("wb"))
        if data is not None and stream is not None:
            _move_out(model.graph, stream, data.name)
        for name, array in weights.items():
            _check_shape(name, array, shapes)
            tensor = model.graph.initializer.add()
            if data is None or stream is None:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
                continue
            tensor.name, tensor.dims[:] = name, array.shape
            tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            _append(tensor, content, stream, data.name)
    path.write_bytes(model.SerializeToString())


def read_header(path: Path) -> Any:
    """Return the ``onnx.ModelProto`` in a file; weights in another file stay there."""
    return import_onnx().load_model(str(path), load_external_data=False)


def open_beside(proto: Any, path: Path) -> Any:
    """Return an onnxruntime session for a variant of a file, which reads the same weights.

    Args:
        proto: what :func:`read_header` returned, changed.
        path: of the file.
    """
    if not any(_is_outside(tensor) for tensor in proto.graph.initializer):
        return open_session(proto.SerializeToString())
    variant = path.with_name(f"variant.{path.name}")
    try:
        variant.write_bytes(proto.SerializeToString())
        return open_session(variant)
    finally:
        variant.unlink(missing_ok=True)


def weights_in(path: Path, header: Any = None) -> Iterator[tuple[str, Array]]:
    """Yield the initializers of a file, one at a time.

    Those in another file are looked for in the same folder, wherever the file says that they are.

    Args:
        path: of the file.
        header: what :func:`read_header` returned for it, if that is known.

    Raises:
        ExportError: they are not there.
    """
    onnx = import_onnx()
    for tensor in (read_header(path) if header is None else header).graph.initializer:
        if not _is_outside(tensor):
            yield tensor.name, onnx.numpy_helper.to_array(tensor)
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        yield tensor.name, _mapped(path.with_name(Path(where["location"]).name), tensor, where)


def _mapped(data: Path, tensor: Any, where: Mapping[str, str]) -> Array:
    try:
        weight: Array = np.memmap(
            data,
            dtype=import_onnx().helper.tensor_dtype_to_np_dtype(tensor.data_type),
            mode="r",
            offset=int(where.get("offset", 0)),
            shape=tuple(tensor.dims),
        )
    except (OSError, ValueError) as error:
        raise ExportError(
            f"cannot read weight '{tensor.name}' in '{data}'", found=str(error)
        ) from error
    return weight


def _is_outside(tensor: Any) -> bool:
    return bool(tensor.data_location == import_onnx().TensorProto.EXTERNAL)


def _taken_out(graph: Any, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Take the inputs of these names out of a graph; return their shapes."""
    inputs = list(graph.input)
    del graph.input[:]
    graph.input.extend(value for value in inputs if value.name not in names)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in inputs
        if value.name in names
    }


def _check_shape(name: str, array: Array, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if shapes.get(name) == array.shape:
        return
    found = f"has the shape {shapes[name]}" if name in shapes else "is lost"
    raise ExportError(
        "the exported graph is not the network",
        found=f"weight '{name}' {found}; needed: {array.shape}",
    )


def _move_out(graph: Any, stream: IO[bytes], location: str) -> None:
    for tensor in graph.initializer:
        if tensor.HasField("raw_data") and len(tensor.raw_data) >= _INSIDE:
            content = bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            _append(tensor, memoryview(content), stream, location)


def _append(tensor: Any, content: memoryview, stream: IO[bytes], location: str) -> None:
    """Append the bytes of a tensor to the file of weights, and say in the tensor where they are."""
    stream.write(bytes(-stream.tell() % _ALIGNED))
    tensor.data_location = import_onnx().TensorProto.EXTERNAL
    told = {"location": location, "offset": stream.tell(), "length": len(content)}
    for key, value in told.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    stream.write(content)
