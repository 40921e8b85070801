"""ONNX files that are made to crash, stall or starve who reads them, each by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.hostile.harness import Case

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
DOMAIN = "own"
IMAGE = (1, 3, 8, 8)
STATISTICS = ("gamma", "beta", "mean", "variance")
node = helper.make_node


def value(name: str, shape: Sequence[int | str] | None = IMAGE, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    weights: Sequence[Any] = (),
    functions: Sequence[Any] = (),
    shape: Sequence[int | str] = IMAGE,
    output: Sequence[int | str] | None = None,
) -> Any:
    graph = helper.make_graph(nodes, "g", [value("x", shape)], [value("y", output)], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def saved(make: Callable[[], Any], *arguments: Any) -> Callable[[Path], Path]:
    """Return a function that writes what another one makes."""

    def write(folder: Path) -> Path:
        path = folder / "x.onnx"
        path.write_bytes(make(*arguments).SerializeToString())
        return path

    return write


def ints(name: str, *numbers: int) -> Any:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def function(name: str, *called: str) -> Any:
    """Return a function that calls others in a row."""
    names = ["a", *(f"t{i}" for i in range(len(called) - 1)), "b"]
    nodes = [node(one, [names[i]], [names[i + 1]], domain=DOMAIN) for i, one in enumerate(called)]
    nodes = nodes or [node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, ["a"], ["b"], nodes, opsets)


def calling(functions: Sequence[Any]) -> Any:
    return model([node("f0", ["x"], ["y"], domain=DOMAIN)], functions=functions)


def circle() -> Any:
    return calling([function("f0", "f1"), function("f1", "f0")])


def chain(length: int) -> Any:
    return calling(
        [*(function(f"f{i}", f"f{i + 1}") for i in range(length)), function(f"f{length}")]
    )


def doubling(length: int) -> Any:
    twice = [function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(length)]
    return calling([*twice, function(f"f{length}")])


def nested_ifs(depth: int) -> Any:
    graph = helper.make_graph([node("Identity", ["x"], ["y0"])], "g0", [], [value("y0")])
    for level in range(1, depth):
        inner = node("If", ["c"], [f"y{level}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([inner], f"g{level}", [], [value(f"y{level}")])
    condition = numpy_helper.from_array(np.array(True), "c")
    return model([node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)], [condition])


def initializer_of_axes(axes: int) -> Any:
    weight = helper.make_tensor("w", FLOAT, [1] * axes, [1.0])
    return model([node("Mul", ["x", "w"], ["y"])], [weight])


def reshape_to_axes(axes: int) -> Any:
    return model([node("Reshape", ["x", "s"], ["y"])], [ints("s", *[1] * axes)])


def window(operator: str = "Conv", **attributes: Any) -> Any:
    if operator != "Conv":
        return model([node(operator, ["x"], ["y"], **attributes)])
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    return model([node("Conv", ["x", "w"], ["y"], **attributes)], [weight])


def strides(*numbers: int) -> Any:
    return window(strides=list(numbers))


def input_of(*shape: int) -> Any:
    """A convolution and a BatchNorm, of an image that no machine holds."""
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    statistics = [numpy_helper.from_array(np.ones(4, np.float32), n) for n in STATISTICS]
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *STATISTICS], ["y"])]
    return model(nodes, [weight, *statistics], shape=shape)


def enlarged(operator: str, *numbers: int) -> Any:
    """A region that can be fused, and what becomes too large behind it."""
    small = input_of(1, 3, 8, 8)
    small.graph.node[1].output[0] = "z"
    small.graph.node.append(node(operator, ["z", "s"], ["y"]))
    small.graph.initializer.append(ints("s", *numbers))
    return small


def loop(turns: int, constant: bool = True) -> Any:
    """A region that can be fused, and a Loop behind it."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Mul", ["v", "v"], ["u"])],
        "body",
        [value("i", [], INT64), value("go", [], onnx.TensorProto.BOOL), value("v", None)],
        [value("on", [], onnx.TensorProto.BOOL), value("u", None)],
    )
    small = input_of(1, 3, 8, 8)
    small.graph.node[1].output[0] = "z"
    name = "turns" if constant else "computed"
    small.graph.node.append(node("Loop", [name, "", "z"], ["y"], body=body))
    small.graph.initializer.append(ints("turns", turns))
    small.graph.initializer[-1].dims[:] = []
    if not constant:  # what no one sees before it is run
        small.graph.node.insert(0, node("Mul", ["turns", "one"], ["computed"]))
        small.graph.node.insert(0, node("Cast", ["size"], ["one"], to=INT64))
        small.graph.node.insert(0, node("ReduceMin", ["x"], ["low"], keepdims=0))
        small.graph.node.insert(1, node("IsNaN", ["low"], ["nan"]))
        small.graph.node.insert(2, node("Not", ["nan"], ["size"]))
    return small


