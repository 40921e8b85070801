"""Random graphs that once went wrong, as small as they could be made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reparam.adapters.onnx_runtime import open_session
from reparam.graph.passes import PASSES
from reparam.graph.records import Options
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts
from tests.graph.fusing import defects, fused

Build = Callable[[GraphBuilder], None]
FOUND: dict[str, tuple[Build, str]] = {}


def found(after: str) -> Callable[[Build], Build]:
    """Declare a graph and the operators that it fuses to, in the order of their names."""

    def declare(build: Build) -> Build:
        FOUND[build.__name__] = build, after
        return build

    return declare


@found("Dropout")
def the_only_node_between_an_input_and_an_output(g: GraphBuilder) -> None:
    g.output(g.dropout(g.input("x", (1, 1, 6, 8))))


@found("AveragePool Dropout")
def one_output_is_another_by_another_name(g: GraphBuilder) -> None:
    mean = g.average_pool(g.input("x", (None, 2, None, None)), 2, include_pad=False)
    g.output(g.dropout(mean), mean)


@found("Mul")
def a_sum_of_a_value_with_itself(g: GraphBuilder) -> None:
    x = g.input("x", (1, 1, 4))
    g.output(g.add(x, x, x))


@found("Sub")
def nothing_times_a_value(g: GraphBuilder) -> None:
    x = g.input("x", (1, 3, 4, 7))
    g.output(g.dropout(g.sub(x, x)))


@found("Conv")
def a_dead_reader_in_a_subgraph(g: GraphBuilder) -> None:
    x, z = (g.input(name, (None, 3, None, None)) for name in "xz")
    g.if_reads(g.add(x, z))
    g.output(g.conv(x, 3, (2, 3), stride=(2, 1), auto_pad="SAME_UPPER"))


@found("Conv")
def a_dilation_without_taps(g: GraphBuilder) -> None:
    g.output(g.dropout(g.conv(g.input("x", (None, 1, None, None)), 1, 1, dilation=(2, 1))))


@found("Conv Pad")
def zeros_around_a_convolution(g: GraphBuilder) -> None:
    x = g.input("x", (1, 2, 6, 5))
    y = g.conv(x, 2, 1, stride=(2, 1), auto_pad="SAME_UPPER")
    g.output(g.pad(y, ((1, 1), (1, 0))))


@found("Conv Conv Relu Slice")
def sizes_that_inference_has_no_name_for(g: GraphBuilder) -> None:
    x = g.input("x", (None, 3, None, None))
    row = g.neg(g.slice(x, 1, 100, axis=2))
    geometry = {"padding": (0, 2), "dilation": (1, 2), "stride": (2, 2)}
    g.output(g.conv(g.relu(x), 3, (1, 3), **geometry), g.conv(row, 3, (1, 3), **geometry))


@found("Conv Sub")
def a_factor_that_is_one_once_it_is_rounded(g: GraphBuilder) -> None:
    g.seed = 2
    x = g.input("x", (None, 3, None, None))
    moved = g.bn(x, 0.001)
    y = g.conv(x, weight=g.weight((3, 3, 3, 3), "fed"), padding=1)
    g.output(g.sub(y, g.add(moved, g.neg(moved), x)))


@found("Conv")
def a_bias_that_stays_as_it_is(g: GraphBuilder) -> None:
    x = g.input("x", (None, 3, None, None))
    g.output(g.add(g.depthwise(x, 3, padding=1, bias=True), x))


@found("BatchNormalization BatchNormalization Relu Relu Relu Reshape Reshape")
def a_product_whose_shape_was_not_known_in_the_first_round(g: GraphBuilder) -> None:
    x = g.relu(g.input("x", (None, 4, 6, 6)))
    y = g.add(x, x, g.bn(x))
    for target in ([0, 8, 3, 6], [0, 4, 3, 12]):
        g.output(g.relu(g.bn(g.reshape(y, target))))


@found("Conv Relu Relu Reshape")
def a_batch_that_a_reshape_writes_down(g: GraphBuilder) -> None:
    """As of efficientvim, nextvit and visformer: the images of one probe became positions."""
    y = g.conv(g.relu(g.input("x", (1, 4, 4, 4))), 4, 1)
    g.output(g.relu(g.bn(g.reshape(y, [1, 4, -1]))))


@found("Conv Conv")
def a_row_shorter_than_the_stride(g: GraphBuilder) -> None:
    """One convolution would cost more: 76 MACs become 80."""
    x = g.input("x", (1, 2, 1, 5))
    y = g.conv(x, 2, 1, stride=(1, 3), padding=((2, 0), (2, 0)))
    g.output(g.conv(y, 4, (2, 1), stride=(3, 1), padding=((0, 0), (1, 1)), groups=2))


@found("Conv Conv")
def padding_that_an_open_size_may_be_small_beside(g: GraphBuilder) -> None:
    """A large image would cost less in one convolution, and a small one more."""
    x = g.input("x", (None, 4, None, None))
    y = g.mul(g.conv(x, 2, (1, 2), stride=(1, 3)), 0.5)
    g.output(g.conv(y, 2, 1, padding=((2, 0), (0, 0)), groups=2))


@found("AveragePool Concat Conv")
def a_convolution_that_is_concatenated_with_itself(g: GraphBuilder) -> None:
    """It costs once what a convolution of twice the channels costs twice."""
    x = g.input("x", (1, 8, 3, 4))
    y = g.conv(x, 3, (3, 1), stride=(3, 1), padding=((2, 1), (0, 1)))
    g.output(g.average_pool(g.concat(y, y), 2, 2))


@pytest.mark.parametrize("name", FOUND)
def test_it_goes_right_now(name: str) -> None:
    build, after = FOUND[name]
    g = GraphBuilder()
    build(g)
    before = g.model()
    untouched = before.SerializeToString(deterministic=True)
    made = fused(before)
    assert before.SerializeToString(deterministic=True) == untouched
    assert defects(g, before, made) == []
    assert fused(made) == made
    counts = op_counts(made)
    assert " ".join(op for op in sorted(counts) for _ in range(counts[op])) == after
    for probe in ("first", "second"):
        open_session(made.SerializeToString()).run(None, g.feeds(probe))


def test_a_move_that_nothing_reads_is_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", (1, 4, 4, 4))
    moved = g.bn(g.bn(g.concat(x, x)))
    g.bn(moved)  # dead, and left in
    g.output(g.transpose(g.add(moved, g.global_average_pool(moved)), (0, 2, 1, 3)))
    before = g.model()
    passes = {entry.name for entry in PASSES} - {"hoist", "sink"}
    assert defects(g, before, fused(before, Options(without=frozenset(passes)))) == []
