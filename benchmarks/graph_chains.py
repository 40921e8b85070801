"""Long graphs, one kind each for what could make a fuser slow, as ONNX files.

    affine       x * c + t again and again: one region as long as the graph
    blocks       blocks of RepVGG with BatchNorms: many small regions
    nothing      Conv, Relu: nothing to fuse
    residual     x + Conv(x), no activation: every value is one convolution of every earlier one
    escaping     a linear chain of which every value is also read by a Relu: nothing may vanish
    shortcuts    x * c + input: every value is an affine map of the input, along two ways
    relu         Relu alone: nothing at all to do
    folding      Conv, BatchNormalization, Relu: a small region for every activation
    soup         Reshape to a shape that Constant, Shape, Gather and Concat nodes compute
    layout       Reshape, Transpose, Relu: shapes to infer, and nothing to fuse
    attention    layer normalisation in parts, a head of attention, a residual Add
    recurrent    an LSTM cell written out, step by step: small MatMul with shared weights

and files of a given size, of blocks of RepVGG that are few and wide, or many and narrow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS = 8
PIXELS = 8
OPSET = 17


class Graph:
    """Nodes in the order they are added, each with one output."""

    def __init__(self, channels: int, pixels: int = PIXELS, seed: int = 0) -> None:
        self.channels, self.pixels = channels, pixels
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.shared: dict[Any, str] = {}

    def weight(self, values: np.ndarray) -> str:
        return self._held(values.astype(np.float32))

    def _held(self, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def kept(self, values: Any) -> str:
        """Return an initializer of int64, the same one for the same numbers."""
        key = ("kept", tuple(values))
        if key not in self.shared:
            self.shared[key] = self._held(np.array(values, np.int64))
        return self.shared[key]

    def integers(self, values: Any) -> str:
        """Return a Constant node of int64."""
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))

    def scalar(self, value: float) -> str:
        return self.weight(np.array(value))

    def vector(self, middle: float) -> str:
        """Return a number about ``middle`` for each of the last axis."""
        return self.weight(self.rng.normal(middle, 0.1, self.pixels))

    def linear(self, x: str) -> str:
        """Multiply the last axis by a matrix."""
        matrix = self.rng.normal(size=(self.pixels, self.pixels)) / np.sqrt(self.pixels)
        return self.add("MatMul", x, self.weight(matrix))

    def shared_linear(self, name: str, x: str) -> str:
        """Multiply the last axis by the matrix that goes by a name."""
        if name not in self.shared:
            self.linear(x)
            self.shared[name] = self.nodes.pop().input[1]
        return self.add("MatMul", x, self.shared[name])

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def constant(self, op: str, x: str) -> str:
        """Multiply by about 1, or add about 0, a constant for each channel."""
        values = self.rng.normal(0.0, 0.1, (1, self.channels, 1, 1))
        return self.add(op, x, self.weight(values + (1.0 if op == "Mul" else 0.0)))

    def conv(
        self, x: str, kernel: int = 3, gain: float = 1.0, bias: np.ndarray | None = None
    ) -> str:
        shape = (self.channels, self.channels, kernel, kernel)
        values = self.rng.normal(size=shape) * gain / np.sqrt(np.prod(shape[1:]))
        weights = [self.weight(array) for array in (values, bias) if array is not None]
        return self.add("Conv", x, *weights, kernel_shape=[kernel, kernel],
                        pads=[kernel // 2] * 4)  # fmt: skip

    def norm(self, x: str) -> str:
        """Add a BatchNormalization with a gamma of either sign, so small that values stay so."""
        count = (self.channels,)
        gamma = self.rng.uniform(0.2, 0.6, count) * self.rng.choice([-1.0, 1.0], count)
        rest = (gamma, self.rng.normal(size=count), self.rng.normal(size=count))
        variance = self.rng.uniform(0.2, 3.0, count)
        return self.add("BatchNormalization", x, *map(self.weight, (*rest, variance)), epsilon=1e-5)

    def block(self, x: str) -> str:
        """Add a block of RepVGG: eight nodes."""
        wide, point = self.norm(self.conv(x)), self.norm(self.conv(x, 1))
        return self.add("Relu", self.add("Add", self.add("Add", wide, point), self.norm(x)))

    def write(self, path: Path, *outputs: str) -> None:
        import onnx
        from onnx import TensorProto, helper

        shape = ["batch", self.channels, self.pixels, self.pixels]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                  for name in ("x", *outputs)]  # fmt: skip
        graph = helper.make_graph(self.nodes, "chain", values[:1], values[1:], self.weights)
        opset = helper.make_opsetid("", OPSET)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def affine(graph: Graph, x: str) -> str:
    return graph.constant("Add", graph.constant("Mul", x))


def nothing(graph: Graph, x: str) -> str:
    bias = graph.rng.normal(0.0, 0.3, graph.channels)
    return graph.add("Relu", graph.conv(x, bias=bias))


def residual(graph: Graph, x: str) -> str:
    return graph.add("Add", x, graph.conv(x, 1, gain=0.01))


def shortcuts(graph: Graph, x: str) -> str:
    return graph.add("Add", graph.constant("Mul", x), "x")


def relu(graph: Graph, x: str) -> str:
    return graph.add("Relu", x)


def folding(graph: Graph, x: str) -> str:
    return graph.add("Relu", graph.norm(graph.conv(x)))


def soup(graph: Graph, x: str) -> str:
    """Add a Reshape to what exporters compute of the shape: eleven nodes."""
    shape = graph.add("Shape", x)
    sizes = []
    for axis in (0, 1):
        size = graph.add("Gather", shape, graph.integers(axis), axis=0)
        sizes.append(graph.add("Unsqueeze", size, graph.integers([0])))
    rest = graph.integers([PIXELS, PIXELS])
    return graph.add("Relu", graph.add("Reshape", x, graph.add("Concat", *sizes, rest, axis=0)))


def layout(graph: Graph, x: str) -> str:
    """Add a Reshape, a Transpose and a Reshape back: four nodes."""
    rows = graph.add("Reshape", x, graph.kept([0, graph.channels, -1]))
    turned = graph.add("Transpose", graph.add("Relu", rows), perm=[0, 2, 1])
    return graph.add("Reshape", turned, graph.kept([0, graph.channels, PIXELS, PIXELS]))


def attention(graph: Graph, x: str) -> str:
    """Add a layer normalisation in parts and a head of attention: 21 nodes."""
    centre = graph.add("Sub", x, graph.add("ReduceMean", x, axes=[-1]))
    square = graph.add("ReduceMean", graph.add("Pow", centre, graph.scalar(2.0)), axes=[-1])
    root = graph.add("Sqrt", graph.add("Add", square, graph.scalar(1e-5)))
    scaled = graph.add("Mul", graph.add("Div", centre, root), graph.vector(1.0))
    q, k, v = (graph.linear(graph.add("Add", scaled, graph.vector(0.0))) for _ in range(3))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    weights = graph.add("Softmax", graph.add("Mul", scores, graph.scalar(0.3)), axis=-1)
    return graph.add("Add", x, graph.linear(graph.add("MatMul", weights, v)))


def recurrent(graph: Graph, x: str) -> str:
    """Add a step of a cell whose weights all steps share: twelve nodes."""
    step = graph.add("Add", graph.shared_linear("in", x), graph.shared_linear("state", x))
    gates = [graph.add("Sigmoid", graph.add("Add", step, graph.vector(0.0))) for _ in range(2)]
    cell = graph.add("Tanh", graph.add("Mul", gates[0], x))
    return graph.add("Add", graph.add("Mul", gates[1], cell), graph.add("Mul", gates[0], step))


LINKS: dict[str, Callable[[Graph, str], str]] = {
    "affine": affine,
    "blocks": Graph.block,
    "nothing": nothing,
    "residual": residual,
    "shortcuts": shortcuts,
    "relu": relu,
    "folding": folding,
    "soup": soup,
    "layout": layout,
    "attention": attention,
    "recurrent": recurrent,
}
CHAINS = (*LINKS, "escaping")


def write_chain(kind: str, nodes: int, path: Path) -> int:
    """Write a chain of at least so many nodes; return how many it has."""
    graph = Graph(CHANNELS)
    x = "x"
    if kind == "escaping":
        total = graph.add("Relu", x)
        while len(graph.nodes) < nodes:
            x = graph.constant("Mul", x)
            total = graph.add("Add", total, graph.add("Relu", x))
        x = total
    while len(graph.nodes) < nodes:
        x = LINKS[kind](graph, x)
    graph.write(path, x)
    return len(graph.nodes)


def write_blocks(mib: float, channels: int, path: Path) -> int:
    """Write blocks of RepVGG of about so many MiB; return how many nodes they have."""
    graph = Graph(channels)
    x = "x"
    for _ in range(max(1, round(mib * 2**20 / (channels * channels * 10 * 4)))):
        x = graph.block(x)
    graph.write(path, x)
    return len(graph.nodes)


if __name__ == "__main__":  # KIND NODES PATH, or MIB CHANNELS PATH
    what, number, name = sys.argv[1:]
    if what in CHAINS:
        write_chain(what, int(number), Path(name))
    else:
        write_blocks(float(what), int(number), Path(name))
