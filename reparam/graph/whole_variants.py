"""Copies of a model that onnxruntime can tell something by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reparam.graph.whole_truth import moved

if TYPE_CHECKING:
    import onnx_ir as ir

_INSIDE = 1 << 30  # bytes of weights that are kept in the file itself
_MOVED = ("FLOAT", "FLOAT16", "DOUBLE")
_CHOOSING = frozenset({"ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "NonZero", "Unique"})
_CHOOSING |= {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Floor", "Ceil"}
_CHOOSING |= {"Round", "Sign", "Hardmax", "QuantizeLinear", "DynamicQuantizeLinear"}
_DRAWING = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"})
_DRAWING |= {"RandomUniform", "RandomUniformLike"}
_WHOLE = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13})  # of TensorProto.DataType: integers and bool


def has_bfloat16(model: ir.Model) -> bool:
    """Whether a model holds weights of bfloat16."""
    return _holds(model, "BFLOAT16")


def has_float16(model: ir.Model) -> bool:
    """Whether a model holds weights of float16."""
    return _holds(model, "FLOAT16")


def drawing(model: ir.Model) -> str:
    """Return an operator that makes other numbers in every run, or nothing."""
    scopes = [model.graph.all_nodes(), *(f.all_nodes() for f in model.functions.values())]
    nodes = (node for scope in scopes for node in scope)
    return next((node.op_type for node in nodes if _draws(node)), "")


def _draws(node: ir.Node) -> bool:
    training = node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None
    return training or node.op_type in _DRAWING


def _holds(model: ir.Model, kind: str) -> bool:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return any(tensor is not None and tensor.dtype.name == kind for tensor in tensors)


def widen_bfloat16(model: ir.Model) -> None:
    """Make a bfloat16 model a float32 one, with the same weights, in place."""
    import onnx_ir

    narrow, wide = onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.FLOAT
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype == narrow:
                value.const_value = onnx_ir.tensor(_float32(value.const_value), name=value.name)
        values = [*graph.inputs, *graph.initializers.values()]
        values += [output for node in graph for output in node.outputs]
        for value in values:
            if value.dtype == narrow:
                value.dtype = wide
        for node in graph:
            _widen_attributes(node, narrow, wide)


def _widen_attributes(node: ir.Node, narrow: ir.DataType, wide: ir.DataType) -> None:
    import onnx_ir

    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type.name == "TENSOR" and attribute.value.dtype == narrow:
            tensor = onnx_ir.tensor(_float32(attribute.value), name=attribute.value.name)
            node.attributes[name] = onnx_ir.AttrTensor(name, tensor)
        if name in ("to", "dtype") and attribute.value == narrow.value:
            node.attributes[name] = onnx_ir.AttrInt64(name, wide.value)


def _float32(tensor: ir.TensorProtocol) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(tensor.numpy()).astype(np.float32)


def move_weights(model: ir.Model, dtype: str | None, seed: int) -> None:
    """Move every weight of the main graph by one rounding, up or down, in place.

    Args:
        dtype: whose rounding; None is that of each weight's own dtype.
    """
    import onnx_ir

    for at, (name, value) in enumerate(sorted(model.graph.initializers.items())):
        tensor = value.const_value
        if tensor is None or tensor.dtype.name not in _MOVED or tensor.size < 2:
            continue
        plain = np.asarray(tensor.numpy())
        own = plain.dtype.name
        # by half a unit in the last place, a value would be rounded back to where it was
        shaken = moved(plain.astype(np.float64), dtype or own, (seed, at), 2 - bool(dtype))
        value.const_value = onnx_ir.tensor(shaken.astype(own), name=name)


def chosen_from(model: ir.Model, output: str) -> list[str]:
    """Return the values that the first choices are made from, on the way to an output.

    A choice can turn out otherwise where candidates tie; what it is made from cannot. First are
    those that no other choice comes before.
    """
    start = [v for v in model.graph.outputs if v.name == output]
    choices = [node for node in _before(start) if _chooses(node)]
    first = [node for node in choices if not any(map(_chooses, _before(node.inputs)))]
    read = (v for node in first for v in node.inputs if v is not None)
    return list(dict.fromkeys(str(v.name) for v in read if v.producer() is not None))


def _chooses(node: ir.Node) -> bool:
    if node.op_type == "Cast":  # to integers, or to a truth value
        return node.attributes["to"].as_int() in _WHOLE
    return node.op_type in _CHOOSING


def _before(values: Iterable[ir.Value | None]) -> list[ir.Node]:
    """Return the nodes that values are computed by, each once."""
    waiting = list(values)
    found: dict[ir.Node, None] = {}
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is not None and node not in found:
            found[node] = None
            waiting += node.inputs
    return list(found)


def expose(model: ir.Model, names: Sequence[str]) -> list[str]:
    """Make the named values outputs of a model, in place; return those that are there."""
    made = {v.name: v for node in model.graph for v in node.outputs}
    present = {v.name for v in model.graph.outputs}
    found = [name for name in names if name in made or name in present]
    model.graph.outputs.extend(made[name] for name in found if name not in present)
    return found


def write(model: ir.Model, path: Path) -> Path:
    """Write a variant, its weights beside it where they are many."""
    import onnx_ir

    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    beside = f"{path.name}.data" if size > _INSIDE else None
    onnx_ir.save(model, path, external_data=beside)
    return path