def empty_nodes(number: int) -> Any:
    made = model([])
    made.graph.node.extend([onnx.NodeProto()] * number)
    return made


def empty_attributes(number: int) -> Any:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.node[0].attribute.extend([onnx.AttributeProto()] * number)
    return made


def harmless_chain(number: int) -> Any:
    names = ["x", *(f"v{i}" for i in range(number - 1)), "y"]
    return model([node("Relu", [names[i]], [names[i + 1]]) for i in range(number)])


def outside(**entries: str) -> Any:
    weight = onnx.TensorProto(name="w", data_type=FLOAT, dims=[4, 3, 1, 1])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, text in entries.items():
        weight.external_data.add(key=key, value=text)
    return model([node("Conv", ["x", "w"], ["y"])], [weight])


def address_in_memory(folder: Path) -> Path:
    """Weights at an address of the runtime's memory, and a file of that name besides."""
    data = folder / "*" / "_ORT_MEM_ADDR_" / "*"
    data.parent.mkdir(parents=True)
    data.write_bytes(bytes(48))
    return saved(outside_at_an_address)(folder)


def outside_at_an_address() -> Any:
    return outside(location="*/_ORT_MEM_ADDR_/*", offset="0", length="48")


def cut_short(folder: Path) -> Path:
    """A file that ends within its graph."""
    path = saved(harmless_chain, 1)(folder)
    path.write_bytes(path.read_bytes()[:-7])
    return path


def case(name: str, says: str, make: Callable[..., Any], *arguments: Any, **options: Any) -> Case:
    return Case(name, saved(make, *arguments), says, **options)


REFUSED = (
    Case("a file that is cut short", cut_short, "not a whole one"),
    case("functions that call each other", "calls itself", circle),
    case("100 functions in a chain", "more than 64 deep", chain, 100),
    case("10,000 functions in a chain", "more than 64 deep", chain, 10_000),
    case("2^30 calls", "more than a million nodes", doubling, 30),
    case("an initializer of 70 axes", "has 70 axes", initializer_of_axes, 70),
    case("a shape of 70 axes", "has 70 axes", reshape_to_axes, 70),
    case("a stride of 0", "has strides [0, 0]", strides, 0, 0),
    case("a stride of 2^62", "has strides [1, 4611686018427387904]", strides, 1, 1 << 62),
    Case("no groups", saved(lambda: window(group=0)), "has group 0"),
    Case("a dilation of 0", saved(lambda: window(dilations=[0, 1])), "has dilations [0, 1]"),
    Case("a kernel of 0", saved(lambda: window("MaxPool", kernel_shape=[0, 1])), "has ker"),
    Case("pads of 2^40", saved(lambda: window(pads=[1 << 40] * 4)), "has pads"),
    case("an image of (2^31 - 1)^2", "elements", input_of, 1, 3, 2**31 - 1, 2**31 - 1),
    case("1,000,000 empty nodes", "more than 500,000 nodes", empty_nodes, 1_000_000),
    case("4,000,000 empty attributes", "more than 4,000,000 names", empty_attributes, 4_000_000),
    Case("an offset of 5,000 digits", saved(lambda: outside(location="w", offset="9" * 5000)),
         "the offset of its data is '9999999999999999999..."),
    Case("weights at an address in memory", address_in_memory, "at an address in memory"),
)  # fmt: skip
"""Refused by looking, before anything else reads them."""

TOO_LARGE = (
    case(
        "an image of 1.2 billion numbers", "the whole was not run", input_of, 1, 3, 20_000, 20_000
    ),
    case("a Tile to 2 GiB", "the whole was not run", enlarged, "Tile", 1, 1, 1 << 10, 1 << 11),
    case("an Expand to 4 GiB", "the whole was not run", enlarged, "Expand", 1 << 22, 4, 8, 8),
    case("a Loop of 2^62 turns", "the whole was not run", loop, 1 << 62),
)
"""Nothing is wrong with them, but that they are too large to be run."""

STARVING = (
    Case("a Loop of 2^62 turns, computed", saved(lambda: loop(1 << 62, constant=False)),
         "still running after 8 s"),
)  # fmt: skip
"""What only a clock or a limit ends."""

HARMLESS = (
    case("254 subgraphs, 7 deep", "", nested_ifs, 7, code=0),
    case("2,000 Relu in a chain", "", harmless_chain, 2_000, code=0),
)
"""Odd, but right, and to be answered."""

CASES = (*REFUSED, *TOO_LARGE, *STARVING, *HARMLESS)
