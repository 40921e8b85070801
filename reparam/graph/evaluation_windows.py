"""Operators that look through windows: convolutions and pools, in 1, 2 or 3 dimensions.

Written from the operator pages of the ONNX specification.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np

from reparam.graph.evaluation_calls import Array, Call, Inputs, given, need

_COLUMNS = 1 << 23  # elements (64 MB) of windows written out at a time

Pads = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """What a kernel sees, one entry a spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: Pads

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def window_of(call: Call, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Window:
    """Return the window of a node over an input of the sizes ``spatial``."""
    axes = len(spatial)
    if len(kernel) != axes:
        raise call.refuse(f"a kernel {kernel} over {axes} spatial axes")
    stride, dilation = call.ints("strides", (1,) * axes), call.ints("dilations", (1,) * axes)
    bare = Window(kernel, stride, dilation, ((0, 0),) * axes)
    return bare._replace(pads=_pads(call, bare, spatial))


def _pads(call: Call, window: Window, spatial: tuple[int, ...]) -> Pads:
    how = call.text("auto_pad", "NOTSET")
    if how in ("NOTSET", ""):
        return explicit_pads(call, len(spatial))
    if how == "VALID":
        return window.pads
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"auto_pad {how}")
    pads = []
    for size, extent, step in zip(spatial, window.extent, window.stride, strict=True):
        total = max((-(-size // step) - 1) * step + extent - size, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if how == "SAME_UPPER" else (more, less))
    return tuple(pads)


def explicit_pads(call: Call, axes: int) -> Pads:
    """Return the attribute ``pads``, all the beginnings and then all the ends, in pairs."""
    flat = call.ints("pads", (0,) * (2 * axes))
    return tuple(zip(flat[:axes], flat[axes:], strict=True))


def padded(x: Array, pads: Pads, fill: float = 0.0) -> Array:
    """Return ``x`` with its last axes padded; negative pads crop."""
    if not any(map(any, pads)):
        return x
    lead = x.ndim - len(pads)
    sizes = [n + before + after for n, (before, after) in zip(x.shape[lead:], pads, strict=True)]
    out = np.full((*x.shape[:lead], *(max(size, 0) for size in sizes)), fill, dtype=x.dtype)
    target, source = [], []
    for n, size, (before, after) in zip(x.shape[lead:], sizes, pads, strict=True):
        target.append(slice(max(before, 0), max(size - max(after, 0), 0)))
        source.append(slice(max(-before, 0), max(n - max(-after, 0), 0)))
    out[_last(target)] = x[_last(source)]
    return out


def _last(cuts: Iterable[slice]) -> Any:
    """Return the index that cuts the last axes alone."""
    return (..., *cuts)


def _tap(lead: int, tap: tuple[int, ...]) -> Any:
    """Return the index of one tap of a kernel, behind ``lead`` axes."""
    return (*(slice(None),) * lead, *tap)


def windows(x: Array, window: Window, size: tuple[int, ...]) -> Array:
    """Return a view (*lead, *kernel, *size) of a padded ``x`` (*lead, *spatial)."""
    axes = len(size)
    lead, steps = x.strides[:-axes], x.strides[-axes:]
    per_tap = tuple(s * d for s, d in zip(steps, window.dilation, strict=True))
    per_output = tuple(s * d for s, d in zip(steps, window.stride, strict=True))
    reach = zip(window.extent, window.stride, size, x.shape[-axes:], strict=True)
    assert all(extent + (n - 1) * step <= given for extent, step, n, given in reach)
    return np.lib.stride_tricks.as_strided(
        x, (*x.shape[:-axes], *window.kernel, *size), (*lead, *per_tap, *per_output),
        writeable=False,
    )  # fmt: skip


def output_size(call: Call, window: Window, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many positions there are along each axis, the last window wholly inside."""
    sizes = []
    for n, pads, extent, step in zip(
        spatial, window.pads, window.extent, window.stride, strict=True
    ):
        sizes.append((n + sum(pads) - extent) // step + 1)
    if min(sizes) < 1:
        raise call.refuse(f"an input {spatial} is smaller than the kernel {window.extent}")
    return tuple(sizes)


def conv(call: Call, inputs: Inputs) -> Array:
    x, weight, bias = need(call, inputs, 0), need(call, inputs, 1), given(inputs, 2)
    groups = call.int("group", 1)
    _check_channels(call, x, weight.shape[1] * groups, weight.shape[0] % groups)
    window = window_of(call, weight.shape[2:], x.shape[2:])
    size = output_size(call, window, x.shape[2:])
    field = padded(x, window.pads)
    y = (_depthwise if weight.shape[1] == 1 else _dense)(field, weight, window, size, groups)
    return y if bias is None else y + by_channel(bias, y)


def conv_integer(call: Call, inputs: Inputs) -> Array:
    """Sums of products of bytes, which float64 holds exactly; padding is the zero point."""
    x, weight = need(call, inputs, 0), need(call, inputs, 1)
    zero, of_weight = given(inputs, 2), given(inputs, 3)
    if zero is not None:
        x = x - zero
    if of_weight is not None:
        weight = weight - of_weight.reshape(-1, *(1,) * (weight.ndim - 1))
    return conv(call, [x.astype(np.float64), weight.astype(np.float64)]).astype(np.int64)


def by_channel(values: Array, x: Array) -> Array:
    """Return ``values`` (C,) in the shape that meets axis 1 of ``x``."""
    return values.reshape((-1,) + (1,) * (x.ndim - 2))


def _check_channels(call: Call, x: Array, channels: int, remainder: int) -> None:
    if x.ndim < 3 or x.shape[1] != channels or remainder:
        raise call.refuse(f"an input {x.shape} where {channels} channels are read")


def _depthwise(
    x: Array, weight: Array, window: Window, size: tuple[int, ...], groups: int
) -> Array:
    seen = windows(x, window, size)
    per_group = weight.reshape(groups, -1, *weight.shape[2:])
    y = np.zeros((x.shape[0], groups, per_group.shape[1], *size))
    for tap in np.ndindex(*window.kernel):
        factor = per_group[_tap(2, tap)].reshape(groups, -1, *(1,) * len(size))
        y += factor * seen[_tap(2, tap)][:, :, None]
    return y.reshape(x.shape[0], -1, *size)


def _dense(x: Array, weight: Array, window: Window, size: tuple[int, ...], groups: int) -> Array:
    """One matrix product a group, over windows written out a few output rows at a time."""
    axes, batch = len(size), x.shape[0]
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    seen = windows(x.reshape(batch, groups, -1, *x.shape[2:]), window, size)
    seen = np.moveaxis(seen, 0, 3 + axes - 1)  # (G, I/G, *kernel, N, *size)
    y = np.empty((groups, rows.shape[1], batch, *size))
    one_row = groups * rows.shape[2] * batch * prod(size[1:])
    step = max(1, _COLUMNS // max(one_row, 1))
    for first in range(0, size[0], step):
        part: tuple[slice, ...] = (slice(first, first + step), *(slice(None),) * (axes - 1))
        columns = seen[_last(part)]
        product_ = np.matmul(rows, columns.reshape(groups, rows.shape[2], -1))
        y[_last(part)] = product_.reshape(groups, -1, batch, *columns.shape[-axes:])
    return np.moveaxis(y, 2, 0).reshape(batch, -1, *size)


def conv_transpose(call: Call, inputs: Inputs) -> Array:
    x, weight, bias = need(call, inputs, 0), need(call, inputs, 1), given(inputs, 2)
    groups, axes = call.int("group", 1), x.ndim - 2
    _check_channels(call, x, weight.shape[0], weight.shape[0] % groups)
    window = Window(
        weight.shape[2:],
        call.ints("strides", (1,) * axes),
        call.ints("dilations", (1,) * axes),
        ((0, 0),) * axes,
    )
    y = _scattered(x, weight, window, groups)
    y = padded(y, _transposed_crop(call, window, x.shape[2:], y.shape[2:]))
    return y if bias is None else y + by_channel(bias, y)


def _scattered(x: Array, weight: Array, window: Window, groups: int) -> Array:
    """Return what every input element adds to the output, before anything is cropped."""
    batch, spatial = x.shape[0], x.shape[2:]
    inside = np.moveaxis(x.reshape(batch, groups, -1, *spatial), 0, 2)  # (G, I/G, N, *spatial)
    rows = weight.reshape(groups, inside.shape[1], -1).transpose(0, 2, 1)
    taps = np.matmul(rows, inside.reshape(groups, inside.shape[1], -1))
    taps = taps.reshape(groups, weight.shape[1], *window.kernel, batch, *spatial)
    size = [(n - 1) * s + e for n, s, e in zip(spatial, window.stride, window.extent, strict=True)]
    y = np.zeros((groups, weight.shape[1], batch, *size))
    for tap in np.ndindex(*window.kernel):
        at = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, window.dilation, spatial, window.stride, strict=True)
        )
        y[_last(at)] += taps[_tap(2, tap)]
    return np.moveaxis(y, 2, 0).reshape(batch, -1, *size)


def _transposed_crop(
    call: Call, window: Window, spatial: tuple[int, ...], full: tuple[int, ...]
) -> Pads:
    """Return, as negative pads, what ConvTranspose takes off; positive ones are output padding."""
    axes = len(spatial)
    extra = call.ints("output_padding", (0,) * axes)
    how, wanted = call.text("auto_pad", "NOTSET"), call.ints("output_shape", ())
    if how in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = tuple(n * s for n, s in zip(spatial, window.stride, strict=True))
    if not wanted:
        pads = explicit_pads(call, axes) if how in ("NOTSET", "") else ((0, 0),) * axes
        return tuple((-a, e - b) for (a, b), e in zip(pads, extra, strict=True))
    crop = []
    for size, more, target in zip(full, extra, wanted[-axes:], strict=True):
        total = size + more - target
        if total < 0:
            raise call.refuse(f"an output {wanted} larger than what it makes, {full}")
        before = total // 2 if how == "SAME_UPPER" else total - total // 2
        crop.append((-before, more - (total - before)))
    return tuple(crop)


def average_pool(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    window, size = _pool(call, x)
    reach = _reach(window, size, x.shape[2:])
    total = windows(padded(x, reach), window, size).sum(axis=tuple(range(2, x.ndim)))
    inside = call.int("count_include_pad", 0) == 1
    counts = [_counted(n, window, size[axis], axis, inside) for axis, n in enumerate(x.shape[2:])]
    result: Array = total / reduce(np.multiply.outer, counts)
    return result


def _counted(n: int, window: Window, size: int, axis: int, include_pad: bool) -> Array:
    """Return, for each position on an axis, how many of its taps count."""
    before, after = window.pads[axis]
    low, high = (-before, n + after) if include_pad else (0, n)
    first = np.arange(size) * window.stride[axis] - before
    taps = first[:, None] + np.arange(window.kernel[axis]) * window.dilation[axis]
    counted: Array = ((taps >= low) & (taps < high)).sum(axis=1).astype(np.float64)
    return counted


def max_pool(call: Call, inputs: Inputs) -> Array:
    x = need(call, inputs, 0)
    if call.outputs > 1:
        raise call.refuse("indices of the maxima")
    window, size = _pool(call, x)
    field = padded(x, _reach(window, size, x.shape[2:]), -np.inf)
    found: Array = windows(field, window, size).max(axis=tuple(range(2, x.ndim)))
    return found


def _pool(call: Call, x: Array) -> tuple[Window, tuple[int, ...]]:
    spatial = x.shape[2:]
    window = window_of(call, call.ints("kernel_shape", ()), spatial)
    if max(window.dilation) > 1 and call.text("auto_pad", "NOTSET").startswith("SAME"):
        raise call.refuse("dilation with auto_pad, which runtimes read differently")
    if not call.int("ceil_mode", 0):
        return window, output_size(call, window, spatial)
    sizes = []
    for n, (before, after), extent, step in zip(
        spatial, window.pads, window.extent, window.stride, strict=True
    ):
        size = -(-(n + before + after - extent) // step) + 1
        # a window that would begin in the padding behind the input is none
        sizes.append(size - 1 if (size - 1) * step >= n + before else size)
    if min(sizes) < 1:
        raise call.refuse(f"an input {spatial} is smaller than the kernel {window.extent}")
    return window, tuple(sizes)


def _reach(window: Window, size: tuple[int, ...], spatial: tuple[int, ...]) -> Pads:
    """Return pads up to the end of the last window, which may be past those of the node."""
    pads = []
    for axis, (before, _) in enumerate(window.pads):
        end = (size[axis] - 1) * window.stride[axis] + window.extent[axis]
        pads.append((before, end - before - spatial[axis]))
    return tuple(pads)


def conv_roundings(call: Call, inputs: Inputs) -> int:
    """The taps of one output, and the bias."""
    return int(need(call, inputs, 1)[0].size) + 1


def transposed_roundings(call: Call, inputs: Inputs) -> int:
    """At most as many taps as one output channel has."""
    weight = need(call, inputs, 1)
    return int(weight[:, 0].size) // call.int("group", 1) + 1


def pool_roundings(call: Call, _: Inputs) -> int:
    return prod(call.ints("kernel_shape", ())) + 1
