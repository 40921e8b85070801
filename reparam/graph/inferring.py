"""Shapes of all values of a graph, as onnx infers them.

onnx-ir has a pass for this. It looks for every initializer among the inputs, which is quadratic,
and builds a second model of what onnx answers; here only names, types and shapes are exchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.adapters.onnx_model import import_onnx
from reparam.graph.files_serde import type_and_shape, uncollected

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

_SETTING = 1000  # bytes; a larger constant is no setting that a shape depends on
_FLOATS = 16  # elements of floats: the scales of a Resize and the ends of a Range are fewer


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes of all values afresh.

    What a file says of its values inside is dropped first: of a file whose inputs were edited it
    is wrong, and inference would believe it. Where inference fails it is kept. Weights are not
    copied for it; nodes of unknown domains keep the shapes that they came with.
    """
    before = {
        value: value.shape
        for node in model.graph
        if node.domain in ("", "ai.onnx")
        for value in node.outputs
    }
    for value in before:
        value.shape = None
    with uncollected():
        found = _inferred(model)
        if found is not None:
            _take(model.graph, found)
            return
    for value, shape in before.items():
        value.shape = shape


def _inferred(model: ir.Model) -> Any:
    """Return the ``onnx.GraphProto`` with what onnx infers, None where it refuses the model."""
    onnx, serde = import_onnx(), import_onnx_ir().serde
    refusals = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError)
    try:
        asked = _light(model).SerializeToString()
        answer = onnx.shape_inference.infer_shapes(asked, data_prop=True)
    except (*refusals, serde.SerdeError, RuntimeError, ValueError, IndexError):
        return None  # that it failed is no news: the graph may have what onnx has not
    return answer.graph


def _light(model: ir.Model) -> Any:
    """Return an ``onnx.ModelProto`` with all that shapes depend on, and no weights."""
    onnx, ir = import_onnx(), import_onnx_ir()
    serde = ir.serde
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    for function in model.functions.values():
        proto.functions.append(serde.serialize_function(function))
    graph, light = model.graph, proto.graph
    light.name = graph.name or "graph"
    inputs = dict.fromkeys((*graph.inputs, *graph.initializers.values()))
    for value in inputs:
        tensor = value.const_value
        if tensor is not None:
            if value.shape is None:
                value.shape = ir.Shape(tensor.shape)
            if value.dtype is None:
                value.dtype = tensor.dtype
        serde.serialize_value_into(light.input.add(), value)
        if tensor is not None and value.is_initializer() and _is_setting(tensor):
            serde.serialize_tensor_into(light.initializer.add(name=value.name), tensor)
            light.initializer[-1].name = value.name
    for node in graph:
        _add_node(light, node, serde)
    for value in graph.outputs:
        serde.serialize_value_into(light.output.add(), value)
    return proto


def _is_setting(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype.is_floating_point() and tensor.size > _FLOATS:
        return False
    return bool(tensor.nbytes <= _SETTING)


def _add_node(light: Any, node: ir.Node, serde: Any) -> None:
    """Add a node, and what is known of its outputs, to an ``onnx.GraphProto``."""
    outputs = node.outputs
    if node.attributes or node.domain or node.overload or len(outputs) != 1:
        serde.serialize_node_into(light.node.add(), node)
    else:
        names = ["" if value is None else value.name for value in node.inputs]
        light.node.add(op_type=node.op_type, input=names, output=[outputs[0].name])
    for value in outputs:
        if not value.name or value.is_graph_output():
            continue
        if value.shape is not None:
            serde.serialize_value_into(light.value_info.add(), value)
        elif value.type is not None:
            serde.serialize_type_into(light.value_info.add(name=value.name).type, value.type)


def _take(graph: ir.Graph, proto: Any) -> None:
    """Give the values of a graph, and of its subgraphs, the shapes and types in a proto."""
    known = {value.name: value.type for value in (*proto.value_info, *proto.output)}
    outputs = (value for node in graph for value in node.outputs)
    _give((*graph.inputs, *graph.initializers.values()), known)
    _give(outputs, known)
    for node, written in zip(graph, proto.node, strict=True):
        if not node.attributes:
            continue
        for name, attribute in node.attributes.items():
            if attribute.is_ref() or attribute.type.name not in ("GRAPH", "GRAPHS"):
                continue
            found = next(entry for entry in written.attribute if entry.name == name)
            if attribute.type.name == "GRAPH":
                _take(attribute.as_graph(), found.g)
            else:
                for inner, answer in zip(attribute.as_graphs(), found.graphs, strict=True):
                    _take(inner, answer)


def _give(values: Iterable[ir.Value], known: dict[str, Any]) -> None:
    ir = import_onnx_ir()
    kinds, shapes = ir.DataType, ir.Shape
    for value in values:
        found = known.get(value.name or "")
        if found is None:
            continue
        if not found.HasField("tensor_type"):
            kind, shape = type_and_shape(found)  # a sequence, an optional; none of a map
            value.type = value.type if kind is None else kind
            value.shape = value.shape if shape is None else shape
            continue
        tensor = found.tensor_type
        if tensor.elem_type and (value.dtype is None or value.dtype.value != tensor.elem_type):
            value.dtype = kinds(tensor.elem_type)
        if tensor.HasField("shape"):
            value.shape = shapes([_size(size) for size in tensor.shape.dim])


def _size(size: Any) -> int | str | None:
    """Return the size of an axis, the name of an open one, or None."""
    number: int = size.dim_value  # 0 where it has none
    if number or size.HasField("dim_value"):
        return number
    return size.dim_param or None
