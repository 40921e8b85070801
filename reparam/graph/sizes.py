"""Shapes that a graph computes: constants where no axis in them is open, short cuts where one is.

    before:  x -- Reshape(Concat(Unsqueeze(Gather(Shape(x), 0)), [-1])) -- y
    after:   x -- Reshape([0, -1]) ---------------------------------------- y

What a network computes of shapes is followed element by element: a number, the size of an open
axis, or something unknown. Symbols of inputs stand for one size wherever they are met; of any
other open axis it is only known that it is that axis of that value.

Exact for every size of the open axes, empty ones too: a 0 in a target copies the very axis that
the element was the size of; a -1 stands for the only element that is not a number, where all
others are above zero, so that there is one way to choose it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.graph import readers
from reparam.graph.constants import Constants

if TYPE_CHECKING:
    import onnx_ir as ir

MOST = 64
"""Elements that are followed; a shape has fewer."""
MADE_UP = "unk__"
"""How names begin that shape inference makes up: they say nothing about other values."""


@dataclass(frozen=True)
class Open:
    """The size of an open axis: by its symbol, or by a value and the place in its shape."""

    symbol: str = ""
    value: ir.Value | None = None
    axis: int = 0


Size = int | bool | Open | None
"""None is a number that is not known."""


@dataclass(frozen=True)
class Sizes:
    """The elements of a vector, or the one of a scalar."""

    elements: tuple[Size, ...]
    scalar: bool = False

    @property
    def known(self) -> bool:
        return all(isinstance(size, int) for size in self.elements)


def size_of_axis(value: ir.Value, axis: int) -> int | Open:
    """Return the size of one axis of a value whose rank is known."""
    assert value.shape is not None  # the caller has looked
    size = value.shape[axis]
    if isinstance(size, int):
        return size
    name = size.value
    if name is None or str(name).startswith(MADE_UP):
        return Open(value=value, axis=axis)
    return Open(symbol=str(name))


def fold_sizes(graph: ir.Graph, constants: Constants) -> int:
    """Make what is known of computed shapes constants; return how many.

    Exact when: the module says so. Values that subgraphs read, and outputs of the graph, stay.
    """
    known: dict[ir.Value, Sizes] = {}
    count = 0
    for node in list(graph):
        if node.domain not in ("", "ai.onnx") or not node.outputs:
            continue
        if node.op_type == "Reshape":
            count += _fold_target(node, known, constants)
        rule = _RULES.get(node.op_type)
        found = None if rule is None else rule(node, _Reader(known, constants))
        if found is None or len(found.elements) > MOST:
            continue
        found = _within(found, node.outputs[0])
        known[node.outputs[0]] = found
        count += _fold_value(graph, node, found, constants)
    return count


def _within(found: Sizes, value: ir.Value) -> Sizes:
    """Forget numbers that the dtype of a value does not hold: a runtime wraps them round."""
    narrow = value.dtype is not None and value.dtype.name == "INT32"
    limits = np.iinfo(np.int32 if narrow else np.int64)
    elements = (
        None if isinstance(size, int) and not limits.min <= size <= limits.max else size
        for size in found.elements
    )
    return Sizes(tuple(elements), found.scalar)


def _fold_value(graph: ir.Graph, node: ir.Node, found: Sizes, constants: Constants) -> bool:
    """Put an initializer in the place of a shape, or a part of one, that is known."""
    output = node.outputs[0]
    dtype = None if output.dtype is None else output.dtype.numpy()
    if not found.known or dtype not in (np.int64, np.int32, np.bool_) or not output.uses():
        return False
    if output.is_graph_output() or any(use.node.graph is not graph for use in output.uses()):
        return False
    array = np.array(found.elements, dtype)
    constants.stand_in(output, array.reshape(()) if found.scalar else array)
    graph.remove(node, safe=True)
    return True


def _fold_target(node: ir.Node, known: dict[ir.Value, Sizes], constants: Constants) -> bool:
    data, target = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if data is None or target is None or constants.known(target) or target not in known:
        return False
    if readers.integer(node, "allowzero", 0):
        return False
    written = _target(known[target].elements, data)
    if written is None:
        return False
    name = f"{node.name or node.outputs[0].name}.shape"
    node.replace_input_with(1, constants.register(name, np.array(written, np.int64)))
    return True


def _target(elements: Sequence[Size], data: ir.Value) -> list[int] | None:
    """Return the target of a Reshape of ``data`` that is right for every size, None for none."""
    rank = readers.rank_of(data) or 0
    written: list[int | None] = [
        int(size)
        if isinstance(size, int)
        else 0
        if size is not None and place < rank and size_of_axis(data, place) == size
        else None
        for place, size in enumerate(elements)
    ]
    unknown = written.count(None)
    if unknown == 0:
        return [size for size in written if size is not None]
    if unknown > 1 or any(size is not None and size <= 0 for size in written):
        return None
    return [-1 if size is None else size for size in written]


class _Reader:
    """Looks up what the nodes of one walk read."""

    def __init__(self, known: dict[ir.Value, Sizes], constants: Constants) -> None:
        self._known, self._constants = known, constants

    def sizes(self, value: ir.Value | None) -> Sizes | None:
        """Return the elements of a value: of how many there are, at least, if no more is known."""
        if value is None:
            return None
        if value in self._known:
            return self._known[value]
        array = self.constant(value)
        if array is not None:
            elements = tuple(a.item() for a in array.reshape(-1))
            return Sizes(elements, array.ndim == 0)
        if value.shape is None or len(value.shape) > 1:
            return None
        if len(value.shape) == 0:
            return Sizes((None,), scalar=True)
        length = value.shape[0]
        return Sizes((None,) * length) if isinstance(length, int) and length <= MOST else None

    def constant(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """Return integers or truth values of one axis at most, None where they are not known."""
        shape = self._constants.shape(value)
        if shape is None or len(shape) > 1 or (shape and shape[0] > MOST):
            return None
        array = self._constants.get(value)
        return array if array is not None and array.dtype.kind in "ib" else None

    def numbers(self, node: ir.Node, position: int, name: str, given_from: int) -> list[int] | None:
        """Return integers that are an attribute, or from opset ``given_from`` on an input."""
        if self._constants.opset < given_from:
            found = readers.integers(node, name)
            return None if found is None else list(found)
        value = node.inputs[position] if position < len(node.inputs) else None
        array = self.constant(value)
        return None if array is None else [int(size) for size in array.reshape(-1)]


def _shape(node: ir.Node, _: _Reader) -> Sizes | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    sizes = [size_of_axis(value, axis) for axis in range(len(value.shape))]
    end = node.attributes.get("end")
    return Sizes(
        tuple(sizes[readers.integer(node, "start", 0) : None if end is None else end.as_int()])
    )


def _same(node: ir.Node, read: _Reader) -> Sizes | None:
    return read.sizes(node.inputs[0])


def _cast(node: ir.Node, read: _Reader) -> Sizes | None:
    import onnx_ir

    target = onnx_ir.DataType(readers.integer(node, "to", 0))
    found = read.sizes(node.inputs[0])
    source = node.inputs[0].dtype if node.inputs[0] is not None else None
    whole = (onnx_ir.DataType.INT64, onnx_ir.DataType.INT32)
    if found is None or target not in whole or source not in whole:
        return None
    return found


def _gather(node: ir.Node, read: _Reader) -> Sizes | None:
    found, at = read.sizes(node.inputs[0]), read.constant(node.inputs[1])
    if found is None or found.scalar or at is None:
        return None
    length = len(found.elements)
    if any(not -length <= int(place) < length for place in at.reshape(-1)):
        return None
    return Sizes(tuple(found.elements[int(place)] for place in at.reshape(-1)), at.ndim == 0)


def _slice(node: ir.Node, read: _Reader) -> Sizes | None:
    found = read.sizes(node.inputs[0])
    starts = read.numbers(node, 1, "starts", 10)
    ends = read.numbers(node, 2, "ends", 10)
    if found is None or found.scalar or starts is None or ends is None:
        return None
    step = [1]
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        given = read.numbers(node, 4, "steps", 10)
        if given is None:
            return None
        step = given
    if len(starts) != 1 or len(ends) != 1 or len(step) != 1 or step[0] <= 0:
        return None
    return Sizes(found.elements[starts[0] : ends[0] : step[0]])


def _unsqueeze(node: ir.Node, read: _Reader) -> Sizes | None:
    found = read.sizes(node.inputs[0])
    axes = read.numbers(node, 1, "axes", 13)
    if found is None or not found.scalar or axes not in ([0], [-1]):
        return None
    return Sizes(found.elements)


def _squeeze(node: ir.Node, read: _Reader) -> Sizes | None:
    found = read.sizes(node.inputs[0])
    if found is None or found.scalar or len(found.elements) != 1:
        return None
    return Sizes(found.elements, scalar=True)


def _reshape(node: ir.Node, read: _Reader) -> Sizes | None:
    found, target = read.sizes(node.inputs[0]), read.constant(node.inputs[1])
    if found is None or target is None or target.size > 1 or (target.size and target[0] == 0):
        return None
    if target.size == 0 and len(found.elements) != 1:
        return None
    return Sizes(found.elements, scalar=target.size == 0)


def _concat(node: ir.Node, read: _Reader) -> Sizes | None:
    parts = [read.sizes(value) for value in node.inputs]
    elements: list[Size] = []
    for part in parts:
        if part is None or part.scalar:
            return None
        elements += part.elements
    return Sizes(tuple(elements))


def _pairwise(combine: Callable[[Size, Size], Size]) -> Callable[[ir.Node, _Reader], Sizes | None]:
    def rule(node: ir.Node, read: _Reader) -> Sizes | None:
        parts = [read.sizes(value) for value in node.inputs]
        if len(parts) != 2 or parts[0] is None or parts[1] is None:
            return None
        return _broadcast(combine, parts[0], parts[1])

    return rule


def _broadcast(combine: Callable[..., Size], *parts: Sizes) -> Sizes | None:
    lengths = {len(part.elements) for part in parts} - {1}
    if len(lengths) > 1:
        return None
    length = lengths.pop() if lengths else 1
    spread = [
        part.elements if len(part.elements) == length else tuple(repeat(part.elements[0], length))
        for part in parts
    ]
    found = tuple(combine(*each) for each in zip(*spread, strict=True))
    return Sizes(found, all(part.scalar for part in parts))


def _product(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return b if a == 1 else a if b == 1 else None


def _sum(a: Size, b: Size) -> Size:
    return a + b if isinstance(a, int) and isinstance(b, int) else None


def _difference(a: Size, b: Size) -> Size:
    return a - b if isinstance(a, int) and isinstance(b, int) else None


def _quotient(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0:
        return a // b
    return a if b == 1 else None


def _equal(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Open) and isinstance(other, int) and other < 0:
            return False  # a size is never below zero
    return None


def _where(node: ir.Node, read: _Reader) -> Sizes | None:
    parts = [read.sizes(value) for value in node.inputs]
    if len(parts) != 3 or any(part is None for part in parts):
        return None
    return _broadcast(_picked, *(part for part in parts if part is not None))


def _picked(condition: Size, a: Size, b: Size) -> Size:
    if not isinstance(condition, bool):
        return a if a == b else None
    return a if condition else b


_RULES: dict[str, Callable[[ir.Node, _Reader], Sizes | None]] = {
    "Add": _pairwise(_sum),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _pairwise(_quotient),
    "Equal": _pairwise(_equal),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _pairwise(_product),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _pairwise(_difference),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
