"""Moves: what they bring together, what they leave, and that a wrong one is caught by its proof."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reparam.errors import NotFusibleError
from reparam.graph import moves, moves_affine, moves_carrying, moves_plan, moves_regroup
from reparam.graph.fusing import fuse_graph
from reparam.graph.laws import Scaling
from reparam.graph.moves import HOIST, MOVES, REGROUP, SINK, STRAIGHTEN
from reparam.graph.moves_carrying import reshaped
from reparam.graph.records import Options
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import Value, op_counts
from tests.graph.cases import counts
from tests.graph.fusing import defects, fused

IMAGE = (None, 8, 14, 14)
Build = Callable[[GraphBuilder], None]


def check(build: Build, after: str, without: tuple[str, ...] = ()) -> None:
    g = GraphBuilder(seed=5)
    build(g)
    before = g.model()
    made = fused(before, Options(without=frozenset(without)))
    assert op_counts(made) == counts(after)
    assert defects(g, before, made) == []


def entry(g: GraphBuilder, shape: tuple[int | None, ...] = IMAGE) -> Value:
    """Return a value that no form goes through."""
    return g.relu(g.input("x", shape))


# what moves, and the pass that moves it


def two_readers(g: GraphBuilder) -> None:
    y = g.bn(entry(g))
    g.output(g.relu(g.conv(y, 4, 3)), g.relu(g.conv(y, 6, 1, bias=True)))


def reader_behind_pooling(g: GraphBuilder) -> None:
    y = g.bn(entry(g))
    pooled = g.average_pool(y, 2, 2)
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(pooled, 4, 1)))


def head(g: GraphBuilder) -> None:
    y = g.global_average_pool(g.bn(entry(g)))
    g.output(g.gemm(g.flatten(y), 5))


def tokens(g: GraphBuilder) -> None:
    """The attention of NextViT: queries of all tokens, keys of pooled ones."""
    y = g.bn(entry(g))
    rows = g.transpose(g.reshape(y, [0, 8, 196]), (0, 2, 1))
    few = g.average_pool(g.transpose(rows, (0, 2, 1)), 4, 4)
    few = g.transpose(g.bn(few), (0, 2, 1))
    g.output(
        *(g.relu(g.matmul(v, 6, bias=True)) for v in (rows, few)), g.relu(g.matmul(few, 4, True))
    )


def scale_before_padding(g: GraphBuilder) -> None:
    x = entry(g)
    y = g.mul(x, g.per_channel(x))
    g.output(g.relu(g.conv(y, 4, 3, padding=1)), g.relu(g.depthwise(y, 3, padding=1)))


def positive_scale_before_max_pool(g: GraphBuilder) -> None:
    y = g.add(g.mul(entry(g), g.scalar(1.5)), g.scalar(0.25))
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(g.max_pool(y, 2, 2), 4, 1)))


def concatenated_before(g: GraphBuilder) -> None:
    """What is concatenated with something else goes into a part of the channels."""
    x = entry(g)
    y = g.concat(g.bn(x), g.relu(g.conv(x, 4, 1)))
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(y, 6, 1)))


def split_then_two(g: GraphBuilder) -> None:
    a, b = g.split(g.bn(entry(g)), (3, 5))
    g.output(g.relu(g.conv(a, 4, 1)), g.relu(g.conv(b, 4, 1)))


SINKS: dict[str, tuple[Build, str]] = {
    "two readers": (two_readers, "2 Conv, 3 Relu"),
    "a reader behind pooling": (reader_behind_pooling, "2 Conv, AveragePool, 3 Relu"),
    "a head": (head, "Flatten, Gemm, GlobalAveragePool, Relu"),
    "a factor before padding": (scale_before_padding, "2 Conv, 3 Relu"),
    "a positive factor before MaxPool": (
        positive_scale_before_max_pool, "2 Conv, MaxPool, 3 Relu",
    ),
    "one part of a Concat": (concatenated_before, "3 Conv, Concat, 4 Relu"),
    "both parts of a Split": (split_then_two, "2 Conv, 3 Relu, Split"),
}  # fmt: skip


def linear_batch_norm(g: GraphBuilder) -> None:
    y = g.matmul(entry(g, (None, 9, 8)), 6)
    y = g.reshape(g.bn(g.flatten(y, 2)), [-1, 9, 6])
    g.output(g.relu(y))


def after_concat(g: GraphBuilder) -> None:
    x = entry(g)
    y = g.concat(g.conv(x, 4, 3, padding=1), g.conv(g.relu(x), 6, 1, bias=True))
    g.output(g.relu(g.bn(y)))


def after_one_half_of_a_split(g: GraphBuilder) -> None:
    y = g.conv(entry(g), 8, 3, bias=True)
    a, b = g.split(y, (3, 5))
    g.output(g.relu(g.bn(a)), g.sigmoid(b))


def after_both_halves_of_a_split(g: GraphBuilder) -> None:
    a, b = g.split(g.conv(entry(g), 8, 3), (3, 5))
    g.output(g.relu(g.bn(a)), g.sigmoid(g.bn(b)))


def after_max_pool(g: GraphBuilder) -> None:
    y = g.max_pool(g.conv(entry(g), 8, 3), 3, 2, padding=1)
    g.output(g.relu(g.mul(y, g.scalar(0.5))))


def after_channels_above_each_other(g: GraphBuilder) -> None:
    """Each factor serves two channels of the convolution."""
    y = g.conv(entry(g, (1, 8, 6, 6)), 8, 3, padding=1)
    g.output(g.relu(g.bn(g.reshape(y, [1, 4, 12, 6]))))


def after_a_product(g: GraphBuilder) -> None:
    """The scale of attention goes into the queries, past their heads."""
    x = entry(g, (2, 9, 8))
    heads = g.transpose(g.reshape(g.matmul(x, 12, bias=True), [2, 9, 2, 6]), (0, 2, 1, 3))
    q, k = g.split(heads, (3, 3), axis=3)
    scores = g.mul(g.node("MatMul", q, g.transpose(k, (0, 1, 3, 2))), g.scalar(0.125))
    g.output(g.node("Softmax", scores, axis=-1))


HOISTS: dict[str, tuple[Build, str]] = {
    "a Linear and its BatchNorm": (linear_batch_norm, "Add, MatMul, 2 Relu"),
    "a Concat": (after_concat, "Concat, 2 Conv, 3 Relu"),
    "one half of a Split": (after_one_half_of_a_split, "Conv, 2 Relu, Sigmoid, Split"),
    "both halves of a Split": (after_both_halves_of_a_split, "Conv, 2 Relu, Sigmoid, Split"),
    "a MaxPool": (after_max_pool, "Conv, MaxPool, 2 Relu"),
    "channels above each other": (after_channels_above_each_other, "Conv, 2 Relu, Reshape"),
    "a product": (
        after_a_product, "Add, 2 MatMul, Relu, Reshape, Softmax, Split, 2 Transpose",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SINKS)
def test_a_run_sinks_into_all_readers(name: str) -> None:
    build, after = SINKS[name]
    check(build, after, without=(HOIST, REGROUP))


@pytest.mark.parametrize("name", HOISTS)
def test_a_run_is_hoisted_into_the_maker(name: str) -> None:
    build, after = HOISTS[name]
    check(build, after, without=(SINK, REGROUP))


@pytest.mark.parametrize("name", [*SINKS, *HOISTS])
def test_moves_can_be_switched_off(name: str) -> None:
    build, _ = {**SINKS, **HOISTS}[name]
    g = GraphBuilder(seed=5)
    build(g)
    report = fuse_graph(g.ir(), Options(without=frozenset(MOVES)))
    assert not {one.kind for one in report.fused} & set(MOVES)


def test_a_second_run_takes_what_the_first_left() -> None:
    check(tokens, "3 Add, AveragePool, 3 MatMul, 4 Relu, Reshape, 2 Transpose")


# what stays


def read_by_an_activation(g: GraphBuilder) -> None:
    y = g.bn(entry(g))
    g.output(g.relu(g.conv(y, 4, 1)), g.sigmoid(y))


def shift_before_padding(g: GraphBuilder) -> None:
    y = g.bn(entry(g))
    g.output(g.relu(g.conv(y, 4, 3, padding=1)), g.relu(g.conv(y, 4, 1)))


def an_output_between(g: GraphBuilder) -> None:
    y = g.bn(entry(g))
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(y, 4, 1)), y)


def read_by_a_subgraph(g: GraphBuilder) -> None:
    y = g.bn(entry(g))
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(y, 4, 1)), g.if_reads(y))


def negative_factor_before_max_pool(g: GraphBuilder) -> None:
    y = g.mul(entry(g), g.scalar(-1.5))
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(g.max_pool(y, 2, 2), 4, 1)))


def padding_that_counts(g: GraphBuilder) -> None:
    y = g.add(entry(g), g.scalar(0.5))
    pooled = g.average_pool(y, 3, 1, padding=1)
    g.output(g.relu(g.conv(y, 4, 1)), g.relu(g.conv(g.max_pool(pooled, 3), 4, 1)))


def two_kernels_without_a_bias(g: GraphBuilder) -> None:
    """A shift would be another node for each MatMul: more than the one that goes."""
    x = entry(g, (None, 9, 8))
    y = g.add(x, g.constant(np.linspace(1, 2, 8, dtype=np.float32)))
    g.output(g.relu(g.matmul(y, 4)), g.relu(g.matmul(y, 4)))


def another_axis(g: GraphBuilder) -> None:
    y = g.bn(entry(g, (None, 9, 8)))
    g.output(g.relu(g.matmul(y, 4, bias=True)), g.relu(g.matmul(y, 4, bias=True)))


STAYS: dict[str, tuple[Build, str]] = {
    "an activation reads it": (read_by_an_activation, "BatchNormalization, Conv, 2 Relu, Sigmoid"),
    "a shift before padding": (shift_before_padding, "BatchNormalization, 2 Conv, 3 Relu"),
    "it is an output": (an_output_between, "BatchNormalization, 2 Conv, 3 Relu"),
    "a subgraph reads it": (read_by_a_subgraph, "BatchNormalization, 2 Conv, If, 3 Relu"),
    "a negative factor before MaxPool": (
        negative_factor_before_max_pool, "2 Conv, MaxPool, Mul, 3 Relu",
    ),
    "padding that counts": (padding_that_counts, "Add, AveragePool, 2 Conv, MaxPool, 3 Relu"),
    "more nodes than it takes out": (two_kernels_without_a_bias, "Add, 2 MatMul, 3 Relu"),
    "factors along another axis": (another_axis, "2 Add, BatchNormalization, 2 MatMul, 3 Relu"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_a_run_that_not_all_readers_can_take_stays(name: str) -> None:
    check(*STAYS[name])


def maker_read_elsewhere(g: GraphBuilder) -> None:
    y = g.conv(entry(g), 8, 3)
    pooled = g.max_pool(y, 2, 2)
    g.output(g.relu(g.mul(pooled, g.scalar(0.5))), g.sigmoid(y))


def part_of_a_concat_that_is_no_kernel(g: GraphBuilder) -> None:
    x = entry(g)
    g.output(g.relu(g.bn(g.concat(g.conv(x, 4, 1), g.sigmoid(x)))))


def spread_over_two_axes(g: GraphBuilder) -> None:
    y = g.conv(entry(g, (1, 8, 6, 6)), 8, 3, padding=1)
    g.output(g.relu(g.bn(g.reshape(y, [1, 16, 3, 6]))))


def a_concat_with_itself(g: GraphBuilder) -> None:
    y = g.max_pool(g.conv(entry(g), 4, 3), 2)
    g.output(g.relu(g.bn(g.concat(y, y))))


KEPT: dict[str, tuple[Build, str]] = {
    "the maker is read elsewhere": (maker_read_elsewhere, "Conv, MaxPool, Mul, 2 Relu, Sigmoid"),
    "a part of a Concat is no kernel": (
        part_of_a_concat_that_is_no_kernel, "BatchNormalization, Concat, Conv, 2 Relu, Sigmoid",
    ),
    "channels over two axes": (
        spread_over_two_axes, "BatchNormalization, Conv, 2 Relu, Reshape",
    ),
    "a Concat of one value": (
        a_concat_with_itself, "BatchNormalization, Concat, Conv, MaxPool, 2 Relu",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_a_run_that_the_maker_cannot_take_stays(name: str) -> None:
    check(*KEPT[name])


# sums


def residual_between(g: GraphBuilder) -> None:
    x = entry(g)
    between = g.sigmoid(g.conv(x, 8, 1))
    g.output(g.relu(g.add(g.add(g.bn(g.conv(x, 8, 3, padding=1)), between), g.bn(x))))


def residual_taken_from(g: GraphBuilder) -> None:
    x = entry(g)
    between = g.sigmoid(g.conv(x, 8, 1))
    g.output(g.relu(g.sub(g.sub(between, g.conv(x, 8, 3, padding=1)), g.bn(x))))


def other_sources(g: GraphBuilder) -> None:
    x = entry(g)
    z = g.relu(g.input("z", IMAGE))
    g.output(g.relu(g.add(g.add(g.conv(x, 8, 1), g.sigmoid(x)), g.conv(z, 8, 1))))


def costlier_together(g: GraphBuilder) -> None:
    """Two residuals of which one kernel would cost more: they stay apart."""
    x = entry(g)
    deep = g.conv(g.depthwise(x, 3, padding=1), 8, 1)
    g.output(g.relu(g.add(g.add(deep, g.sigmoid(x)), g.depthwise(x, 3, padding=1))))


def read_between(g: GraphBuilder) -> None:
    x = entry(g)
    first = g.add(g.conv(x, 8, 3, padding=1), g.sigmoid(x))
    g.output(g.relu(g.add(first, g.conv(x, 8, 1))), g.sigmoid(first))


SUMS: dict[str, tuple[Build, str]] = {
    "a residual between": (residual_between, "Add, 2 Conv, 2 Relu, Sigmoid"),
    "a difference": (residual_taken_from, "2 Conv, 2 Relu, Sigmoid, Sub"),
    "other sources": (other_sources, "2 Add, 2 Conv, 3 Relu, Sigmoid"),
    "costlier together": (costlier_together, "2 Add, 3 Conv, 2 Relu, Sigmoid"),
    "a part that is read": (read_between, "2 Add, 2 Conv, 2 Relu, 2 Sigmoid"),
}


@pytest.mark.parametrize("name", SUMS)
def test_terms_of_one_source_come_together_if_they_fuse(name: str) -> None:
    check(*SUMS[name])


# layout


def test_two_transposes_become_one_or_none() -> None:
    def build(g: GraphBuilder) -> None:
        x = entry(g, (2, 3, 4, 5))
        same = g.transpose(g.transpose(x, (0, 2, 3, 1)), (0, 3, 1, 2))
        g.output(g.relu(same), g.relu(g.transpose(g.transpose(x, (1, 0, 3, 2)), (0, 2, 1, 3))))

    check(build, "3 Relu, Transpose")


def test_two_reshapes_become_one_and_a_split_goes_with_its_concat() -> None:
    def build(g: GraphBuilder) -> None:
        x = entry(g, (2, 8, 6, 6))
        g.output(g.relu(g.reshape(g.reshape(x, [2, 8, 36]), [2, 4, 72])))
        g.output(g.sigmoid(g.concat(*g.split(x, (3, 5)))))

    check(build, "2 Relu, Reshape, Sigmoid")


def test_a_concat_in_another_order_stays() -> None:
    def build(g: GraphBuilder) -> None:
        a, b = g.split(entry(g), (4, 4))
        g.output(g.relu(g.concat(b, a)))

    check(build, "Concat, 2 Relu, Split")


# the map of axes


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_reshaped_factor_is_what_it_multiplies(data: st.DataObject) -> None:
    """Whatever is not refused is so for every element."""
    sizes = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4)
    before = data.draw(sizes)
    total = int(np.prod(before))
    after = data.draw(sizes.filter(lambda shape: int(np.prod(shape)) == total) if total < 3 else
                      st.permutations(before).map(lambda p: [*merged(p, data)]))  # fmt: skip
    axis = data.draw(st.integers(0, len(before) - 1))
    vector = np.arange(1.0, before[axis] + 1)
    try:
        found = reshaped(Scaling(vector, -vector, axis), before, after)
    except NotFusibleError:
        return
    assert found.axis is not None
    x = np.random.default_rng(0).normal(size=before)
    column = vector.reshape([-1, *[1] * (len(before) - axis - 1)])
    wanted = (x * column - column).reshape(after)
    trailing = [1] * (len(after) - found.axis - 1)
    got = x.reshape(after) * found.scale.reshape([-1, *trailing])
    assert np.array_equal(wanted, got + found.shift.reshape([-1, *trailing]))


def merged(sizes: list[int], data: st.DataObject) -> list[int]:
    """Return a shape in which some neighbours are one axis."""
    shape: list[int] = []
    for size in sizes:
        if shape and data.draw(st.booleans()):
            shape[-1] *= size
        else:
            shape.append(size)
    return shape


# wrong moves


def twice(scaling: Scaling) -> Scaling:
    return replace(scaling, scale=scaling.scale * 2)


def without_shift(scaling: Scaling) -> Scaling:
    return replace(scaling, shift=np.zeros_like(scaling.shift))


def next_channel(scaling: Scaling) -> Scaling:
    scale = np.roll(scaling.scale, 1) if scaling.axis is not None else scaling.scale
    return replace(scaling, scale=scale)


right_broadened = moves_carrying.broadened
WRONG = [twice, without_shift, next_channel]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "build", [two_readers, reader_behind_pooling, head, linear_batch_norm, after_concat]
)
def test_a_wrong_factor_is_caught_and_nothing_changes(
    build: Build, wrong: Callable[[Scaling], Scaling], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves_affine, "broadened", lambda s: wrong(right_broadened(s)))
    g = GraphBuilder(seed=5)
    build(g)
    before = op_counts(g.model())
    report = fuse_graph(g.ir(), Options(without=frozenset({STRAIGHTEN})))
    assert report.failed
    assert {one.kind for one in report.failed} <= {HOIST, SINK}
    assert report.ops_after.get("BatchNormalization") == before["BatchNormalization"]


def test_a_wrong_axis_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(g: GraphBuilder) -> None:
        x = entry(g, (None, 8, 4, 8))
        y = g.bn(x)
        g.output(*(g.relu(g.conv(g.transpose(y, (0, 3, 2, 1)), 4, 1)) for _ in range(2)))

    check(build, "BatchNormalization, 2 Conv, 3 Relu, 2 Transpose")
    monkeypatch.setitem(moves_carrying._RULES, "Transpose", lambda _, scaling, *__: scaling)
    g = GraphBuilder(seed=5)
    build(g)
    report = fuse_graph(g.ir())
    assert [one.kind for one in report.failed] == [SINK]
    assert report.ops_after["BatchNormalization"] == 1


def test_a_wrong_order_of_a_sum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = moves_regroup._terms_of

    def all_added(node: Any, sign: int) -> Any:
        return [(value, 1) for value, _ in right(node, sign)]

    monkeypatch.setattr(moves_regroup, "_terms_of", all_added)
    g = GraphBuilder(seed=5)
    residual_taken_from(g)
    report = fuse_graph(g.ir())
    assert [one.kind for one in report.failed] == [REGROUP]
    assert report.ops_after["Sub"] == 2


def test_a_move_that_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    right = moves_plan.Plan.prove

    def counted(self: Any) -> Any:
        tried.append(self.kind)
        return replace(right(self), holds=False)

    monkeypatch.setattr(moves_plan.Plan, "prove", counted)
    g = GraphBuilder(seed=5)
    two_readers(g)
    report = fuse_graph(g.ir())
    assert tried == [SINK]
    assert len(report.failed) == 1
    assert report.ops_after["BatchNormalization"] == 1


# any graph

Grown = tuple[list[Value], list[Value]]
"""Images that may be read further, and outputs."""


def grow_factor(g: GraphBuilder, draw: st.DrawFn, x: Value, grown: Grown) -> None:
    scale = draw(st.sampled_from((None, g.scalar(0.5), g.per_channel(x))))
    grown[0].append(g.bn(x) if scale is None else g.mul(x, scale))


def grow_kernel(g: GraphBuilder, draw: st.DrawFn, x: Value, grown: Grown) -> None:
    kernel, bias = draw(st.sampled_from((1, 1, 3))), draw(st.booleans())
    grown[0].append(g.conv(x, 4, kernel, padding=kernel // 2, bias=bias))


def grow_pool(g: GraphBuilder, draw: st.DrawFn, x: Value, grown: Grown) -> None:
    if g.shape(x)[2] >= 4:
        pool = draw(st.sampled_from((g.average_pool, g.max_pool)))
        grown[0].append(pool(x, 2, 2))


def grow_split(g: GraphBuilder, _: st.DrawFn, x: Value, grown: Grown) -> None:
    if g.channels(x) >= 3:
        grown[0].extend(g.split(x, (1, g.channels(x) - 1)))


def grow_concat(g: GraphBuilder, draw: st.DrawFn, x: Value, grown: Grown) -> None:
    like = [v for v in grown[0] if g.shape(v)[2:] == g.shape(x)[2:]]
    grown[0].append(g.concat(x, draw(st.sampled_from(like))))


def grow_sum(g: GraphBuilder, draw: st.DrawFn, x: Value, grown: Grown) -> None:
    same = st.sampled_from([v for v in grown[0] if g.shape(v) == g.shape(x)])
    add = st.sampled_from((g.add, g.sub))
    grown[0].append(draw(add)(draw(add)(x, draw(same)), draw(same)))


def grow_tokens(g: GraphBuilder, draw: st.DrawFn, x: Value, grown: Grown) -> None:
    _, channels, rows, columns = g.shape(x)
    flat = g.transpose(g.reshape(x, [0, channels, rows * columns]), (0, 2, 1))
    grown[1].append(g.relu(g.matmul(flat, 3, bias=draw(st.booleans()))))
    grown[1].append(g.relu(g.bn(g.flatten(g.matmul(flat, 3, bias=True), 2))))


def grow_reshape(g: GraphBuilder, _: st.DrawFn, x: Value, grown: Grown) -> None:
    _, channels, rows, columns = g.shape(x)
    if rows % 2 == 0:
        grown[1].append(g.relu(g.bn(g.reshape(x, [0, channels * 2, rows // 2, columns]))))
        grown[1].append(g.relu(g.bn(g.reshape(x, [0, channels, rows // 2, columns * 2]))))


def grow_activation(g: GraphBuilder, _: st.DrawFn, x: Value, grown: Grown) -> None:
    grown[0].append(g.relu(x))


STEPS = (
    grow_factor, grow_factor, grow_kernel, grow_kernel, grow_pool, grow_split, grow_concat,
    grow_sum, grow_tokens, grow_reshape, grow_activation,
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> GraphBuilder:
    """A graph in which factors stand before and behind all that lets them through."""
    g = GraphBuilder(opset=draw(st.sampled_from((13, 17, 18))), seed=draw(st.integers(0, 99)))
    grown: Grown = ([entry(g, (draw(st.sampled_from((None, 2))), 4, 6, 6))], [])
    for _ in range(draw(st.integers(2, 10))):
        draw(st.sampled_from(STEPS))(g, draw, draw(st.sampled_from(grown[0])), grown)
    images = [v for v in grown[0] if v == grown[0][-1] or draw(st.integers(0, 3)) == 0]
    g.output(*dict.fromkeys([*grown[1], *images]))
    return g


COUNT = int(os.environ.get("REPARAM_RANDOM_GRAPHS", "70"))


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_moves_keep_the_meaning_of_any_graph_and_cost_nothing(g: GraphBuilder) -> None:
    before = g.model()
    after = fused(before)
    assert defects(g, before, after) == []
    assert op_counts(fused(after)) == op_counts(after)


# size


def test_many_runs_take_linear_time() -> None:
    """A chain in which every run is tried and stays: no walk goes further than it must."""
    g = GraphBuilder()
    x = entry(g, (1, 2, 4, 4))
    for _ in range(150):
        x = g.sigmoid(g.max_pool(g.neg(x), 1))
    g.output(x)
    visited: list[object] = []
    right = moves_affine.Site.reading

    def counted(self: Any, node: Any, operators: Any) -> Any:
        visited.append(node)
        return right(self, node, operators)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves_affine.Site, "reading", counted)
        fuse_graph(g.ir())
    assert len(visited) < 20 * 450


def test_the_passes_are_in_their_order() -> None:
    assert list(moves._LOOKS) == [HOIST, SINK]
    assert MOVES == (HOIST, SINK, STRAIGHTEN, REGROUP)
