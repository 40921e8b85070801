"""Constants of a graph: which values are one, and new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]


def constant_of(value: ir.Value) -> Array | None:
    """Return what a value is in every run, or None if that is not known."""
    if value.is_initializer():
        if value.is_graph_input() or value.const_value is None:  # an input may be overridden
            return None
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "Reshape" or node.domain != "":
        return None
    data, shape = (None if v is None else constant_of(v) for v in node.inputs)
    if data is None or shape is None:
        return None
    keep_zero = node.attributes.get("allowzero")
    zero_is_zero = keep_zero is not None and keep_zero.as_int() == 1
    present = list(data.shape)
    sizes = [
        present[axis] if size == 0 and not zero_is_zero else int(size)
        for axis, size in enumerate(shape)
    ]
    return data.reshape(sizes)


def register_constant(graph: ir.Graph, base: str, array: Array) -> ir.Value:
    """Return a new initializer of the graph, named ``base`` or, if that is taken, nearly so."""
    import onnx_ir

    taken = {v.name for node in graph for v in node.outputs} | set(graph.initializers)
    taken |= {v.name for v in graph.inputs}
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}.{number}"
    tensor = onnx_ir.tensor(np.ascontiguousarray(array), name=name)
    value = onnx_ir.Value(
        name=name,
        shape=onnx_ir.Shape(array.shape),
        type=onnx_ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
