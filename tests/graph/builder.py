"""A graph builder for tests: one line a node or a block of nodes.

    g = GraphBuilder(opset=17, seed=0)
    x = g.input("x", (None, 8, 14, 14))
    y = g.add(g.bn(g.conv(x, 8, 3, padding=1)), g.bn(g.conv(x, 8, 1)), g.bn(x))
    g.output(g.relu(y))
    model = g.model()

Weights are seeded normal; BatchNorm statistics are those of a trained network: gamma of both signs,
mean of order 1, variance in [0.2, 3]. Biases are not zero. Operators take the form of the opset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.graph.builder_base import DTYPES, GraphBase, Value

Numbers = int | Sequence[int]


class GraphBuilder(GraphBase):
    """See the module; what is not here is ``node(op, *inputs, **attributes)``."""

    # kernels

    def conv(
        self,
        x: Value,
        out: int = 0,
        kernel: Numbers = 1,
        *,
        stride: Numbers = 1,
        padding: Any = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool | Value = False,
        weight: Value | None = None,
        auto_pad: str = "",
    ) -> Value:
        """A convolution; padding is one number, one an axis, or a pair an axis."""
        axes = len(self.shape(x)) - 2
        window = _each(kernel, axes)
        if weight is None:
            weight = self.weight((out, self.channels(x) // groups, *window))
        window = self.shape(weight)[2:]
        given = self._bias(bias, self.shape(weight)[0])
        place: dict[str, Any] = {"auto_pad": auto_pad} if auto_pad else {
            "pads": _pads(padding, axes)}  # fmt: skip
        return self.node(
            "Conv", x, weight, *given, kernel_shape=window, strides=_each(stride, axes),
            dilations=_each(dilation, axes), group=groups, **place,
        )  # fmt: skip

    def depthwise(self, x: Value, kernel: Numbers, **geometry: Any) -> Value:
        return self.conv(x, self.channels(x), kernel, groups=self.channels(x), **geometry)

    def conv_transpose(
        self,
        x: Value,
        out: int,
        kernel: Numbers,
        *,
        stride: Numbers = 1,
        padding: Any = 0,
        groups: int = 1,
        bias: bool | Value = False,
        output_padding: Numbers = 0,
    ) -> Value:
        axes = len(self.shape(x)) - 2
        window = _each(kernel, axes)
        weight = self.weight((self.channels(x), out // groups, *window))
        return self.node(
            "ConvTranspose", x, weight, *self._bias(bias, out), kernel_shape=window, group=groups,
            strides=_each(stride, axes), pads=_pads(padding, axes),
            output_padding=_each(output_padding, axes),
        )  # fmt: skip

    def gemm(self, x: Value, out: int, bias: bool | Value = True) -> Value:
        given = self._bias(bias, out) or ([np.zeros(out)] if self.opset < 11 else [])
        return self.node("Gemm", x, self.weight((out, self.channels(x, -1))), *given, transB=1)

    def matmul(self, x: Value, out: int, bias: bool = False) -> Value:
        inputs = self.channels(x, -1)
        weight = self.constant(self.rng().normal(size=(inputs, out)) / np.sqrt(inputs))
        y = self.node("MatMul", x, weight)
        return self.add(y, *self._bias(bias, out)) if bias else y

    def matmul_of(self, a: Value, b: Value) -> Value:
        """A product of two values, neither of them a weight."""
        return self.node("MatMul", a, b)

    def _bias(self, bias: bool | Value, out: int) -> list[Value]:
        if isinstance(bias, Value):
            return [bias]
        return [self.weight(out)] if bias else []

    # per-channel affine maps

    def norm_parameters(self, channels: int) -> tuple[Value, ...]:
        """Return gamma, beta, mean and variance, to be shared by several BatchNorms."""
        rng = self.rng()
        sign = np.where(rng.random(channels) < 0.4, -1.0, 1.0)
        gamma = sign * rng.uniform(0.3, 2.0, channels)
        beta, mean = rng.normal(size=channels), rng.normal(size=channels)
        variance = rng.uniform(0.2, 3.0, channels)
        return tuple(self.constant(array) for array in (gamma, beta, mean, variance))

    def bn(
        self,
        x: Value,
        epsilon: float = 1e-5,
        *,
        parameters: tuple[Value, ...] | None = None,
        training: bool = False,
    ) -> Value:
        """BatchNormalization; in training it has the outputs that the opset asks for."""
        parameters = parameters or self.norm_parameters(self.channels(x))
        if not training:
            return self.node("BatchNormalization", x, *parameters, epsilon=epsilon)
        more: dict[str, Any] = {"training_mode": 1} if self.opset >= 14 else {}
        count = 3 if self.opset >= 14 else 5
        more |= {"epsilon": epsilon, "count": count}
        found: tuple[Value, ...] = self.node("BatchNormalization", x, *parameters, **more)
        return found[0]

    def per_channel(self, x: Value, shape: str = "C11") -> Value:
        """Return a weight of one number a channel, in the shape exporters give it.

        Args:
            x: the value it is for.
            shape: "C11" or "1C11", with as many axes as ``x`` has; "C" where channels are last.
        """
        ones = [1] * (len(self.shape(x)) - 2)
        if shape == "C":
            return self.constant(self._factors(self.channels(x, -1)))
        first = [1] if shape == "1C11" else []
        return self.constant(self._factors(self.channels(x)).reshape(*first, -1, *ones))

    def scalar(self, value: float | None = None, shape: Sequence[int] = ()) -> Value:
        number = self._factors(1)[0] if value is None else value
        return self.constant(np.full(tuple(shape), number))

    def _factors(self, count: int) -> Any:
        rng = self.rng()
        return rng.uniform(0.4, 1.6, count) * np.where(rng.random(count) < 0.3, -1.0, 1.0)

    # arithmetic: operands are values or numbers

    def add(self, *parts: Any) -> Value:
        """One Add after the other."""
        first, *rest = parts
        for part in rest:
            first = self.node("Add", first, part)
        return first

    def sum(self, *parts: Any) -> Value:
        return self.node("Sum", *parts)

    def sub(self, a: Any, b: Any) -> Value:
        return self.node("Sub", a, b)

    def mul(self, a: Any, b: Any) -> Value:
        return self.node("Mul", a, b)

    def div(self, a: Any, b: Any) -> Value:
        return self.node("Div", a, b)

    def neg(self, x: Value) -> Value:
        return self.node("Neg", x)

    def identity(self, x: Value) -> Value:
        return self.node("Identity", x)

    def dropout(self, x: Value) -> Value:
        if self.opset < 12:
            return self.node("Dropout", x, ratio=0.3)
        return self.node("Dropout", x, self.constant(0.3, "initializer"))

    # what is not linear

    def relu(self, x: Value) -> Value:
        return self.node("Relu", x)

    def sigmoid(self, x: Value) -> Value:
        return self.node("Sigmoid", x)

    def silu(self, x: Value) -> Value:
        return self.mul(x, self.sigmoid(x))

    def hard_swish(self, x: Value) -> Value:
        return self.mul(x, self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))

    def gelu(self, x: Value) -> Value:
        """x * (1 + erf(x / sqrt(2))) * 0.5, as PyTorch exports it."""
        grown = self.add(self.node("Erf", self.div(x, self.scalar(2**0.5))), self.scalar(1.0))
        return self.mul(self.mul(x, grown), self.scalar(0.5))

    def squeeze_excite(self, x: Value, hidden: int = 2) -> Value:
        gate = self.relu(self.conv(self.node("GlobalAveragePool", x), hidden, bias=True))
        return self.mul(x, self.sigmoid(self.conv(gate, self.channels(x), bias=True)))

    def max_pool(self, x: Value, kernel: Numbers, stride: Numbers = 1, padding: Any = 0) -> Value:
        axes = len(self.shape(x)) - 2
        return self.node("MaxPool", x, kernel_shape=_each(kernel, axes),
                         strides=_each(stride, axes), pads=_pads(padding, axes))  # fmt: skip

    # pooling, padding, layout

    def average_pool(
        self, x: Value, kernel: Numbers, stride: Numbers = 1, padding: Any = 0,
        include_pad: bool = True, **more: Any,
    ) -> Value:  # fmt: skip
        axes = len(self.shape(x)) - 2
        return self.node(
            "AveragePool", x, kernel_shape=_each(kernel, axes), strides=_each(stride, axes),
            pads=_pads(padding, axes), count_include_pad=int(include_pad), **more,
        )  # fmt: skip

    def global_average_pool(self, x: Value) -> Value:
        return self.node("GlobalAveragePool", x)

    def reduce_mean(self, x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        return self._with_ints("ReduceMean", x, 18, ("axes", list(axes)), keepdims=int(keepdims))

    def pad(self, x: Value, padding: Any, value: float = 0.0, mode: str = "constant") -> Value:
        """Pad spatial axes."""
        axes = len(self.shape(x)) - 2
        ends = _pads(padding, axes)
        pads = [0, 0, *ends[:axes], 0, 0, *ends[axes:]]
        if self.opset < 11:
            return self.node("Pad", x, pads=pads, value=value, mode=mode)
        number = self.constant(value, "initializer") if mode == "constant" else None
        return self.node("Pad", x, self._indices(pads), number, mode=mode)

    def concat(self, *parts: Value, axis: int = 1) -> Value:
        return self.node("Concat", *parts, axis=axis)

    def split(self, x: Value, sizes: Sequence[int], axis: int = 1) -> tuple[Value, ...]:
        if self.opset < 13:
            return self.node("Split", x, count=len(sizes), axis=axis, split=list(sizes))
        return self.node("Split", x, self._indices(sizes), count=len(sizes), axis=axis)

    def slice(self, x: Value, start: int, stop: int, axis: int = 1, step: int = 1) -> Value:
        if self.opset < 10:
            return self.node("Slice", x, starts=[start], ends=[stop], axes=[axis])
        numbers = [self._indices([n]) for n in (start, stop, axis, step)]
        return self.node("Slice", x, *numbers)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return self.node("Reshape", x, self._indices(shape))

    def flatten(self, x: Value, axis: int = 1) -> Value:
        return self.node("Flatten", x, axis=axis)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return self.node("Transpose", x, perm=list(perm))

    def squeeze(self, x: Value, axes: Sequence[int]) -> Value:
        return self._with_ints("Squeeze", x, 13, ("axes", list(axes)))

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        return self._with_ints("Unsqueeze", x, 13, ("axes", list(axes)))

    def _with_ints(self, op: str, x: Value, since: int, ints: Any, **more: Any) -> Value:
        """A node whose integers are an attribute, and an input from opset ``since`` on."""
        name, numbers = ints
        if self.opset < since:
            return self.node(op, x, **{name: numbers}, **more)
        return self.node(op, x, self._indices(numbers), **more)

    def _indices(self, numbers: Sequence[int]) -> Value:
        return self.constant(np.array(numbers, np.int64), "initializer")

    # readers in a subgraph

    def if_reads(self, x: Value, op: str = "Neg") -> Value:
        """An If whose branches read ``x`` from outside: ``op(x)`` or x itself."""
        from onnx import helper

        element = DTYPES[self.dtype]
        names = [(self._name(), op), (self._name(), "Identity")]
        graphs = [
            helper.make_graph(
                [helper.make_node(kind, [x], [name], name=f"{kind}_{name}")],
                f"branch_{name}", [], [helper.make_tensor_value_info(name, element, None)],
            )
            for name, kind in names
        ]  # fmt: skip
        if "condition" not in self.inputs:
            self.input("condition", (), dtype="bool")
        return self.node("If", Value("condition"), then_branch=graphs[0], else_branch=graphs[1])


def _each(numbers: Numbers, axes: int) -> list[int]:
    return [numbers] * axes if isinstance(numbers, int) else list(numbers)


def _pads(padding: Any, axes: int) -> list[int]:
    """Return ONNX pads, all the starts and then all the ends."""
    each = [padding] * axes if isinstance(padding, int) else list(padding)
    pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in each]
    return [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
