"""Whether what a file declares is small enough to be run at all; nothing is run to tell.

A graph can ask a runtime for any amount of memory and time in a few bytes: a Tile, an input of
many pixels, a Loop of many turns. What is inferred to be too large is not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from reparam.adapters.onnx_model import import_onnx
from reparam.adapters.onnx_shapes import inferred_sizes
from reparam.errors import GraphError
from reparam.graph.files import light_model
from reparam.graph.files_names import named
from reparam.graph.files_tensors import graphs_of

ELEMENTS = 1 << 28
"""Of one value: 1 GiB in float32, some fifty times the largest map of a detector at 4096 px."""
TURNS = 1_000_000
"""Of a Loop whose number of turns is a constant: a turn takes a microsecond at least."""

_INT64 = 7  # in onnx.TensorProto


def need_runnable(path: str | Path) -> None:
    """Refuse an ONNX file that declares more than is run here, or that cannot be used at all.

    Args:
        path: of the file.

    Raises:
        GraphError: it is not a whole model, would crash what reads it, its weights are not beside
            it, or a value or a Loop of it is too large.
    """
    light = light_model(Path(path))
    reason = too_large(light)
    if reason:
        raise GraphError(f"cannot run '{path}'", found=reason, why="what is larger is not run here")


def too_large(light: Any) -> str:
    """Return what of an ``onnx.ModelProto`` without its weights is too large to be run, or ''."""
    for node, turns in _loops(light):
        if turns > TURNS:
            return f"{named(node)} makes {turns:,} turns; {TURNS:,} are the most"
    for name, sizes in _declared(light):
        elements = prod(size for size in sizes if size is not None and size > 0)
        if elements > ELEMENTS:
            return f"'{name}' has {elements:,} elements; {ELEMENTS:,} are the most"
    return ""


def _declared(light: Any) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Yield the sizes of inputs, then of all values as far as ONNX infers them."""
    for value in light.graph.input:
        dims = value.type.tensor_type.shape.dim
        yield value.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    onnx = import_onnx()
    try:
        inferred = inferred_sizes(light)
    except (onnx.shape_inference.InferenceError, ValueError):
        return  # it contradicts itself, which whoever runs it will say
    yield from inferred.items()


def _loops(light: Any) -> Iterator[tuple[Any, int]]:
    """Yield each Loop whose number of turns is a constant, with that."""
    constants: dict[str, int] = {}
    loops = []
    for graph in graphs_of(light):
        for tensor in getattr(graph, "initializer", ()):
            constants.update(_number(tensor.name, tensor))
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value_int":
                        constants[node.output[0]] = attribute.i
                    constants.update(_number(node.output[0], attribute.t))
            elif node.op_type == "Loop" and node.input:
                loops.append(node)
    for node in loops:
        if node.input[0] in constants:
            yield node, constants[node.input[0]]


def _number(name: str, tensor: Any) -> dict[str, int]:
    """Return the one integer of a tensor by its name, or nothing."""
    if tensor.data_type != _INT64 or prod(tensor.dims) != 1:
        return {}
    return {name: int(import_onnx().numpy_helper.to_array(tensor).reshape(-1)[0])}
