"""The steps that random graphs grow by: one node each, or the nodes of one block."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from hypothesis import strategies as st

from tests.graph.builder import Value
from tests.graph.programs import Recorder

Draw = Callable[..., Any]


class Growth:
    """A graph that grows by one drawn step at a time."""

    def __init__(self, draw: Draw, rank: int, settings: dict[str, Any]) -> None:
        self.draw, self.rank, self.record = draw, rank, Recorder(**settings)
        self.values: list[Value] = []
        self.weights: list[tuple[Value, dict[str, Any]]] = []
        self.unread: set[Value] = set()

    def shape(self, x: Value) -> tuple[int, ...]:
        return self.record.g.shape(x)

    def keep(self, made: Any) -> None:
        for value in made if isinstance(made, tuple) else (made,):
            self.values.append(value)
            self.unread.add(value)

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        for part in args:
            for value in part if isinstance(part, list | tuple) else (part,):
                self.unread.discard(value)
        return self.record.call(method, *args, **options)

    def pick(self, *candidates: Value) -> Value:
        """One of the values, the newest first."""
        found = list(candidates) or self.values
        return found[-1 - self.draw(st.integers(0, len(found) - 1))]

    def like(self, x: Value) -> list[Value]:
        return [value for value in self.values if self.shape(value) == self.shape(x)]

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))


# steps: each takes the graph and a value, and returns a new value or None where it cannot


def step_conv(grow: Growth, x: Value) -> Any:
    """A convolution of the same size, most often: those can be added."""
    channels, axes = grow.shape(x)[1], len(grow.shape(x)) - 2
    kind = grow.one_of("dense", "depthwise", "same", "grouped")
    out = {"dense": grow.draw(st.integers(1, 5))}.get(kind, channels)
    groups = {"depthwise": channels, "grouped": 2 if channels % 2 == 0 else 1}.get(kind, 1)
    kernel = [grow.one_of(1, 3) for _ in range(axes)]
    dilation = [grow.one_of(1, 1, 2) for _ in range(axes)]
    stride = grow.one_of(1, 1, 1, 2)
    padding = [k // 2 * d for k, d in zip(kernel, dilation, strict=True)]
    return grow.call(
        "conv", x, out, kernel, padding=padding, dilation=dilation, groups=groups,
        stride=[stride] * axes, bias=grow.draw(st.booleans()),
    )  # fmt: skip


def step_free_conv(grow: Growth, x: Value) -> Any:
    """A convolution of any kernel, stride, dilation and padding on either side."""
    channels, axes = grow.shape(x)[1], len(grow.shape(x)) - 2
    kernel = [grow.one_of(1, 2, 3) for _ in range(axes)]
    dilation = [grow.one_of(1, 2) for _ in range(axes)]
    stride = [grow.one_of(1, 2, 3) for _ in range(axes)]
    padding = [(grow.one_of(0, 1, 2), grow.one_of(0, 1)) for _ in range(axes)]
    for size, k, d, pads in zip(grow.shape(x)[2:], kernel, dilation, padding, strict=True):
        if size + sum(pads) < (k - 1) * d + 1:
            return None
    groups = grow.one_of(1, channels)
    out = groups * grow.one_of(1, 2)
    return grow.call(
        "conv", x, out, kernel, stride=stride, padding=padding, dilation=dilation,
        groups=groups, bias=grow.draw(st.booleans()),
    )  # fmt: skip


def step_auto_conv(grow: Growth, x: Value) -> Any:
    axes = len(grow.shape(x)) - 2
    mode = grow.one_of("SAME_UPPER", "SAME_LOWER")
    kernel = [grow.one_of(1, 2, 3) for _ in range(axes)]
    stride = [grow.one_of(1, 2) for _ in range(axes)]
    return grow.call("conv", x, grow.shape(x)[1], kernel, stride=stride, auto_pad=mode)


def step_shared_conv(grow: Growth, x: Value) -> Any:
    """A convolution whose weight others may have too."""
    channels, axes = grow.shape(x)[1], len(grow.shape(x)) - 2
    if grow.record.g.weights == "fed":
        return None
    fitting = [w for w, _ in grow.weights if grow.shape(w)[1] == channels]
    if not fitting or grow.draw(st.booleans()):
        kind = grow.one_of("", "", "overridable", "fed")
        shape = [channels, channels, *[3] * axes]
        weight = grow.record.call("weight", shape, kind)
        grow.weights.append((weight, {}))
        fitting = [weight]
    fitting = [w for w in fitting if len(grow.shape(w)) == axes + 2]
    return grow.call("conv", x, weight=grow.pick(*fitting), padding=1) if fitting else None


def step_conv_transpose(grow: Growth, x: Value) -> Any:
    axes = len(grow.shape(x)) - 2
    kernel, stride = grow.one_of(1, 2, 3), grow.one_of(1, 2)
    groups = 2 if grow.shape(x)[1] % 2 == 0 and grow.draw(st.booleans()) else 1
    if not 1 < min(grow.shape(x)[2:]) <= max(grow.shape(x)[2:]) <= 20:
        return None
    return grow.call(
        "conv_transpose", x, grow.shape(x)[1], [kernel] * axes, stride=stride,
        padding=kernel // 2, groups=groups, bias=grow.draw(st.booleans()),
    )  # fmt: skip


def step_bn(grow: Growth, x: Value) -> Any:
    return grow.call("bn", x, grow.one_of(1e-5, 1e-3))


def step_affine(grow: Growth, x: Value) -> Any:
    """An operation with a constant on either side."""
    shape = grow.one_of("C11", "1C11", "scalar", "one", "last")
    if shape in ("C11", "1C11") and len(grow.shape(x)) > 2:
        factor = grow.record.call("per_channel", x, shape)
    elif shape == "last" and len(grow.shape(x)) > 1 and _is_fixed(grow, x, -1):
        factor = grow.record.call("per_channel", x, "C")
    else:
        factor = grow.record.call("scalar", None, [1] if shape == "one" else [])
    method = grow.one_of("mul", "add", "sub", "div")
    flipped = method != "div" and grow.draw(st.booleans())
    return grow.call(method, *((factor, x) if flipped else (x, factor)))


def _is_fixed(grow: Growth, x: Value, axis: int) -> bool:
    """Whether an axis has one length on every probe, as far as the graph's inputs tell."""
    return not grow.record.g.open_axes or len(grow.shape(x)) == 2


