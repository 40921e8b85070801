"""A mean over all positions, written as the one operator that every runtime is fast at.

    before:  x -- ReduceMean(axes=[2, 3], keepdims=1) -- y
    after:   x -- GlobalAveragePool -------------------- y

Exact when: the axes are all after the channels, of a value of 3, 4 or 5 axes, and are kept. A mean
that drops its axes stays: it would take two nodes. So does one in float64 or bfloat16, for which
onnxruntime has no GlobalAveragePool on a CPU.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.proving import prove

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger("reparam.graph")
_AXES_ARE_AN_INPUT = 18  # from this version of the operator set on


def pool_globally(graph: ir.Graph, constants: Constants) -> int:
    """Make every mean over all positions of the main graph a GlobalAveragePool; return how many.

    Each is proved to be the same function before it is swapped.
    """
    import onnx_ir

    count = 0
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or not _is_global(node, constants):
            continue
        old = node.outputs[0]
        pool = onnx_ir.node("GlobalAveragePool", [source], name=node.name)
        new = pool.outputs[0]
        if not _is_proved(node, pool, source, constants):
            pool.replace_input_with(0, None)
            continue
        graph.insert_before(node, pool)
        new.shape, new.type = old.shape, old.type
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        new.name = name
        count += 1
    return count


def _is_global(node: ir.Node, constants: Constants) -> bool:
    """Whether a node is the mean over every axis after the channels, and keeps them."""
    if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx"):
        return False
    source = node.inputs[0]
    rank = readers.rank_of(source)
    if source is None or rank not in (3, 4, 5) or not readers.integer(node, "keepdims", 1):
        return False
    if source.dtype is None or source.dtype.name not in ("FLOAT", "FLOAT16"):
        return False
    axes = _axes(node, constants)
    if not axes or any(not -rank <= axis < rank for axis in axes):
        return False  # no axes are all of them, or none
    return sorted(axis % rank for axis in axes) == list(range(2, rank))


def _axes(node: ir.Node, constants: Constants) -> tuple[int, ...] | None:
    if constants.opset < _AXES_ARE_AN_INPUT:
        return readers.integers(node, "axes")
    found = constants.get(node.inputs[1] if len(node.inputs) > 1 else None)
    return None if found is None else tuple(int(axis) for axis in found.reshape(-1))


def _is_proved(node: ir.Node, pool: ir.Node, source: ir.Value, constants: Constants) -> bool:
    assert source.shape is not None  # its rank is known
    shape = tuple(size if isinstance(size, int) else None for size in source.shape)
    try:
        proof = prove(
            [node], [pool], source, node.outputs[0], pool.outputs[0],
            opset=constants.opset, stored="float32", shape=shape,
        )  # fmt: skip
    except NotEvaluableError as error:
        log.debug("%s is left: %s", node.name, error)
        return False
    return proof.holds
