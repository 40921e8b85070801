"""The check of fused graphs catches what goes wrong in fusing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.graph.blocks import BLOCKS
from tests.graph.builder import GraphBuilder
from tests.graph.cases import conv_bn
from tests.graph.truth import Cost, cost, excess

BLOCK = {case.name: case for case in BLOCKS}


def changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    change(other)
    return other


@pytest.mark.parametrize(
    "name", ["RepVGG", "RepMixer of FastViT", "DilatedReparamBlock 13", "BN_Linear of LeViT"]
)
def test_every_weight_counts(name: str) -> None:
    g = BLOCK[name].graph()
    model = g.model()
    floats = [i for i, w in enumerate(model.graph.initializer) if w.data_type == 1]
    assert floats
    for place in floats:

        def grow(other: onnx.ModelProto, place: int = place) -> None:
            tensor = other.graph.initializer[place]
            array = numpy_helper.to_array(tensor).copy()
            array *= np.float32(1.001)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

        assert excess(model, changed(model, grow), g.feeds()) > 1


def test_another_epsilon_is_caught() -> None:
    g = BLOCK["RepVGG"].graph()
    model = g.model()

    def other_epsilon(other: onnx.ModelProto) -> None:
        for node in other.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 1e-3

    assert excess(model, changed(model, other_epsilon), g.feeds()) > 1


def padded_behind_a_bias() -> tuple[GraphBuilder, onnx.ModelProto]:
    g = GraphBuilder()
    y = g.conv(g.input("x", (1, 3, 9, 9)), 4, 1, bias=True)
    g.output(g.conv(y, 5, 3, padding=1, bias=True))
    return g, g.model()


def test_a_bias_folded_through_zero_padding_is_caught() -> None:
    g, model = padded_behind_a_bias()
    weights = [numpy_helper.to_array(w).astype(float) for w in model.graph.initializer]
    point, first, wide, second = weights
    weight = np.einsum("omhw,mi->oihw", wide, point[:, :, 0, 0])
    bias = second + np.einsum("omhw,m->o", wide, first)

    def fold(other: onnx.ModelProto) -> None:
        last = other.graph.node[1]
        made = onnx.helper.make_node("Conv", ["x", "w", "b"], last.output, pads=[1, 1, 1, 1])
        del other.graph.node[:]
        other.graph.node.append(made)
        for name, array in (("w", weight), ("b", bias)):
            other.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))

    assert excess(model, changed(model, fold), g.feeds()) > 1e3


def test_right_rounding_stays_below_the_bound() -> None:
    g = GraphBuilder()
    g.output(conv_bn(g, g.input("x", (1, 3, 9, 9)), 4, 3))
    model = g.model()
    arrays = [numpy_helper.to_array(w).astype(float) for w in model.graph.initializer]
    weight, gamma, beta, mean, variance = arrays
    factor = gamma / np.sqrt(variance + float(np.float32(1e-5)))

    def fold(other: onnx.ModelProto) -> None:
        conv, norm = other.graph.node
        conv.input.append("b")
        conv.input[1], conv.output[0] = "w", norm.output[0]
        other.graph.node.remove(norm)
        for name, array in (("w", weight * factor[:, None, None, None]),
                            ("b", beta - mean * factor)):  # fmt: skip
            other.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))

    off = excess(model, changed(model, fold), g.feeds())
    assert 0 < off <= 1


def test_another_shape_another_name_and_nan_are_wrong_without_measure() -> None:
    g = GraphBuilder()
    x = g.input("x", (1, 3, 9, 9))
    g.output(g.add(x, g.scalar(0.5)))
    model = g.model()

    def rename(other: onnx.ModelProto) -> None:
        other.graph.output[0].name = other.graph.node[0].output[0] = "y"

    def poison(other: onnx.ModelProto) -> None:
        tensor = other.graph.initializer[0]
        tensor.CopyFrom(numpy_helper.from_array(np.float32(np.nan), tensor.name))

    def widen(other: onnx.ModelProto) -> None:
        tensor = other.graph.initializer[0]
        array = np.full((2, 1, 1, 1), 0.5, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    for change in (rename, poison, widen):
        assert excess(model, changed(model, change), g.feeds()) == np.inf


def test_cost_is_in_macs_and_leaves_constants_out() -> None:
    g = GraphBuilder()
    x = g.input("x", (2, 4, 5, 6))
    kernel = g.conv(g.weight((8, 6, 3, 3)), weight=g.weight((4, 6, 1, 1)))
    y = g.conv_transpose(g.conv(x, weight=kernel, padding=1), 3, 2, stride=2)
    y = g.depthwise(y, 3, bias=True)
    g.output(g.gemm(g.flatten(g.global_average_pool(y)), 7))
    macs = 2 * 8 * 30 * 4 * 9 + 2 * 8 * 30 * 3 * 4 + 2 * 3 * 80 * 9 + 2 * 7 * 3
    assert cost(g.model(), g.feeds()) == Cost(macs, 4)