def step_plain(grow: Growth, x: Value) -> Any:
    return grow.call(grow.one_of("neg", "identity", "dropout"), x)


def step_curved(grow: Growth, x: Value) -> Any:
    return grow.call(grow.one_of("relu", "sigmoid", "gelu", "silu", "hard_swish"), x)


def step_combine(grow: Growth, x: Value) -> Any:
    """Two or three values of one shape."""
    others = grow.like(x)
    method = grow.one_of("add", "add", "sub", "sum")
    count = 2 if method == "sub" else grow.one_of(2, 3)
    parts = [x, *(grow.pick(*others) for _ in range(count - 1))]
    return grow.call(method, *(parts[::-1] if grow.draw(st.booleans()) else parts))


def step_gate(grow: Growth, x: Value) -> Any:
    """A product, or a sum with something broadcast: neither is a branch of a sum."""
    if len(grow.shape(x)) < 3:
        return grow.call("mul", x, grow.pick(*grow.like(x)))
    single = [v for v in grow.values if _broadcasts(grow.shape(v), grow.shape(x))]
    if not single:
        single = [grow.call("global_average_pool", x)]
        grow.keep(single[0])
    return grow.call(grow.one_of("add", "mul", "sub"), x, grow.pick(*single))


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return (
        len(small) == len(large)
        and small != large
        and all(a in (1, b) for a, b in zip(small, large, strict=True))
    )


def step_branches(grow: Growth, x: Value) -> Any:
    """A block in one step: two or three convolutions of one value, added."""
    channels, axes = grow.shape(x)[1], len(grow.shape(x)) - 2
    groups = grow.one_of(1, channels)
    stride = grow.one_of(1, 1, 2)
    parts = []
    for _ in range(grow.one_of(2, 3)):
        kernel = grow.one_of(3, 1, 5)
        part = grow.call(
            "conv", x, channels, kernel, padding=kernel // 2, groups=groups, stride=stride,
            bias=grow.draw(st.booleans()),
        )  # fmt: skip
        parts.append(grow.call("bn", part) if grow.draw(st.booleans()) else part)
        grow.values.append(parts[-1])
    if stride == 1 and grow.draw(st.booleans()):
        parts.append(grow.call("bn", x) if grow.draw(st.booleans()) else x)
    return grow.call(grow.one_of("add", "sum"), *parts) if axes else None


