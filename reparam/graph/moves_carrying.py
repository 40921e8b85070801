"""A factor and a shift for each channel, carried past a node that lets them through.

Every rule here is a law ``node(s * x + t) == s' * node(x) + t'``, read in either direction, and
refuses where that is not exactly so. What is carried is a :class:`reparam.graph.laws.Scaling`: with
an axis, both of its arrays have one entry for each channel along it; without one, both are numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from reparam.conv.operators import Array
from reparam.errors import NotFusibleError
from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.laws import Scaling
from reparam.graph.rules import bounds_of

if TYPE_CHECKING:
    import onnx_ir as ir

_MOST = 1 << 22  # elements of a block of axes that is looked at
_MADE_UP = "unk__"  # how shape inference names a size it does not know

Scalings = Mapping["ir.Value", Scaling]
_Rule = Callable[["ir.Node", Scaling, Constants, bool], Scaling]


def broadened(scaling: Scaling) -> Scaling:
    """Return the same with both arrays of one shape."""
    if scaling.axis is None:
        return Scaling(scaling.scale.reshape(()), scaling.shift.reshape(()))
    size = max(scaling.scale.size, scaling.shift.size)
    return Scaling(
        np.broadcast_to(scaling.scale.reshape(-1), (size,)),
        np.broadcast_to(scaling.shift.reshape(-1), (size,)),
        scaling.axis,
    )


def forward(node: ir.Node, given: Scalings, constants: Constants) -> dict[ir.Value, Scaling]:
    """Return what the outputs of a node are multiplied by and what is added, if its operands are.

    Raises:
        NotFusibleError: nothing that follows the node does the same.
    """
    if node.op_type == "Concat":
        return {node.outputs[0]: _joined(node, given)}
    value = node.inputs[0]
    if value is None or sum(operand in given for operand in node.inputs) != 1 or value not in given:
        raise NotFusibleError("a factor for each channel does not pass in that operand")
    if node.op_type == "Split":
        return {
            output: _part(given[value], axis, start, size)
            for output, axis, start, size in _parts(node)
        }
    return {node.outputs[0]: _rule_of(node)(node, given[value], constants, False)}


def backward(node: ir.Node, wanted: Scalings, constants: Constants) -> dict[ir.Value, Scaling]:
    """Return what the operands of a node are to be multiplied by, so that its outputs are.

    Raises:
        NotFusibleError: nothing before the node does the same.
    """
    if node.op_type == "Concat":
        scaling = wanted[node.outputs[0]]
        return {value: _part(scaling, axis, at, size) for value, axis, at, size in _pieces(node)}
    rule = None if node.op_type == "Split" else _rule_of(node)
    value = node.inputs[0]
    assert value is not None  # of no node that has a rule is it optional
    if rule is None:
        found = Scaling(np.ones(()), np.zeros(()))
        for output, axis, start, size in _parts(node):
            if output in wanted:
                whole = readers.size_of(value, axis)
                found = _after(found, _placed(wanted[output], axis, start, size, whole))
        return {value: found}
    return {value: rule(node, wanted[node.outputs[0]], constants, True)}


def _rule_of(node: ir.Node) -> _Rule:
    rule = _RULES.get(node.op_type)
    if rule is None:
        raise NotFusibleError(f"a factor for each channel does not pass through {node.op_type}")
    return rule


def _after(first: Scaling, then: Scaling) -> Scaling:
    axis = first.axis if then.axis is None else then.axis
    if first.axis not in (None, axis):
        raise NotFusibleError("outputs of one node are scaled along different axes")
    scale, shift = first.scale * then.scale, first.shift * then.scale + then.shift
    return broadened(Scaling(scale, shift, axis))


def _part(scaling: Scaling, axis: int, start: int, size: int) -> Scaling:
    if scaling.axis != axis:
        return scaling
    rows = slice(start, start + size)
    return Scaling(scaling.scale[rows], scaling.shift[rows], axis)


def _placed(scaling: Scaling, axis: int, start: int, size: int, whole: int | None) -> Scaling:
    """Return what leaves all but one part of an axis as it is."""
    if whole is None or scaling.axis not in (None, axis):
        raise NotFusibleError("the other parts of the axis are scaled otherwise")
    scale, shift = np.ones(whole), np.zeros(whole)
    scale[start : start + size], shift[start : start + size] = scaling.scale, scaling.shift
    return Scaling(scale, shift, axis)


def _parts(node: ir.Node) -> list[tuple[ir.Value, int, int, int]]:
    axis = axis_of(node.inputs[0], readers.integer(node, "axis", 0))
    return _along(node.outputs, axis)


def _pieces(node: ir.Node) -> list[tuple[ir.Value, int, int, int]]:
    axis = axis_of(node.outputs[0], readers.integer(node, "axis", 1))
    operands = [value for value in node.inputs if value is not None]
    if len(set(operands)) < len(operands):
        raise NotFusibleError("a value is concatenated with itself")
    return _along(operands, axis)


def _along(values: Sequence[ir.Value], axis: int) -> list[tuple[ir.Value, int, int, int]]:
    found, start = [], 0
    for value in values:
        size = readers.size_of(value, axis)
        if size is None:
            raise NotFusibleError("the sizes along the axis are not known")
        found.append((value, axis, start, size))
        start += size
    return found


def _joined(node: ir.Node, given: Scalings) -> Scaling:
    pieces = _pieces(node)
    whole = sum(size for *_, size in pieces)
    axis = pieces[0][1]
    if all(value in given and given[value].axis != axis for value, *_ in pieces):
        first = given[pieces[0][0]]
        if all(_same(given[value], first) for value, *_ in pieces):
            return first
    found = Scaling(np.ones(whole), np.zeros(whole), axis)
    for value, _, start, size in pieces:
        if value in given:
            found = _after(found, _placed(given[value], axis, start, size, whole))
    return found


def _same(one: Scaling, other: Scaling) -> bool:
    return (
        one.axis == other.axis
        and np.array_equal(one.scale, other.scale)
        and np.array_equal(one.shift, other.shift)
    )


def axis_of(value: ir.Value | None, axis: int) -> int:
    """Return an axis counted from the front.

    Raises:
        NotFusibleError: how many there are is not known.
    """
    rank = readers.rank_of(value)
    if rank is None:
        raise NotFusibleError("the axes of a value are not known")
    return axis % rank


def _transposed(node: ir.Node, scaling: Scaling, _: Constants, back: bool) -> Scaling:
    if scaling.axis is None:
        return scaling
    order = readers.integers(node, "perm")
    if order is None:
        order = tuple(reversed(range(axis_of(node.inputs[0], -1) + 1)))
    return replace(scaling, axis=order[scaling.axis] if back else order.index(scaling.axis))


def _reshaped(node: ir.Node, scaling: Scaling, _: Constants, back: bool) -> Scaling:
    before, after = node.inputs[0], node.outputs[0]
    assert before is not None
    if scaling.axis is None:
        return scaling
    if before.shape is None or after.shape is None:
        raise NotFusibleError("the shapes of a reshaped value are not known")
    shapes = (tuple(before.shape), tuple(after.shape))
    return reshaped(scaling, *(reversed(shapes) if back else shapes))


def is_same_size(one: object, other: object) -> bool:
    """Whether two sizes are one number, or bear one name that the file gave them."""
    if isinstance(one, int) or isinstance(other, int):
        return one == other
    name = getattr(one, "value", None)
    made_up = name is None or str(name).startswith(_MADE_UP)
    return not made_up and name == getattr(other, "value", None)


def reshaped(scaling: Scaling, before: Sequence[object], after: Sequence[object]) -> Scaling:
    """Return the same factors and shifts along the axis that a reshaped value has them on.

    Exact when: the axis is among leading axes that stay, or in a block of axes of known size that
    ends as far from the end as another one of the same size, over which what is carried depends on
    one axis alone.

    Raises:
        NotFusibleError: there is no such axis.
    """
    axis = scaling.axis
    assert axis is not None
    for index in range(min(len(before), len(after), axis + 1)):
        if not is_same_size(before[index], after[index]):
            break
        if index == axis:
            return scaling
    ends = len(before), len(after)
    while min(ends) > 0:
        starts = _block(before, after, ends)
        if starts[0] <= axis < ends[0]:
            own, other = before[starts[0] : ends[0]], after[starts[1] : ends[1]]
            return _over_block(scaling, own, other, axis - starts[0], starts[1])
        ends = starts
    raise NotFusibleError("the channels of a reshaped value are not on one axis")


def _block(
    before: Sequence[object], after: Sequence[object], ends: tuple[int, int]
) -> tuple[int, int]:
    """Return where the smallest blocks of axes begin that end there and have one size."""
    at = [ends[0] - 1, ends[1] - 1]
    sizes = [_known(before, at[0]), _known(after, at[1])]
    while sizes[0] != sizes[1]:
        shorter = 0 if sizes[0] < sizes[1] else 1
        at[shorter] -= 1
        sizes[shorter] *= _known((before, after)[shorter], at[shorter])
    return at[0], at[1]


def _known(shape: Sequence[object], index: int) -> int:
    size = shape[index] if index >= 0 else None
    if not isinstance(size, int) or size == 0:
        raise NotFusibleError("the channels of a reshaped value are next to an open size")
    return size


def _over_block(
    scaling: Scaling, own: Sequence[object], other: Sequence[object], axis: int, start: int
) -> Scaling:
    sizes, into = tuple(map(int, map(str, own))), tuple(map(int, map(str, other)))
    if prod(sizes) > _MOST:
        raise NotFusibleError("a reshaped block of axes is too large to look at")

    def spread(array: Array) -> Array:
        shape = [1] * len(sizes)
        shape[axis] = sizes[axis]
        return np.broadcast_to(array.reshape(shape), sizes).reshape(into)

    scale, shift = spread(scaling.scale), spread(scaling.shift)
    for index in range(len(into)):
        along = tuple(slice(None) if at == index else slice(1) for at in range(len(into)))
        if (scale == scale[along]).all() and (shift == shift[along]).all():
            return Scaling(scale[along].reshape(-1), shift[along].reshape(-1), start + index)
    raise NotFusibleError("the channels of a reshaped value are spread over several axes")


def _max_pool(node: ir.Node, scaling: Scaling, _: Constants, __: bool) -> Scaling:
    if len(node.outputs) > 1 and any(output.uses() for output in node.outputs[1:]):
        raise NotFusibleError("the positions of a MaxPool are read")
    if not (scaling.scale > 0).all():
        raise NotFusibleError("a factor that is not above zero does not pass through a MaxPool")
    return _pooled(scaling)


def _average_pool(node: ir.Node, scaling: Scaling, _: Constants, __: bool) -> Scaling:
    """Every window is a mean, so all but zeros that count in it let a shift through."""
    counts = readers.integer(node, "count_include_pad", 0)
    padded = any(readers.integers(node, "pads") or ()) or readers.integer(node, "ceil_mode", 0)
    padded = padded or readers.text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if counts and padded and scaling.shift.any():
        raise NotFusibleError("a shift does not pass through a mean that counts padding")
    return _pooled(scaling)


def _global_pool(_node: ir.Node, scaling: Scaling, _: Constants, __: bool) -> Scaling:
    return _pooled(scaling)


def _pooled(scaling: Scaling) -> Scaling:
    if scaling.axis not in (None, 1):
        raise NotFusibleError("pooling mixes what is scaled by different factors")
    return scaling


def _mean(node: ir.Node, scaling: Scaling, constants: Constants, back: bool) -> Scaling:
    if scaling.axis is None:
        return scaling
    axes = readers.integers(node, "axes")
    if axes is None and len(node.inputs) > 1:
        given = constants.get(node.inputs[1])
        axes = None if given is None else tuple(int(axis) for axis in given.reshape(-1))
    if not axes:
        raise NotFusibleError("a mean over all axes mixes what is scaled by different factors")
    over = {axis_of(node.inputs[0], axis) for axis in axes}
    if readers.integer(node, "keepdims", 1):
        kept = {axis: axis for axis in range(axis_of(node.inputs[0], -1) + 1)}
    else:
        left = [axis for axis in range(axis_of(node.inputs[0], -1) + 1) if axis not in over]
        kept = {axis: index for index, axis in enumerate(left)}
    if back:
        kept = {index: axis for axis, index in kept.items()}
    axis = kept.get(scaling.axis)
    if axis is None or (axis if back else scaling.axis) in over:
        raise NotFusibleError("a mean mixes what is scaled by different factors")
    return replace(scaling, axis=axis)


def _sliced(node: ir.Node, scaling: Scaling, constants: Constants, back: bool) -> Scaling:
    if scaling.axis is None:
        return scaling
    value = node.inputs[0]
    whole = readers.size_of(value, scaling.axis)
    starts, ends, axes, steps = bounds_of(node, constants)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis_of(value, axis) != scaling.axis:
            continue
        if whole is None or step <= 0:
            raise NotFusibleError("the size of what is sliced is not known")
        rows = slice(start, end, step)
        if not back:
            return Scaling(scaling.scale[rows], scaling.shift[rows], scaling.axis)
        scale, shift = np.ones(whole), np.zeros(whole)
        scale[rows], shift[rows] = scaling.scale, scaling.shift
        return Scaling(scale, shift, scaling.axis)
    return scaling


def _product(node: ir.Node, scaling: Scaling, constants: Constants, _: bool) -> Scaling:
    """One factor passes through a product of two values; in the first of them, whichever it is."""
    if scaling.axis is not None or scaling.shift.any() or constants.known(node.inputs[0]):
        raise NotFusibleError("only one factor for all passes through a product of two values")
    return scaling


_RULES: dict[str, _Rule] = {
    "AveragePool": _average_pool,
    "Flatten": _reshaped,
    "GlobalAveragePool": _global_pool,
    "MatMul": _product,
    "MaxPool": _max_pool,
    "ReduceMean": _mean,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": _reshaped,
    "Transpose": _transposed,
    "Unsqueeze": _reshaped,
}
