"""Nodes that change nothing, taken out.

    before:  x -- Identity -- Mul(1) -- Add(0) -- Cast(to its own dtype) -- y
    after:   x ------------------------------------------------------------ y

A node that undoes the one before it is another: Transpose and back, Reshape and back, a Concat of
all that a Split has cut.

Exact when: the rule of the operator says so, for every size of the open axes. An Add of 0 turns
-0 into 0, which are equal. A Reshape of a Reshape is one. A node stays where an output of the
graph needs it: ONNX has no other way to say that an input, a constant or another output is an
output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.sizes import size_of_axis

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[["ir.Node", Constants], bool]
"""Whether a node returns its first input as it is."""

_MOST = 1 << 16  # elements of a constant that are looked at


def bypass_identities(graph: ir.Graph, constants: Constants) -> int:
    """Take out the nodes of the main graph that change nothing; return how many.

    What subgraphs read stays.
    """
    count = 0
    for node in list(graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        count += _skip_a_reshape(node, graph, constants)
        source = _source(node, constants)
        if source is not None and _may_stand_for(source, node, graph):
            _bypass(graph, node, source)
            count += 1
    return count


def _skip_a_reshape(node: ir.Node, graph: ir.Graph, constants: Constants) -> bool:
    """Let a Reshape read what the Reshape before it read, if nobody else reads that one's result.

    Exact when: no entry of the target says *as it was*, which is another size there.
    """
    if node.op_type != "Reshape" or len(node.inputs) < 2 or node.inputs[0] is None:
        return False
    target, first = constants.get(node.inputs[1]), node.inputs[0].producer()
    if target is None or not target.all() or first is None or first.graph is not graph:
        return False
    if first.op_type not in ("Reshape", "Flatten") or first.domain not in ("", "ai.onnx"):
        return False
    middle = first.outputs[0]
    if len(middle.uses()) > 1 or middle.is_graph_output():
        return False
    node.replace_input_with(0, first.inputs[0])
    graph.remove(first, safe=True)
    return True


def _source(node: ir.Node, constants: Constants) -> ir.Value | None:
    """Return the value that a node passes on as it is, None where there is none."""
    number, places = _NEUTRAL.get(node.op_type, (0.0, ()))
    for place in places if len(node.inputs) == 2 else ():
        other = node.inputs[1 - place]
        if _is_neutral(node.inputs[place], number, other, constants):
            return other
    undone = _UNDONE.get(node.op_type)
    if undone is not None and (found := undone(node)) is not None:
        return found
    rule = _RULES.get(node.op_type)
    return node.inputs[0] if rule is not None and rule(node, constants) else None


def _may_stand_for(source: ir.Value, node: ir.Node, graph: ir.Graph) -> bool:
    target = node.outputs[0]
    if any(use.node.graph is not graph for use in target.uses()):
        return False
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    if not target.is_graph_output():
        return True
    return (
        source.producer() is not None
        and not source.is_graph_output()
        and all(use.node.graph is graph for use in source.uses())
    )


def _bypass(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    target = node.outputs[0]
    name, is_output = target.name, target.is_graph_output()
    if is_output:
        source.shape, source.type = target.shape, target.type
    elif source.shape is None and not source.is_graph_input():
        source.shape = target.shape
    target.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_output:
        source.name = name


def _is_neutral(
    value: ir.Value | None, number: float, other: ir.Value | None, constants: Constants
) -> bool:
    """Whether a constant is one number everywhere, and broadcasting it changes no shape."""
    shape = constants.shape(value)
    rank = readers.rank_of(other)
    if value is None or other is None or shape is None or constants.known(other):
        return False
    size = 1
    for place, length in enumerate(reversed(shape)):
        if length != 1 and (rank is None or readers.size_of(other, rank - 1 - place) != length):
            return False
        size *= length
    if (shape and (rank is None or len(shape) > rank)) or size > _MOST or not size:
        return False
    return bool((constants.exact(value) == number).all())


def _always(_: ir.Node, __: Constants) -> bool:
    return True


def _dropout(node: ir.Node, constants: Constants) -> bool:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    training = constants.get(mode)
    return training is not None and not training.any()


def _cast(node: ir.Node, _: Constants) -> bool:
    source = node.inputs[0]
    return (
        source is not None
        and source.dtype is not None
        and int(source.dtype) == readers.integer(node, "to", 0)
    )


def _transpose(node: ir.Node, _: Constants) -> bool:
    order = readers.integers(node, "perm")
    if order is None:
        return readers.rank_of(node.inputs[0]) in (0, 1)
    return order == tuple(range(len(order)))


def _reshape(node: ir.Node, constants: Constants) -> bool:
    """Every element of the target is the size of its axis, or one is what is left."""
    source, target = node.inputs[0], constants.get(node.inputs[1] if node.inputs[1:] else None)
    rank = readers.rank_of(source)
    if source is None or target is None or target.ndim != 1 or rank != target.size:
        return False
    keeps = not readers.integer(node, "allowzero", 0)
    left = 0
    for axis, size in enumerate(int(entry) for entry in target):
        if size == -1:
            left += 1
        elif not (size == 0 and keeps) and size != size_of_axis(source, axis):
            return False
    return left <= 1


def _flatten(node: ir.Node, _: Constants) -> bool:
    return readers.rank_of(node.inputs[0]) == 2 and readers.integer(node, "axis", 1) in (1, -1)


def _before(node: ir.Node, operator: str) -> ir.Node | None:
    """Return the node that makes the first input, if it is of an operator."""
    made = None if node.inputs[0] is None else node.inputs[0].producer()
    if made is None or made.op_type != operator or made.domain not in ("", "ai.onnx"):
        return None
    return made if made.graph is node.graph else None


def _transposed_back(node: ir.Node) -> ir.Value | None:
    made = _before(node, "Transpose")
    last = readers.integers(node, "perm")
    first = None if made is None else readers.integers(made, "perm")
    if made is None or first is None or last is None or len(first) != len(last):
        return None
    back = [first[axis] for axis in last] == list(range(len(last)))
    return made.inputs[0] if back else None


def _reshaped_back(node: ir.Node) -> ir.Value | None:
    """Return what two Reshapes in a row give the shape again that it has.

    All axes but one are known to be as they were, so that the last is too: no axis is empty.
    """
    made = _before(node, "Reshape")
    source, target = None if made is None else made.inputs[0], node.outputs[0]
    rank = readers.rank_of(source)
    if source is None or rank is None or readers.rank_of(target) != rank:
        return None
    pairs = [(size_of_axis(source, axis), size_of_axis(target, axis)) for axis in range(rank)]
    other = [pair for pair in pairs if pair[0] != pair[1]]
    same = [size for size, found in pairs if size == found]
    if other and (len(other) > 1 or not all(isinstance(size, int) and size > 0 for size in same)):
        return None
    if other and all(isinstance(size, int) for size in other[0]):
        return None
    return source


def _joined_again(node: ir.Node) -> ir.Value | None:
    """Return what a Concat puts together again as a Split has cut it."""
    made = _before(node, "Split")
    axis, rank = readers.integer(node, "axis", 1), readers.rank_of(node.inputs[0])
    if made is None or rank is None or list(node.inputs) != list(made.outputs):
        return None
    return made.inputs[0] if axis % rank == readers.integer(made, "axis", 0) % rank else None


def _alone(node: ir.Node, _: Constants) -> bool:
    return len(node.inputs) == 1 and node.inputs[0] is not None


_NEUTRAL: dict[str, tuple[float, tuple[int, ...]]] = {
    "Add": (0.0, (0, 1)),
    "Div": (1.0, (1,)),
    "Mul": (1.0, (0, 1)),
    "Sub": (0.0, (1,)),
}
"""The number that changes nothing, and on which sides."""

_UNDONE: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Concat": _joined_again,
    "Reshape": _reshaped_back,
    "Transpose": _transposed_back,
}
"""What stands before a node that undoes the node before it."""

_RULES: dict[str, Rule] = {
    "Cast": _cast,
    "Concat": _alone,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Identity": _always,
    "Max": _alone,
    "Mean": _alone,
    "Min": _alone,
    "Reshape": _reshape,
    "Sum": _alone,
    "Transpose": _transpose,
}
