"""Shapes that a converter computes in the graph, written as the constants they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.onnx_constants import constant_of, register_constant
from reparam.adapters.onnx_model import import_onnx

if TYPE_CHECKING:
    import onnx_ir as ir


def simplify_reshapes(graph: ir.Graph) -> int:
    """Write the target of every Reshape of the main graph that copies axes as a constant.

        before:  x -- Reshape(Concat(Slice(Shape(x), 0, 1), [-1])) -- y
        after:   x -- Reshape([0, -1]) ------------------------------ y

    Exact when: each part of the target is a constant, or the size of one axis of ``x`` in the
    position of that axis, which Reshape writes as 0; ``allowzero`` gives 0 another meaning.

    Returns:
        how many were rewritten; what computed their targets is left without readers.
    """
    count = 0
    for node in graph:
        if node.op_type != "Reshape" or node.domain != "" or len(node.inputs) != 2:
            continue
        target = _copying_target(node)
        if target is not None:
            name = f"{node.name or node.outputs[0].name}.shape"
            node.replace_input_with(1, register_constant(graph, name, np.array(target, np.int64)))
            count += 1
    return count


def inferred_sizes(proto: Any) -> dict[str, tuple[int | None, ...]]:
    """Return the sizes of the axes of every value of the main graph, as ONNX infers them.

    None is a size that may be any; a value of which nothing is known is left out.
    """
    graph = import_onnx().shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _copying_target(reshape: ir.Node) -> list[int] | None:
    data, target = reshape.inputs
    allowzero = reshape.attributes.get("allowzero")
    concat = _producer(target, "Concat")
    if data is None or concat is None or (allowzero is not None and allowzero.as_int() != 0):
        return None
    sizes: list[int] = []
    for part in concat.inputs:
        constant = None if part is None else constant_of(part)
        if constant is not None:
            sizes += [int(size) for size in constant]
        elif _is_axis_of(part, data, len(sizes)):
            sizes.append(0)
        else:
            return None
    return sizes


def _is_axis_of(value: ir.Value | None, data: ir.Value, axis: int) -> bool:
    """Whether ``value`` is Slice(Shape(data), axis, axis + 1)."""
    cut = _producer(value, "Slice")
    shape = None if cut is None else _producer(cut.inputs[0], "Shape")
    if cut is None or shape is None or shape.inputs[0] is not data or shape.attributes:
        return False
    found = [_integers(v) for v in cut.inputs[1:]]  # starts, ends, then axes and steps if given
    return len(found) >= 2 and found == [[axis], [axis + 1], [0], [1]][: len(found)]


def _integers(value: ir.Value | None) -> list[int] | None:
    constant = None if value is None else constant_of(value)
    return None if constant is None else [int(size) for size in constant]


def _producer(value: ir.Value | None, operator: str) -> Any:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator and node.domain == "" else None