def step_concat(grow: Growth, x: Value) -> Any:
    axis = grow.one_of(1, 1, 1, 2) if len(grow.shape(x)) > 2 and not grow.record.g.open_axes else 1
    fitting = [
        v for v in grow.values if _all_but(grow.shape(v), axis) == _all_but(grow.shape(x), axis)
    ]
    return grow.call("concat", x, grow.pick(*fitting), axis=axis)


def _all_but(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return (*shape[:axis], -1, *shape[axis + 1 :])


def step_split(grow: Growth, x: Value) -> Any:
    channels = grow.shape(x)[1]
    if channels < 2:
        return None
    first = grow.draw(st.integers(1, channels - 1))
    made = grow.call("split", x, [first, channels - first])
    grow.values.append(made[1])
    grow.unread.add(made[1])
    return made[0]


def step_slice(grow: Growth, x: Value) -> Any:
    channels = grow.shape(x)[1]
    start = grow.draw(st.integers(0, channels - 1))
    stop = grow.one_of(channels, start + 1, -1, 100)
    step = grow.one_of(1, 1, 2) if grow.record.g.opset >= 10 else 1
    if len(range(channels)[start:stop:step]) == 0:
        return None
    return grow.call("slice", x, start, stop, step=step)


def step_cut(grow: Growth, x: Value) -> Any:
    """A row off the image."""
    return grow.call("slice", x, 1, 100, axis=2) if grow.shape(x)[2] > 3 else None


def step_pad(grow: Growth, x: Value) -> Any:
    axes = len(grow.shape(x)) - 2
    padding = [(grow.one_of(0, 1), grow.one_of(1, 0)) for _ in range(axes)]
    value = grow.one_of(0.0, 0.0, 0.5)
    if min(grow.shape(x)[2:]) > 2 and grow.one_of(False, False, True):
        return grow.call("pad", x, padding, mode="reflect")
    return grow.call("pad", x, padding, value=value)


def step_average(grow: Growth, x: Value) -> Any:
    axes, kernel = len(grow.shape(x)) - 2, grow.one_of(2, 3)
    padding = grow.one_of(0, 1)
    if min(grow.shape(x)[2:]) + 2 * padding < kernel:
        return None
    return grow.call(
        "average_pool", x, [kernel] * axes, grow.one_of(1, 2), padding,
        include_pad=grow.draw(st.booleans()),
    )  # fmt: skip


def step_max(grow: Growth, x: Value) -> Any:
    if min(grow.shape(x)[2:]) < 3:
        return None
    return grow.call("max_pool", x, 3, grow.one_of(1, 2), 1)


def step_mean(grow: Growth, x: Value) -> Any:
    if grow.draw(st.booleans()):
        return grow.call("global_average_pool", x)
    axes = list(range(2, len(grow.shape(x))))
    return grow.call("reduce_mean", x, axes, keepdims=grow.draw(st.booleans()))


def step_flatten(grow: Growth, x: Value) -> Any:
    """To two axes, by way of the mean where the sizes are open."""
    if grow.record.g.open_axes or max(grow.shape(x)[2:]) > 4:
        x = grow.call("global_average_pool", x)
    return grow.call("flatten", x)


def step_positions(grow: Growth, x: Value) -> Any:
    """(N, C, ...) to (N, C, positions); exporters write in a batch of known size, too."""
    return grow.call("reshape", x, _target(grow, x, grow.shape(x)[1]))


def step_tokens(grow: Growth, x: Value) -> Any:
    """(N, C, ...) to (N, positions, C), as transformers want it."""
    return grow.call("transpose", step_positions(grow, x), [0, 2, 1])


def step_heads(grow: Growth, x: Value) -> Any:
    """Channels to two axes, and parts of either: queries, keys and values of attention."""
    channels = grow.shape(x)[1]
    if channels % 2:
        return None
    y = grow.call("reshape", x, _target(grow, x, *grow.one_of((2, channels // 2), (channels, 1))))
    if grow.draw(st.booleans()):
        y = grow.call("transpose", y, grow.one_of([0, 1, 3, 2], [0, 2, 1, 3], [1, 0, 2, 3]))
    axis = grow.one_of(0, 1, 2)
    size = grow.shape(y)[axis]
    if size < 2 or (grow.record.g.open_axes and axis != 1):
        return y
    made = grow.call("split", y, [1, size - 1], axis=axis)
    grow.keep(made[1])
    return made[0]


def step_mixer(grow: Growth, x: Value) -> Any:
    """A factor that stands before or behind axes laid out anew, as in networks of tokens."""
    shape = grow.shape(x)
    x = grow.call("relu", x)
    early = grow.draw(st.booleans())
    y = grow.call("bn", x) if early else grow.call("conv", x, shape[1], 1)
    y = grow.call("reshape", y, _target(grow, x, shape[1]))
    parts = [y]
    if shape[1] > 1 and grow.draw(st.booleans()):
        parts = list(grow.call("split", y, [1, shape[1] - 1]))
    if early:
        made = [grow.call("conv", part, 2, 1) for part in parts]
    else:
        made = [grow.call("bn", parts[0]), *parts[1:]]
    for value in made[1:]:
        grow.keep(grow.call("sigmoid", value))
    return grow.call("relu", made[0])


def _target(grow: Growth, x: Value, *middle: int) -> list[int]:
    batch, _, *sizes = grow.shape(x)
    if grow.record.g.open_axes:
        return [0, *middle, -1]
    target = [grow.one_of(0, batch, batch), *middle, prod(sizes)]
    target[grow.one_of(0, -1, -1)] = -1
    return target


def step_scores(grow: Growth, x: Value) -> Any:
    """The product of two values over their last axis, and a factor."""
    if len(grow.shape(x)) < 3 or grow.record.g.open_axes:
        return None
    fitting = [v for v in grow.values if _all_but(grow.shape(v), -2) == _all_but(grow.shape(x), -2)]
    order = [*range(len(grow.shape(x)) - 2), -1, -2]
    order = [axis % len(order) for axis in order]
    keys = grow.call("transpose", grow.pick(*fitting), order)
    made = grow.call("matmul_of", x, keys)
    return grow.call("mul", made, grow.record.call("scalar", None, []))


def step_layout(grow: Growth, x: Value) -> Any:
    """There and back: channels last, or positions in one axis."""
    if len(grow.shape(x)) == 4 and grow.draw(st.booleans()):
        last = grow.call("transpose", x, [0, 2, 3, 1])
        if grow.draw(st.booleans()):
            last = grow.call("mul", last, grow.record.call("per_channel", last, "C"))
        return grow.call("transpose", last, [0, 3, 1, 2])
    if grow.record.g.open_axes:
        return None
    flat = grow.call("reshape", x, [0, 0, -1])
    if grow.draw(st.booleans()):
        flat = grow.call("bn", flat)
    return grow.call("reshape", flat, list(grow.shape(x)))


def step_trap(grow: Growth, x: Value) -> Any:
    """Axes exchanged: what was H is where the channels were."""
    if len(grow.shape(x)) < 3 or grow.record.g.open_axes:
        return None
    perm = [0, 2, 1, *range(3, len(grow.shape(x)))]
    return grow.call("transpose", x, perm)


def step_linear(grow: Growth, x: Value) -> Any:
    out = grow.draw(st.integers(1, 5))
    if len(grow.shape(x)) == 2 and grow.draw(st.booleans()):
        return grow.call("gemm", x, out, bias=grow.draw(st.booleans()))
    if not _is_fixed(grow, x, -1):
        return None
    return grow.call("matmul", x, out, bias=grow.draw(st.booleans()))


def step_if(grow: Growth, x: Value) -> Any:
    grow.unread.discard(x)
    return grow.call("if_reads", x)


IMAGE_STEPS = (
    step_conv, step_conv, step_conv, step_bn, step_bn, step_affine, step_affine, step_combine,
    step_combine, step_branches, step_branches, step_curved, step_plain, step_free_conv,
    step_concat, step_split, step_slice, step_pad, step_average, step_shared_conv,
    step_conv_transpose, step_auto_conv, step_gate, step_max, step_mean, step_layout, step_trap,
    step_cut, step_flatten, step_positions, step_tokens, step_heads, step_mixer, step_scores,
    step_linear, step_if,
)  # fmt: skip
FLAT_STEPS = (
    step_linear, step_linear, step_bn, step_affine, step_affine, step_combine, step_curved,
    step_plain, step_concat, step_split, step_slice, step_gate, step_if,
)  # fmt: skip
