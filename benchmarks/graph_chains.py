"""Long graphs, one kind each for what could make a fuser slow, as ONNX files.

    affine       x * c + t again and again: one region as long as the graph
    blocks       blocks of RepVGG with BatchNorms: many small regions
    nothing      Conv, Relu: nothing to fuse
    residual     x + Conv(x), no activation: every value is one convolution of every earlier one
    escaping     a linear chain of which every value is also read by a Relu: nothing may vanish
    shortcuts    x * c + input: every value is an affine map of the input, along two ways

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

    def weight(self, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

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


LINKS: dict[str, Callable[[Graph, str], str]] = {
    "affine": affine,
    "blocks": Graph.block,
    "nothing": nothing,
    "residual": residual,
    "shortcuts": shortcuts,
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
