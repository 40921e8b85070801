"""Operators that compute nothing: they cut, join, order, count and copy elements."""

from __future__ import annotations

from math import prod

import numpy as np

from reparam.graph.evaluation_calls import (
    Array,
    Call,
    Inputs,
    axis_within,
    given,
    integers,
    need,
)
from reparam.graph.evaluation_windows import padded

_ELEMENT_KINDS = {**dict.fromkeys((1, 10, 11, 16, 17, 18, 19, 20), np.float64), 9: np.bool_}
_ELEMENT_KINDS |= dict.fromkeys((2, 3, 4, 5, 6, 7, 12, 13), np.int64)  # of TensorProto.DataType
_UNLIMITED = 2**31 - 1
_NUMPY_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def constant(call: Call, _: Inputs) -> Array:
    for name, kind in (("value_float", np.float64), ("value_floats", np.float64),
                       ("value_int", np.int64), ("value_ints", np.int64)):  # fmt: skip
        if name in call.attributes:
            found = np.asarray(call.attributes[name])
            return (found.astype(np.float32) if kind is np.float64 else found).astype(kind)
    if "value" not in call.attributes:
        raise call.refuse("of a kind that has no numbers")
    value: Array = call.attributes["value"]
    return value


def cast(call: Call, inputs: Inputs) -> Array:
    """Floats of any width stay float64: what rounding them does is no part of the meaning."""
    x, target = need(call, inputs, 0), _ELEMENT_KINDS.get(call.int("to", 0))
    if target is None:
        raise call.refuse(f"to element type {call.int('to', 0)}")
    return x.astype(target)


