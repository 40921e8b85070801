"""What paddle2onnx leaves lying about in a graph, taken out; the function stays the same.

    before:  Constant, Identity, Conv -> Add(Reshape(bias)), computed shapes, unused initializers
    after:   initializers, Conv with its bias, Reshape to a constant

Names, dtypes and shapes of the graph's inputs and outputs stay, except that an open batch axis
gets the name ``batch``. Nothing in the file is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.onnx_bias import fold_biases
from reparam.adapters.onnx_model import import_onnx, op_counts, parse_model, refuse_external
from reparam.adapters.onnx_shapes import simplify_reshapes
from reparam.errors import ExportError, MissingDependencyError

if TYPE_CHECKING:
    import onnx_ir as ir

BATCH = "batch"

_PROBED = (2, 3)  # two batch sizes: an axis that follows both is the batch axis
_HEAVY = 4096  # bytes; an initializer above it holds weights, which no shape depends on


@dataclass(frozen=True)
class Cleaned:
    """A cleaned model and what was done to it.

    Attributes:
        model: the bytes of the file.
        before: nodes of each operator in the model as it came.
        after: the same in this one.
        repairs: what was done, in words, with counts.
    """

    model: bytes
    before: dict[str, int]
    after: dict[str, int]
    repairs: dict[str, int] = field(default_factory=dict)


def clean_model(model: bytes, *, names: Mapping[str, str] | None = None) -> Cleaned:
    """Return the model without what the converter left lying about.

    Identity nodes are bypassed, Constant nodes become initializers, a per-channel Add after a
    Conv becomes its bias, a Reshape that copies axes gets a constant target, and what nothing
    reads goes. An Identity stays where it connects an
    input, an initializer or another output with an output, since ONNX has no other way to say it.

    Args:
        model: the bytes of the file.
        names: new names of initializers, by old name; one that is taken is not given again.

    Raises:
        ExportError: these bytes are not a valid model, or not a whole one.
    """
    proto = parse_model(model)
    refuse_external(proto)
    _check_structure(proto)
    before = op_counts(model)
    ir = import_onnx_ir()
    graph_model = ir.serde.deserialize_model(proto)
    repairs = _simplify(graph_model)
    _rename_initializers(graph_model.graph, names or {})
    proto = ir.serde.serialize_model(graph_model)
    name_batch_axis(proto)
    cleaned = bytes(proto.SerializeToString())
    return Cleaned(cleaned, before, op_counts(cleaned), repairs)


def import_onnx_ir() -> Any:
    """Return the ``onnx_ir`` module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx_ir
        import onnx_ir.passes.common
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx_ir":
            raise
        raise MissingDependencyError.of("onnx-ir", "cleaning an ONNX file", "export") from error
    # It tells every pass at level INFO, and importing paddle lets all of INFO through.
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    return onnx_ir


def _check_structure(proto: Any) -> None:
    onnx = import_onnx()
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            "the ONNX model is not valid", found=str(error).strip().splitlines()[0]
        ) from error


def _simplify(model: ir.Model) -> dict[str, int]:
    """Clean a model in place; return how much of what was done."""
    passes = import_onnx_ir().passes.common
    graph = model.graph
    constants = sum(node.op_type == "Constant" for node in graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = constants - sum(node.op_type == "Constant" for node in graph)
    bypassed = _bypass_identities(graph)
    folded = fold_biases(graph)
    reshapes = simplify_reshapes(graph)
    initializers = len(graph.initializers)
    passes.RemoveUnusedNodesPass()(model)
    unused = initializers - len(graph.initializers)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)
    done = {
        "Constant nodes made initializers": lifted,
        "Identity nodes bypassed": bypassed,
        "Add nodes made a bias of their Conv": folded,
        "computed Reshape targets made constants": reshapes,
        "unused initializers removed": unused,
    }
    return {what: count for what, count in done.items() if count}


def _bypass_identities(graph: ir.Graph) -> int:
    """Bypass the Identity nodes of the main graph, and return how many.

    The pass of onnx-ir would give a value that is two outputs one name, and take out of a branch
    of an If the node that it needs to return a value from outside.
    """
    count = 0
    for node in list(graph):
        if node.op_type != "Identity" or node.domain != "":
            continue
        source, target = node.inputs[0], node.outputs[0]
        if source is None or not _may_stand_for(source, target):
            continue
        name, is_output = target.name, target.is_graph_output()
        if is_output:
            source.shape, source.type = target.shape, target.type
        target.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if is_output:
            source.name = name
        count += 1
    return count


def _may_stand_for(source: ir.Value, target: ir.Value) -> bool:
    if not target.is_graph_output():
        return True
    return source.producer() is not None and not source.is_graph_output()


def _rename_initializers(graph: ir.Graph, names: Mapping[str, str]) -> None:
    taken = {value.name for node in graph for value in node.outputs}
    taken |= {value.name for value in (*graph.inputs, *graph.outputs)} | set(graph.initializers)
    for old, new in names.items():
        value = graph.initializers.get(old)
        if value is not None and new not in taken and not value.is_graph_input():
            value.name = new
            taken.add(new)


def name_batch_axis(proto: Any) -> None:
    """Call the open first axis of the inputs ``batch``, and every output axis that follows it.

    An output axis follows it if shape inference says so for two batch sizes. Nothing is renamed
    where another axis of an input is open too.
    """
    inputs = [_dims(value) for value in proto.graph.input]
    open_axes = [dims for dims in inputs if dims and not dims[0].HasField("dim_value")]
    rest = [dim for dims in inputs for dim in dims[1:]]
    if not open_axes or not all(dim.HasField("dim_value") for dim in rest):
        return
    small, large = (_output_shapes(proto, size) for size in _PROBED)
    for dims in open_axes:
        dims[0].dim_param = BATCH
    for value, *sizes in zip(proto.graph.output, small, large, strict=True):
        for dim, *found in zip(_dims(value), *sizes, strict=False):
            if tuple(found) == _PROBED and not dim.HasField("dim_value"):
                dim.dim_param = BATCH


def _output_shapes(proto: Any, batch: int) -> list[list[int | None]]:
    """Return the shapes of the outputs as inferred for one batch size; None is unknown."""
    onnx = import_onnx()
    model = _without_weights(proto)
    for value in model.graph.input:
        dims = _dims(value)
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
    for value in model.graph.output:
        for dim in _dims(value):
            if not dim.HasField("dim_value"):
                dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return [
        [dim.dim_value if dim.HasField("dim_value") else None for dim in _dims(value)]
        for value in inferred.graph.output
    ]


def _without_weights(proto: Any) -> Any:
    """Return a copy whose heavy initializers are inputs of the same type and shape instead."""
    onnx = import_onnx()
    light = onnx.ModelProto()
    light.ir_version = proto.ir_version
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.graph.name = proto.graph.name
    light.graph.node.extend(proto.graph.node)
    light.graph.input.extend(proto.graph.input)
    light.graph.output.extend(proto.graph.output)
    known = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        if int(np.prod(tensor.dims)) * itemsize <= _HEAVY:
            light.graph.initializer.append(tensor)
        elif tensor.name not in known:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def _dims(value: Any) -> list[Any]:
    return list(value.type.tensor_type.shape.dim)
