"""What the graph of an ONNX file must be before anything is done with it.

These checks see models without their weights, which is why they cost little.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from reparam.adapters.onnx_model import import_onnx
from reparam.errors import GraphError
from reparam.graph.files_names import named
from reparam.graph.files_outside import damaged
from reparam.graph.files_tensors import graphs_of, subgraphs_of, tensors_of

_ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training")
_ALL_ARE_INPUTS = 3  # the IR version in which initializers have to be inputs too
_APART = "reparam.unknown"  # a domain for operators that the checker would refuse to see


def check_texts(model: Any) -> None:
    """Refuse a model with a name, or another text, that is not UTF-8: it could not be written.

    Raises:
        GraphError: there is one.
    """
    waiting = [model]
    while waiting:
        for descriptor, content in waiting.pop().ListFields():
            if isinstance(content, str):
                continue  # most are: nothing is asked of their descriptors
            if descriptor.type == descriptor.TYPE_STRING:
                texts = (content,) if isinstance(content, bytes) else content
                wrong = [text for text in texts if isinstance(text, bytes)]
                if wrong:  # protobuf hands over what it cannot decode as bytes
                    raise damaged(f"the {descriptor.name} {wrong[0]!r}, which is not UTF-8")
            elif descriptor.type == descriptor.TYPE_MESSAGE:
                if hasattr(content, "ListFields"):
                    waiting.append(content)
                else:
                    waiting.extend(content)


def check_supported(model: Any) -> None:
    """Refuse what would be lost when the model is written again.

    Raises:
        GraphError: training information, a distribution over devices, sparse tensors, types
            of subgraphs that are no tensors (maps, opaque ones), or parts that the installed onnx
            does not know.
    """
    if model.training_info:
        raise _unsupported("training information", "a fused model is for inference alone")
    if getattr(model, "configuration", ()):  # since version 11 of the format
        raise _unsupported("a distribution over several devices", "it is made for the nodes it has")
    for graph in graphs_of(model):
        if getattr(graph, "sparse_initializer", ()):
            raise _unsupported(f"a sparse initializer in '{graph.name}'")
        for node in graph.node:
            if getattr(node, "device_configurations", ()):
                raise _unsupported(f"a distribution over several devices of {named(node)}")
            for attribute in node.attribute:
                _check_attribute(attribute, node)
        # those of the main graph are kept as they are
        inner = () if graph is model.graph else ("input", "output", "value_info")
        values = [getattr(graph, field, ()) for field in inner]
        for value in (value for row in values for value in row if not isinstance(value, str)):
            _check_type(value.type, f"value '{value.name}'")
    size = model.ByteSize()
    known = type(model)()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.ByteSize() != size:
        raise _unsupported(
            "parts that the installed onnx does not know",
            hint="a newer onnx may know them, or the file is damaged",
        )


def check_valid(model: Any) -> None:
    """Refuse a model that breaks the specification, as far as onnx's own checker can tell.

    Operators that it does not know are left alone, and so is a file of a newer version of the
    format. Outputs need no type and no shape, and graphs no name: runtimes do not ask for them.

    Args:
        model: an ``onnx.ModelProto``, which is not changed; data may be elsewhere.

    Raises:
        GraphError: with the checker's first line.
    """
    onnx = import_onnx()
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    trial.ir_version = min(trial.ir_version, onnx.IR_VERSION)
    for tensor in tensors_of(trial):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.dims[:] = [0]
    for graph in graphs_of(trial):
        if isinstance(graph, onnx.GraphProto):
            graph.name = graph.name or "graph"
    for value in trial.graph.output:
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT  # any: the checker wants one
    for value in (*trial.graph.input, *trial.graph.output):
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.shape.SetInParent()
    _set_apart(trial)
    try:
        onnx.checker.check_model(trial.SerializeToString())
    except onnx.checker.ValidationError as error:
        lines = str(error).strip().splitlines()
        raise GraphError(
            "it is not a valid model", found=lines[0], hint="export it again, or with other options"
        ) from error


def allow_constants(model: Any) -> None:
    """Raise an IR version that wants every initializer to be an input, if one of them is not."""
    inputs = {value.name for value in model.graph.input}
    apart = any(tensor.name not in inputs for tensor in model.graph.initializer)
    if apart and model.ir_version == _ALL_ARE_INPUTS:
        model.ir_version += 1


def unknown_operators(model: Any) -> tuple[str, ...]:
    """Return the operators that onnx does not know and no function defines, in order of name."""
    functions = {(function.domain, function.name) for function in model.functions}
    found = set()
    for node, opsets in _nodes_and_opsets(model):
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in _ONNX_DOMAINS or _is_unknown(node, opsets):
            found.add(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
    return tuple(sorted(found))


def _set_apart(trial: Any) -> None:
    """Move operators that the checker does not know to a domain of which it knows nothing."""
    apart = False
    for node, opsets in _nodes_and_opsets(trial):
        if node.domain == "ai.onnx":
            node.domain = ""
        if _is_unknown(node, opsets):
            node.domain, apart = _APART, True
    for holder in (trial, *trial.functions) if apart else ():
        holder.opset_import.add(domain=_APART, version=1)


def _nodes_and_opsets(model: Any) -> Iterator[tuple[Any, dict[str, int]]]:
    for holder in (model, *model.functions):
        opsets = {entry.domain: entry.version for entry in holder.opset_import}
        waiting = [holder.graph if holder is model else holder]
        while waiting:
            for node in waiting.pop().node:
                yield node, opsets
                waiting.extend(subgraphs_of(node))


def _is_unknown(node: Any, opsets: dict[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in _ONNX_DOMAINS or domain not in opsets:
        return False  # the checker leaves it alone, or finds the missing operator set
    return not _has_schema(domain, node.op_type, opsets[domain])


@cache
def _has_schema(domain: str, operator: str, version: int) -> bool:
    onnx = import_onnx()
    try:
        onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _check_attribute(attribute: Any, node: Any) -> None:
    kinds = import_onnx().AttributeProto
    if attribute.type in {kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS}:
        raise _unsupported(f"a sparse tensor in {named(node)}")
    if attribute.type == kinds.TYPE_PROTO:
        _check_type(attribute.tp, f"an attribute of {named(node)}")
    elif attribute.type == kinds.TYPE_PROTOS:
        for entry in attribute.type_protos:
            _check_type(entry, f"an attribute of {named(node)}")


def _check_type(found: Any, where: str) -> None:
    kind = found.WhichOneof("value")
    while kind in {"sequence_type", "optional_type"}:
        found = getattr(found, kind).elem_type
        kind = found.WhichOneof("value")
    if kind not in {None, "tensor_type", "sparse_tensor_type"}:
        raise _unsupported(f"the type of {where} is a '{kind}'")


def _unsupported(found: str, why: str = "", hint: str = "") -> GraphError:
    return GraphError(
        "it has parts that would be lost",
        found=found,
        why=why or "a file that is written must have all that the other had",
        hint=hint,
    )