def pad(call: Call, inputs: Inputs) -> Array:
    x, mode = need(call, inputs, 0), call.text("mode", "constant")
    axes: tuple[int, ...] = tuple(range(x.ndim))
    if call.opset < 11:
        flat, fill = call.ints("pads", call.ints("paddings", ())), call.float("value", 0.0)
    else:
        flat, value, some = integers(need(call, inputs, 1)), given(inputs, 2), given(inputs, 3)
        fill = 0.0 if value is None else float(value.reshape(-1)[0])
        axes = axes if some is None else integers(some)
    if len(flat) != 2 * len(axes):
        raise call.refuse(f"{len(flat)} pads for {len(axes)} axes")
    pads = [(0, 0)] * x.ndim
    for at, axis in enumerate(axes):
        pads[axis_within(call, axis, x.ndim)] = (flat[at], flat[at + len(axes)])
    if mode == "constant":
        return padded(x, tuple(pads), fill)
    if mode not in _NUMPY_MODES or min(map(min, pads)) < 0:
        raise call.refuse(f"mode '{mode}' with pads {pads}")
    found: Array = np.pad(x, pads, mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return found


def concat(call: Call, inputs: Inputs) -> Array:
    parts = [need(call, inputs, at) for at in range(len(inputs))]
    return np.concatenate(parts, axis=axis_within(call, call.int("axis", 1), parts[0].ndim))


def split(call: Call, inputs: Inputs) -> tuple[Array, ...]:
    x = need(call, inputs, 0)
    axis = axis_within(call, call.int("axis", 0), x.ndim)
    given_sizes = given(inputs, 1)
    sizes = call.ints("split", ()) if given_sizes is None else integers(given_sizes)
    if not sizes:
        count = call.int("num_outputs", call.outputs)
        one = -(-x.shape[axis] // count)  # the last part may be smaller, from opset 18 on
        sizes = (one,) * (count - 1) + (x.shape[axis] - one * (count - 1),)
    if sum(sizes) != x.shape[axis] or min(sizes) < 0:
        raise call.refuse(f"of {x.shape[axis]} into {sizes}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def slice_(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    if call.opset < 10:
        starts, ends = call.ints("starts", ()), call.ints("ends", ())
        axes, steps = call.ints("axes", range(len(starts))), (1,) * len(starts)
    else:
        starts, ends = integers(need(call, inputs, 1)), integers(need(call, inputs, 2))
        some, jumps = given(inputs, 3), given(inputs, 4)
        axes = tuple(range(len(starts))) if some is None else integers(some)
        steps = (1,) * len(starts) if jumps is None else integers(jumps)
    at = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_within(call, axis, x.ndim)
        if step < 0 and end >= _UNLIMITED:
            raise call.refuse("backwards to no end, which runtimes read differently")
        at[axis] = _cut(start, end, step, x.shape[axis])
    return x[tuple(at)]


def _cut(start: int, end: int, step: int, size: int) -> slice:
    """Return a slice whose ends are clamped as ONNX has it: negative ones count from the end."""
    start, end = (at + size if at < 0 else at for at in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end == -1 else end, step)


def gather(call: Call, inputs: Inputs) -> Array:
    x, at = need(call, inputs, 0), need(call, inputs, 1)
    found: Array = np.take(x, at, axis=axis_within(call, call.int("axis", 0), x.ndim))
    return found


def scatter_nd(call: Call, inputs: Inputs) -> Array:
    x, at, updates = (need(call, inputs, position) for position in range(3))
    if call.text("reduction", "none") != "none":
        raise call.refuse("with a reduction")
    found: Array = x.copy()
    found[tuple(np.moveaxis(at, -1, 0))] = updates
    return found


def reshape(call: Call, inputs: Inputs) -> Array:
    x, target = need(call, inputs, 0), list(integers(need(call, inputs, 1)))
    if not call.int("allowzero", 0):
        copied = [n == 0 for n in target]
        if any(copied[x.ndim :]):
            raise call.refuse(f"{x.shape} to {tuple(target)}")
        target = [x.shape[at] if zero else target[at] for at, zero in enumerate(copied)]
    known = prod(n for n in target if n != -1)
    if -1 in target and known:
        target[target.index(-1)] = x.size // known
    if min(target, default=1) < 0 or prod(target) != x.size:
        raise call.refuse(f"{x.shape} to {tuple(target)}")
    found: Array = x.reshape(target)
    return found


def flatten(call: Call, inputs: Inputs) -> Array:
    x, axis = need(call, inputs, 0), call.int("axis", 1)
    lead = axis if axis >= 0 else axis + x.ndim
    found: Array = x.reshape((prod(x.shape[:lead]), prod(x.shape[lead:])))
    return found


def transpose(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    found: Array = x.transpose(call.ints("perm", tuple(reversed(range(x.ndim)))))
    return found


def squeeze(call: Call, inputs: Inputs) -> Array:
    x, axes = need(call, inputs, 0), _axes(call, inputs)
    if axes is None:
        return np.squeeze(x)
    return np.squeeze(x, tuple(axis_within(call, axis, x.ndim) for axis in axes))


def unsqueeze(call: Call, inputs: Inputs) -> Array:
    x, axes = need(call, inputs, 0), _axes(call, inputs)
    if axes is None:
        raise call.refuse("without axes")
    return np.expand_dims(x, axes)


def _axes(call: Call, inputs: Inputs) -> tuple[int, ...] | None:
    if call.opset < 13:
        return call.ints("axes", ()) if "axes" in call.attributes else None
    axes = given(inputs, 1)
    return None if axes is None else integers(axes)


def expand(call: Call, inputs: Inputs) -> Array:
    x, target = need(call, inputs, 0), integers(need(call, inputs, 1))
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, target))


def constant_of_shape(call: Call, inputs: Inputs) -> Array:
    value = call.attributes.get("value", np.zeros(1))
    return np.full(integers(need(call, inputs, 0)), value.reshape(-1)[0], dtype=value.dtype)


def shape(call: Call, inputs: Inputs) -> Array:
    sizes = np.array(need(call, inputs, 0).shape, dtype=np.int64)
    return sizes[call.int("start", 0) : call.attributes.get("end")]


def size(call: Call, inputs: Inputs) -> Array:
    return np.array(need(call, inputs, 0).size, dtype=np.int64)
