"""The bias that a converter left beside its convolution, folded into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reparam.adapters.onnx_constants import Array, constant_of, register_constant

if TYPE_CHECKING:
    import onnx_ir as ir


def fold_biases(graph: ir.Graph) -> int:
    """Fold every per-channel Add after a Conv of the main graph into it; return how many.

        before:  x -- Conv(weight[, bias]) -- Add(constant) -- y
        after:   x -- Conv(weight, bias + constant) ---------- y

    Exact when: the constant has one value a channel, broadcasts to the Conv's own shape, is the
    same in every run (an initializer that is no input, or a Reshape of one), and nothing else
    reads what the Conv makes. A bias that was there is added in float64 and rounded once.
    """
    count = 0
    for conv in list(graph):
        if conv.op_type == "Conv" and conv.domain == "":
            while _fold_one(graph, conv):  # Add after Add, too
                count += 1
    return count


def _fold_one(graph: ir.Graph, conv: ir.Node) -> bool:
    output = conv.outputs[0]
    found = _only_add(graph, output)
    if found is None:
        return False
    add, other = found
    bias = _new_bias(graph, conv, other)
    if bias is None:
        return False
    conv.resize_inputs(3)
    conv.replace_input_with(2, bias)
    total = add.outputs[0]
    name = total.name
    output.shape, output.type = total.shape, total.type
    total.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(add, safe=True)
    output.name = name
    return True


def _only_add(graph: ir.Graph, value: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """Return the Add that alone reads ``value``, and its other operand."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    add, position = uses[0].node, uses[0].idx
    if add.op_type != "Add" or add.domain != "" or add.graph is not graph:
        return None
    other = add.inputs[1 - position]
    return None if other is None else (add, other)


def _new_bias(graph: ir.Graph, conv: ir.Node, other: ir.Value) -> ir.Value | None:
    weight = conv.inputs[1]
    if weight is None or weight.shape is None or not isinstance(weight.shape[0], int):
        return None
    channels, rank = weight.shape[0], len(weight.shape)
    added = _per_channel(constant_of(other), channels, rank)
    if added is None or weight.dtype is None or weight.dtype.numpy() != added.dtype:
        return None
    old = conv.inputs[2] if len(conv.inputs) > 2 else None
    if old is None:
        return _named_source(other, channels) or _register(graph, conv, added)
    present = constant_of(old)
    if present is None:
        return None
    total = present.astype(np.float64) + added.astype(np.float64)
    return _register(graph, conv, total.astype(added.dtype))


def _per_channel(constant: Array | None, channels: int, rank: int) -> Array | None:
    """Return one value a channel, if adding the constant adds just that and broadcasts nothing."""
    if constant is None or constant.ndim > rank:
        return None
    aligned = [1] * (rank - constant.ndim) + list(constant.shape)
    size = aligned[1]
    if constant.size != size or size not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(size), (channels,))


def _named_source(value: ir.Value, channels: int) -> ir.Value | None:
    """Return the initializer behind a constant, if it has the shape of a bias already."""
    node = value.producer()
    source = value if node is None else node.inputs[0]
    if source is None or not source.is_initializer() or source.const_value is None:
        return None
    return source if tuple(source.const_value.shape) == (channels,) else None


def _register(graph: ir.Graph, conv: ir.Node, bias: Array) -> ir.Value:
    weight = conv.inputs[1]
    return register_constant(graph, f"{weight.name if weight else conv.name}.bias", bias)
