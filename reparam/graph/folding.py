"""Nodes that read constants alone, computed once: weights behind Identity, Reshape, arithmetic."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.conv.operators import Array
from reparam.conv.rounding import round_once
from reparam.errors import NotFusibleError
from reparam.graph.constants import Constants
from reparam.graph.evaluation import evaluate
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.evaluation_rules import RULES

if TYPE_CHECKING:
    import onnx_ir as ir

FLOATS = ("float64", "float32", "float16", "bfloat16")
_LARGEST = 1 << 16  # elements that a constant may have beyond those that it is made of


def fold_constants(graph: ir.Graph, constants: Constants) -> int:
    """Compute what is made of constants alone, and return how many nodes that took out.

        before:  flat weight - Reshape - Mul(mask) - Conv
        after:   weight ------------------------- Conv

    Computed in float64 and remembered so; rounded once, to what is stored. Shapes that are known
    are constants as well. A node stays whose result is large and made of little, is an output of
    the graph, or is not finite.
    """
    found = 0
    for node in graph:
        if any(output.is_graph_output() for output in node.outputs):
            continue
        made = _shape(node, constants) or _computed(node, constants)
        if not made:
            continue
        for output, value in zip(node.outputs, made, strict=False):
            output.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        found += 1
    return found


def _shape(node: ir.Node, constants: Constants) -> list[ir.Value]:
    """Return the constant that a Shape of a value of known sizes gives."""
    value = node.inputs[0] if node.op_type == "Shape" and node.inputs else None
    if value is None or value.shape is None or node.domain not in ("", "ai.onnx"):
        return []
    first, last = (node.attributes.get(name) for name in ("start", "end"))
    cut = slice(first.as_int() if first else None, last.as_int() if last else None)
    sizes = list(value.shape)[cut]
    if not all(isinstance(size, int) for size in sizes):
        return []
    name = node.outputs[0].name or node.op_type
    return [constants.register(name, np.array(sizes, np.int64))]


def _computed(node: ir.Node, constants: Constants) -> list[ir.Value]:
    """Return the constants in the place of a node's outputs; none where it has to stay."""
    if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
        return []
    given = [value for value in node.inputs if value is not None]
    if not given or not all(constants.known(value) for value in given):
        return []
    if node.op_type == "Identity":
        return given
    if not all(_is_modest(output, given, constants) for output in node.outputs):
        return []
    try:
        feeds = {value: _read(value, constants) for value in given}
        values = evaluate([node], feeds, constants.opset)
        return [_registered(output, values[output], node, constants) for output in node.outputs]
    except (NotEvaluableError, NotFusibleError):
        return []


def _is_modest(output: ir.Value, given: list[ir.Value], constants: Constants) -> bool:
    """Whether a result is known to be not much larger than what it is made of."""
    if output.shape is None or not all(isinstance(size, int) for size in output.shape):
        return False
    read = sum(prod(constants.shape(value) or ()) for value in given)
    return prod(int(str(size)) for size in output.shape) <= read + _LARGEST


def _read(value: ir.Value, constants: Constants) -> Array:
    stored = constants.get(value)
    assert stored is not None  # the caller has asked
    return constants.exact(value) if stored.dtype.name in FLOATS else stored


def _registered(output: ir.Value, array: Array, node: ir.Node, constants: Constants) -> ir.Value:
    """Return a new initializer of the dtype of ``output``.

    Raises:
        NotFusibleError: its dtype is not known, or does not hold the numbers.
    """
    if output.dtype is None:
        raise NotFusibleError(f"the dtype of '{output.name}' is not known")
    dtype: np.dtype[Any] = output.dtype.numpy()
    name = output.name or node.op_type
    if dtype.name not in FLOATS:
        return constants.register(name, array.astype(dtype))
    stored, _ = round_once(np.asarray(array, np.float64), dtype)
    rounds = node.op_type in ("Cast", "CastLike")  # the rounding is what the node is for
    return constants.register(name, stored, None if rounds else np.asarray(array, np.float64))
