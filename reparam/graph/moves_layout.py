"""Two nodes in a row that lay the same elements out anew, made one, or none.

    before:  x - Flatten - Reshape - y       before:  x - Transpose - Transpose - y
    after:   x --------------------- y       after:   x ------ Transpose ------- y

A factor between them, once moved, leaves such pairs behind, and a Split that a Concat undoes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.moves_carrying import is_same_size
from reparam.graph.proving import prove
from reparam.graph.regions import needs_a_node

if TYPE_CHECKING:
    import onnx_ir as ir

_IN_ORDER = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def straighten(graph: ir.Graph, constants: Constants) -> int:
    """Make one node, or none, of pairs that lay out anew; return how many nodes that took out.

    Exact when: elements stay in their order, or are permuted; a 0 in the target of a Reshape
    copies an axis that the first node left as it was.
    """
    before = len(graph)
    for node in list(graph):
        if node.op_type == "Concat":
            _rejoin(graph, node)
            continue
        first = _first_of(node, graph)
        if first is not None:
            _join(graph, first, node, constants)
    return before - len(graph)


def _rejoin(graph: ir.Graph, node: ir.Node) -> None:
    """Take out a Concat of all that a Split made, in its order."""
    first = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    output = node.outputs[0]
    if (
        first is None
        or first.op_type != "Split"
        or first.graph is not graph
        or node.graph is not graph
        or {first.domain, node.domain} - {"", "ai.onnx"}
        or list(first.outputs) != list(node.inputs)
        or _axis(first, 0) is None
        or _axis(first, 0) != _axis(node, 1)
        or any(use.node.graph is not graph for use in output.uses())
    ):
        return
    source = first.inputs[0]
    if source is None or needs_a_node(source, output):
        return
    name, is_output = output.name, output.is_graph_output()
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_output:
        source.name = name
    if not any(value.uses() or value.is_graph_output() for value in first.outputs):
        graph.remove(first, safe=True)


def _axis(node: ir.Node, default: int) -> int | None:
    rank, axis = readers.rank_of(node.inputs[0]), readers.integer(node, "axis", default)
    return axis if axis >= 0 else (None if rank is None else axis + rank)


def _first_of(node: ir.Node, graph: ir.Graph) -> ir.Node | None:
    """Return the node before, if both lay out anew in one way."""
    if node.domain not in ("", "ai.onnx") or node.graph is not graph:
        return None
    first = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if first is None or first.graph is not graph or first.domain not in ("", "ai.onnx"):
        return None
    in_order = node.op_type in _IN_ORDER and first.op_type in _IN_ORDER
    if not in_order and {node.op_type, first.op_type} != {"Transpose"}:
        return None
    if any(use.node.graph is not graph for use in node.outputs[0].uses()):
        return None
    return first


def _join(graph: ir.Graph, first: ir.Node, node: ir.Node, constants: Constants) -> None:
    source, between, output = first.inputs[0], first.outputs[0], node.outputs[0]
    if source is None or constants.known(source):
        return  # what is made of constants is computed
    if source.shape is None or output.shape is None or between.shape is None:
        return
    alone = len(between.uses()) == 1 and not between.is_graph_output()
    if node.op_type == "Transpose":
        order = _order(first, node, len(source.shape))
        made = [] if order == tuple(range(len(order))) else [_transpose(source, order)]
    elif _is_same_shape(tuple(source.shape), tuple(output.shape)):
        made = []
    elif node.op_type == "Reshape" and _target_holds(
        node, tuple(source.shape), tuple(between.shape), constants
    ):
        made = [_reshape(source, node)]
    else:
        return
    stays = not made and needs_a_node(source, output)
    if stays or (made and not alone) or not _is_proved(first, node, made, source, constants):
        _take_off(made)
        return
    result = source
    if made:
        result = made[-1].outputs[0]
        made[-1].name = constants.unused_node(node.name or node.op_type)
        result.name = constants.unused(output.name or node.op_type)
        result.shape, result.type = output.shape, output.type
        graph.insert_before(node, made)
    name, is_output = output.name, output.is_graph_output()
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if made or is_output:
        result.name = name
    if alone:
        graph.remove(first, safe=True)


def _take_off(nodes: Sequence[ir.Node]) -> None:
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _order(first: ir.Node, second: ir.Node, rank: int) -> tuple[int, ...]:
    backwards = tuple(reversed(range(rank)))
    one = readers.integers(first, "perm") or backwards
    other = readers.integers(second, "perm") or backwards
    return tuple(one[axis] for axis in other)


def _transpose(source: ir.Value, order: Sequence[int]) -> ir.Node:
    import onnx_ir

    return onnx_ir.node("Transpose", [source], {"perm": list(order)})


def _reshape(source: ir.Value, node: ir.Node) -> ir.Node:
    import onnx_ir

    return onnx_ir.Node("", "Reshape", [source, node.inputs[1]], node.attributes)


def _is_same_shape(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two shapes of as many elements are one; of one axis that need not be known."""
    if len(one) != len(other):
        return False
    unsure = [pair for pair in zip(one, other, strict=True) if not is_same_size(*pair)]
    if any(isinstance(a, int) and isinstance(b, int) for a, b in unsure):
        return False
    return len(unsure) <= 1


def _target_holds(
    node: ir.Node, source: Sequence[object], between: Sequence[object], constants: Constants
) -> bool:
    """Whether a Reshape does the same to what the node before it reads."""
    target = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if target is None:
        return False
    if readers.integer(node, "allowzero", 0):
        return bool((target != 0).all())
    copied = [index for index, size in enumerate(target.reshape(-1)) if size == 0]
    return all(
        index < len(source) and is_same_size(source[index], between[index]) for index in copied
    )


def _is_proved(
    first: ir.Node, node: ir.Node, made: list[ir.Node], source: ir.Value, constants: Constants
) -> bool:
    shape = tuple(size if isinstance(size, int) else None for size in source.shape or ())
    dtype = source.dtype
    if dtype is None or not dtype.is_floating_point():
        return False
    if any(
        value is not None and not constants.known(value)
        for value in (*first.inputs[1:], *node.inputs[1:])
    ):
        return False
    result = made[-1].outputs[0] if made else source
    try:
        return prove(
            [first, node], made, source, node.outputs[0], result,
            opset=constants.opset, stored="float32", shape=shape,
        ).holds  # fmt: skip
    except NotEvaluableError:
        return False
