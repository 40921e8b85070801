"""Factors of 1 and shifts of 0 that a network keeps after its convolutions, taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparam.adapters.onnx_constants import constant_of

if TYPE_CHECKING:
    import onnx_ir as ir

_NEUTRAL = {"Mul": 1.0, "Add": 0.0}


def bypass_neutral(graph: ir.Graph) -> int:
    """Bypass every Mul by 1 and Add of 0 after a Conv of the main graph; return how many.

        before:  x -- Conv -- Mul(1) -- Add(0) -- y
        after:   x -- Conv ---------------------- y

    Exact when: the constant is one number, the same in every run, that does not add axes, and
    nothing else reads what the Conv makes. An Add of 0 turns -0 into 0, which are equal.
    """
    count = 0
    for conv in list(graph):
        if conv.op_type == "Conv" and conv.domain == "":
            while _bypass_one(graph, conv):
                count += 1
    return count


def _bypass_one(graph: ir.Graph, conv: ir.Node) -> bool:
    output, weight = conv.outputs[0], conv.inputs[1]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or weight is None or weight.shape is None:
        return False
    node, position = uses[0].node, uses[0].idx
    if node.op_type not in _NEUTRAL or node.domain != "" or node.graph is not graph:
        return False
    other = node.inputs[1 - position]
    constant = None if other is None else constant_of(other)
    if constant is None or constant.size != 1 or constant.ndim > len(weight.shape):
        return False
    if constant.item() != _NEUTRAL[node.op_type]:
        return False
    total = node.outputs[0]
    name = total.name
    output.shape, output.type = total.shape, total.type
    total.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    output.name = name
    return True
