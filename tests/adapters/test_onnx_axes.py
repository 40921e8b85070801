"""Which graphs cannot depend on the size of the image, and what open axes are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_axes import AXES, is_free_of_sizes, name_open_axes, with_open_axes
from tests.adapters.graphs import conv, conv_weights, model, node

X = {"x": (2, 3, 32, 32)}


def parsed(nodes: list[Any], constants: dict[str, Any], outputs: Any = None, inputs: Any = None):
    return onnx.load_model_from_string(model(nodes, constants, outputs or {"y": None}, inputs or X))


FREE = {
    "convolution": ([conv("y")], {}),
    "pool and flatten": (
        [node("GlobalAveragePool", ["x"], ["p"]), node("Reshape", ["p", "s"], ["y"])],
        {"s": np.array([0, -1])},
    ),
    "the fixed batch": (
        [node("GlobalAveragePool", ["x"], ["p"]), node("Reshape", ["p", "s"], ["y"])],
        {"s": np.array([2, -1])},
    ),
    "attention": (
        [node("ReduceMean", ["x"], ["m"], axes=[2, 3]), node("Mul", ["x", "m"], ["y"])],
        {},
    ),
}
UP = {"s": np.array([1, 1, 2, 2], np.float32)}
ROUNDED = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}


def resize(**attributes: Any) -> Any:
    return node("Resize", ["x", "", "s"], ["y"], **attributes)


def pool(kernel: int, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return node("MaxPool", ["x"], outputs, kernel_shape=[kernel] * 2, **attributes)


FREE |= {
    "upsampling by whole scales": ([resize(**ROUNDED)], UP),
    "upsampling by lines": ([resize(mode="linear")], UP),
    "upsampling by three and one": ([resize()], {"s": np.array([1, 1, 3, 1], np.float32)}),
    "a pool that keeps the size": ([pool(13, pads=[6] * 4)], {}),
    "a pool that halves it": ([pool(3, pads=[1] * 4, strides=[2, 2])], {}),
    "a wide pool": ([pool(3, pads=[2] * 4, dilations=[2, 2])], {}),
}
NOT_FREE = {
    "upsampling from corner to corner": (
        [resize(mode="linear", coordinate_transformation_mode="align_corners")],
        UP,
    ),
    "half a position": ([resize()], {"s": np.array([1, 1, 1.5, 2], np.float32)}),
    "downsampling": ([resize()], {"s": np.array([1, 1, 0.5, 0.5], np.float32)}),
    "more channels": ([resize()], {"s": np.array([1, 2, 2, 2], np.float32)}),
    "scales that are computed": (
        [node("Cast", ["f"], ["s"], to=1), resize()],
        {"f": np.array([1, 1, 2, 2], np.float64)},
    ),
    "a pool to one position": ([pool(32)], {}),
    "a pool of a corner less": ([pool(5, pads=[1] * 4)], {}),
    "a pool that is padded by itself": ([pool(3, auto_pad="SAME_UPPER")], {}),
    "a pool that tells where": ([pool(3, ("y", "where"), pads=[1] * 4)], {}),
    "a softmax": ([node("Softmax", ["x"], ["y"])], {}),
    "a size in a Reshape": (
        [node("Reshape", ["x", "s"], ["y"])],
        {"s": np.array([0, 3, 1024])},
    ),
    "another batch": (
        [node("GlobalAveragePool", ["x"], ["p"]), node("Reshape", ["p", "s"], ["y"])],
        {"s": np.array([3, -1])},
    ),
    "a target that is computed": (
        [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])],
        {},
    ),
    "a pool of a fixed kernel": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[32, 32])],
        {},
    ),
    "an image of another size": (
        [node("Resize", ["x", "", "", "s"], ["y"])],
        {"s": np.array([2, 3, 64, 64])},
    ),
    "an operator of another domain": (
        [onnx.helper.make_node("Conv", ["x", "weight"], ["y"], domain="my.own")],
        {},
    ),
}


def test_scales_that_may_be_overridden_are_not_constant() -> None:
    given = {**X, "s": (4,)}
    assert not is_free_of_sizes(parsed([resize()], UP, inputs=given), "x")


@pytest.mark.parametrize("name", FREE)
def test_free_of_sizes(name: str) -> None:
    nodes, constants = FREE[name]
    assert is_free_of_sizes(parsed(nodes, {**conv_weights(), **constants}), "x")


@pytest.mark.parametrize("name", NOT_FREE)
def test_not_free_of_sizes(name: str) -> None:
    nodes, constants = NOT_FREE[name]
    assert not is_free_of_sizes(parsed(nodes, {**conv_weights(), **constants}), "x")


def named(nodes: list[Any], output: tuple[Any, ...], given: tuple[Any, ...]) -> list[Any]:
    proto = parsed(nodes, conv_weights(), {"y": output}, {"x": given})
    name_open_axes(proto, AXES)
    return sizes(proto.graph.output[0])


def sizes(value: Any) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def strided(stride: int, pad: int = 1) -> Any:
    return onnx.helper.make_node(
        "Conv", ["x", "weight"], ["y"], pads=[pad] * 4, strides=[stride] * 2
    )


ANY = ("a", 3, "b", "c")


def test_axis_that_is_halved() -> None:
    assert named([strided(2)], ("d", 4, "e", "f"), ANY) == ["batch", 4, "height_2", "width_2"]


def test_axis_that_is_rounded_down_has_no_name_of_ours() -> None:
    assert named([strided(2, pad=0)], ("d", 4, "e", "f"), ANY) == ["batch", 4, "e", "f"]


def test_turned_image() -> None:
    turned = [node("Transpose", ["x"], ["y"], perm=[0, 3, 2, 1])]
    assert named(turned, ("d", "e", "f", 3), ANY) == ["batch", "width", "height", 3]


@pytest.mark.parametrize(
    ("last", "names"),
    [
        ({"kernel_shape": [3, 3], "pads": [1] * 4}, ["height_64", "width_64"]),
        ({"kernel_shape": [32, 32]}, ["e", "f"]),
    ],
)
def test_axis_of_a_graph_that_wants_multiples(last: Any, names: list[str]) -> None:
    """A quarter that is doubled beside a half; a multiple of 32 may still be rounded down by 64."""
    halved = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    nodes = [
        node("MaxPool", ["x"], ["half"], **halved),
        node("MaxPool", ["half"], ["small"], **halved),
        node("Resize", ["small", "", "s"], ["up"]),
        node("Concat", ["up", "half"], ["both"], axis=1),
        node("MaxPool", ["both"], ["y"], strides=[32, 32], **last),
    ]
    proto = parsed(nodes, UP, {"y": ("d", 6, "e", "f")}, {"x": ANY})
    name_open_axes(proto, AXES)
    assert sizes(proto.graph.output[0]) == ["batch", 6, *names]


def test_axis_that_has_no_name_leaves_all_alone() -> None:
    output = ("d", "e", "f", "g")
    assert named([node("Relu", ["x"], ["y"])], output, ("a", "k", 8, 8)) == list(output)


def test_opening_axes_changes_no_weight_and_not_the_model() -> None:
    proto = parsed([conv("y")], conv_weights(), {"y": (2, 4, 32, 32)},
                   {**X, "weight": (4, 3, 3, 3)})  # fmt: skip
    before = proto.SerializeToString()
    opened = with_open_axes(proto, AXES, {"weight"})
    assert proto.SerializeToString() == before
    image, weight = map(sizes, opened.graph.input)
    assert image == ["batch", 3, "height", "width"]
    assert weight == [4, 3, 3, 3]
