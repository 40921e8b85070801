"""Right rewrites are proved, whatever their geometry, and wrong ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reparam.conv import Affine, BatchNorm, Conv, Parallel, Sequential, fuse
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.errors import NotFusibleError
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.proving import prove
from tests.conv.blocks import (
    diverse_branch_block,
    parallel_blocks,
    random_conv,
    random_norm,
    repvgg_block,
)
from tests.graph.regions import Region, emit, geometry, region_of, stored_block

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["float32", "float32", "float64", "float16", "bfloat16"])


def fused_or_skip(block):
    try:
        return fuse(block)
    except NotFusibleError:
        assume(False)


def moved(array, index, by):
    changed = np.array(array)
    changed[index] += by
    return changed


def row_largest(weight, row):
    return float(np.abs(weight[row]).max())


@settings(max_examples=150, deadline=None)
@given(parallel_blocks(), DTYPES)
def test_a_right_fusion_is_proved(case, dtype):
    block = stored_block(case[0], dtype)
    proof = region_of(block, fused_or_skip(block), stored=dtype).proof()
    assert proof.holds, proof


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), DTYPES)
def test_a_right_fusion_of_two_kernels_is_proved(seed, step, taps, dtype):
    rng = np.random.default_rng(seed)
    first = random_conv(rng, (5, 4, 3, taps), stride=(step, 1), padding=((1, 2), (0, 1)))
    second = random_conv(rng, (6, 5, taps, 2), stride=(1, step), dilation=(2, 1))
    block = stored_block(Sequential(first, random_norm(rng, 5), second), dtype)
    assert region_of(block, fuse(block), stored=dtype).proof().holds


@settings(max_examples=100, deadline=None)
@given(parallel_blocks(), SEEDS)
def test_one_weight_that_is_off_by_a_thousandth_of_its_row_is_found(case, seed):
    block, rng = stored_block(case[0]), np.random.default_rng(seed)
    fused = fused_or_skip(block)
    index = tuple(int(rng.integers(n)) for n in fused.weight.shape)
    by = rng.choice([-1.0, 1.0]) * 2.0**-10 * row_largest(fused.weight, index[0])
    assume(by != 0)
    wrong = replace(fused, weight=moved(fused.weight, index, by))
    proof = region_of(block, wrong).proof()
    assert not proof.holds
    assert proof.index[1] == index[0]  # in the output channel that was changed


@pytest.mark.parametrize("channels", [96, pytest.param(384, marks=pytest.mark.slow)])
def test_one_weight_of_many_is_found_at_every_place_of_the_kernel(channels):
    rng = np.random.default_rng(channels)
    block = stored_block(repvgg_block(rng, channels))
    fused = fuse(block)
    region = region_of(block, fused)
    for tap in np.ndindex(3, 3):
        index = (int(rng.integers(channels)), int(rng.integers(channels)), *tap)
        by = 2.0**-10 * row_largest(fused.weight, index[0])
        wrong = region_of(block, replace(fused, weight=moved(fused.weight, index, by)))
        assert not replace_after(region, wrong).proof().holds, tap


def replace_after(region, wrong):
    """Return ``region`` with the new nodes of another one, which read the same source."""
    for node in wrong.after:
        node.replace_input_with(0, region.source)
    region.after = wrong.after
    return region


@settings(max_examples=40, deadline=None)
@given(parallel_blocks(), SEEDS)
def test_one_bias_that_is_off_is_found(case, seed):
    block, rng = stored_block(case[0]), np.random.default_rng(seed)
    fused = fused_or_skip(block)
    row = int(rng.integers(fused.out_channels))
    largest = sum(float(np.abs(a).max()) for a in biases(block))
    wrong = replace(fused, bias=moved(fused.bias, row, 2.0**-10 * largest))
    assert not region_of(block, wrong).proof().holds


def biases(block):
    """Yield all that a block adds, as large as it can be behind its own factors."""
    if isinstance(block, Sequential | Parallel):
        parts = block.parts if isinstance(block, Sequential) else block.branches.values()
        for part in parts:
            yield from biases(part)
    elif isinstance(block, Conv):
        yield block.bias
    elif isinstance(block, BatchNorm):
        yield block.beta
        yield block.mean * block.gamma / np.sqrt(block.variance)


def test_a_bias_that_went_through_zero_padding_is_found_and_is_wrong_at_the_border_alone():
    rng = np.random.default_rng(1)
    point = stored_block(random_conv(rng, (4, 3, 1, 1)))
    wide = stored_block(random_conv(rng, (5, 4, 3, 3)))
    around = ((1, 1), (1, 1))
    block = Sequential(point, replace(wide, padding=around))
    proof = region_of(block, replace(fuse(Sequential(point, wide)), padding=around)).proof()
    assert not proof.holds
    _, _, height, width = proof.sizes
    assert proof.index[2] in (0, height - 1) or proof.index[3] in (0, width - 1)


@pytest.mark.parametrize("sizes", [(None, None), (14, 15)], ids=["open", "static"])
@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (-1, 0), (0, -1)])
def test_a_kernel_beside_its_place_is_found(shift, sizes):
    rng = np.random.default_rng(2)
    block = stored_block(repvgg_block(rng))
    fused = fuse(block)
    wrong = replace(fused, weight=np.roll(fused.weight, shift, axis=(2, 3)))
    assert not region_of(block, wrong, sizes=sizes).proof().holds


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("by", [-1, 1])
def test_padding_at_the_end_that_matters_to_some_sizes_alone_is_found(stride, axis, by):
    rng = np.random.default_rng(3)
    conv = random_conv(rng, (3, 2, 4, 4), padding=1, stride=stride)
    block = stored_block(Sequential(conv, random_norm(rng, 3)))
    fused, pads = fuse(block), [[1, 1], [1, 1]]
    assert region_of(block, fused).proof().holds
    pads[axis][1] += by
    wrong = replace(fused, padding=tuple(map(tuple, pads)))
    assert not region_of(block, wrong).proof().holds


@pytest.mark.parametrize("name", ["conv1", "conv2"])
def test_a_forgotten_epsilon_is_found(name):
    block = stored_block(repvgg_block(np.random.default_rng(4)))
    conv, norm = block.branches[name].parts
    forgotten = {name: Sequential(conv, replace(norm, epsilon=0.0))}
    wrong = Parallel({**block.branches, **forgotten})
    assert not region_of(block, fuse(wrong)).proof().holds


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_swapped_statistics_are_found(seed):
    rng = np.random.default_rng(seed)
    block = stored_block(repvgg_block(rng))
    (one, first), (two, second) = (block.branches[n].parts for n in ("conv1", "conv2"))
    swapped = {"conv1": Sequential(one, second), "conv2": Sequential(two, first)}
    assert not region_of(block, fuse(Parallel({**block.branches, **swapped}))).proof().holds


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_scale_of_another_channel_is_found(seed):
    rng = np.random.default_rng(seed)
    conv, norm = random_conv(rng, (4, 4, 3, 3), padding=1), random_norm(rng, 4)
    block = stored_block(Sequential(conv, norm))
    order = np.roll(np.arange(4), 1)
    _, right = block.parts
    other = replace(right, gamma=right.gamma[order])
    assert not region_of(block, fuse(Sequential(block.parts[0], other))).proof().holds


def test_wrong_groups_are_found():
    rng = np.random.default_rng(5)
    block = stored_block(repvgg_block(rng, channels=6, groups=2, identity=False))
    fused = fuse(block)
    rows = [0, 2, 4, 1, 3, 5]  # as if the groups were interleaved
    wrong = replace(fused, weight=fused.weight[rows], bias=fused.bias)
    assert region_of(block, fused).proof().holds
    assert not region_of(block, wrong).proof().holds
    other = replace(fused, weight=fused.weight[:, :2], groups=3)
    assert not region_of(block, other).proof().holds


def test_an_identity_written_for_one_group_is_found():
    rng = np.random.default_rng(6)
    block = stored_block(repvgg_block(rng, channels=6, groups=2))
    without = fuse(Parallel({n: b for n, b in block.branches.items() if n != "identity"}))
    scale = block.branches["identity"]
    factor = scale.gamma / np.sqrt(scale.variance + scale.epsilon)
    weight, bias = without.weight.copy(), without.bias + scale.beta - scale.mean * factor
    for row in range(6):
        weight[row, row % 3, 1, 1] += factor[row]  # right: the input of the same group
    right = replace(without, weight=weight, bias=bias)
    assert region_of(block, right).proof().holds
    weight = without.weight.copy()
    for row in range(6):
        weight[row, min(row, 2), 1, 1] += factor[row]  # as if all rows were of the first group
    assert not region_of(block, replace(right, weight=weight)).proof().holds


def test_the_diverse_branch_block_is_proved_with_its_padding_by_a_bias():
    block = stored_block(diverse_branch_block(np.random.default_rng(7)))
    fused = fuse(block)
    assert region_of(block, fused).proof().holds
    wrong = replace(fused, weight=moved(fused.weight, (1, 1, 2, 2), 1e-3))
    assert not region_of(block, wrong).proof().holds


def test_padding_with_the_value_of_the_bias_is_proved_and_zero_padding_is_not():
    """Conv 1x1 with a bias, padded by that bias: the case of DBB and ECB."""
    rng = np.random.default_rng(8)
    point, wide = random_conv(rng, (3, 4, 1, 1)), random_conv(rng, (5, 3, 3, 3))
    point, wide = stored_block(point), stored_block(wide)
    bias = np.full(3, 0.75)
    inside = fuse(Sequential(replace(point, bias=bias), wide))
    for fill, holds in ((0.75, True), (0.0, False)):
        region = Region((None, 4, None, None))
        value = emit(region, replace(point, bias=bias), region.source)
        pads = region.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
        value = region.old("Pad", value, pads, region.constant(np.float64(fill)))
        emit(region, wide, value)
        weight, shift = region.constant(inside.weight), region.constant(inside.bias)
        attributes = geometry(replace(inside, padding=((1, 1), (1, 1))))
        region.new("Conv", region.source, weight, shift, **attributes)
        assert region.proof().holds is holds


def linear(rng, shape, wrong=0.0):
    """MatMul, Add, BatchNormalization of the last axis as Mul and Add; one MatMul and Add."""
    weight, bias = rng.normal(size=(7, 5)), rng.normal(size=5)
    scale, shift = rng.normal(size=5), rng.normal(size=5)
    weight, bias, scale, shift = (
        a.astype(np.float32).astype(np.float64) for a in (weight, bias, scale, shift)
    )
    region = Region(shape)
    value = region.old("MatMul", region.source, region.constant(weight))
    value = region.old("Add", value, region.constant(bias))
    value = region.old("Mul", value, region.constant(scale))
    region.old("Add", value, region.constant(shift))
    fused = weight * scale
    fused[3, 2] += wrong * np.abs(fused[:, 2]).max()
    value = region.new("MatMul", region.source, region.constant(fused))
    region.new("Add", value, region.constant(bias * scale + shift))
    return region


@pytest.mark.parametrize("shape", [(None, 7), (1, 7), (None, None, 7), (1, 196, 7), (2, 3, 4, 7)])
def test_products_of_matrices_are_proved_over_any_rank(shape):
    rng = np.random.default_rng(9)
    assert linear(rng, shape).proof().holds
    assert not linear(rng, shape, 2.0**-10).proof().holds


@pytest.mark.parametrize("size", [7, 8, 9, 10, 56, 57, 58])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_worked_out_for_the_size_of_the_graph_is_proved_for_that_size(size, stride):
    rng = np.random.default_rng(10)
    conv = stored_block(random_conv(rng, (3, 2, 3, 3), stride=stride))
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    for extra, holds in ((0, True), (1, False)):
        region = Region((1, 2, size, size))
        weight, bias = region.constant(conv.weight), region.constant(conv.bias)
        step = [stride, stride]
        region.old("Conv", region.source, weight, bias, auto_pad="SAME_UPPER", strides=step)
        before = total // 2 + extra
        pads = [before, before, total - before, total - before]
        if min(pads) < 0:
            continue
        region.new("Conv", region.source, weight, bias, strides=step, pads=pads)
        assert region.proof().holds is holds


def test_a_reshape_to_fixed_sizes_is_proved_on_them():
    rng = np.random.default_rng(11)
    scale = rng.normal(size=(1, 4, 1, 1)).astype(np.float32)
    for factor, holds in ((1.0, True), (1.001, False)):
        region = Region((1, 4, 6, 5))
        target = region.constant(np.array([1, 4, 30]))
        value = region.old("Mul", region.source, region.constant(scale))
        region.old("Reshape", value, target)
        value = region.new("Reshape", region.source, target)
        region.new("Mul", value, region.constant(factor * scale.reshape(1, 4, 1)))
        proof = region.proof()
        assert proof.holds is holds
        assert proof.sizes == (1, 4, 6, 5)


def test_images_that_a_reshape_lays_side_by_side_are_proved_one_by_one():
    """Of nine images at once, (1, 4, -1) makes one, with other channels in the place of its own."""
    rng = np.random.default_rng(14)
    scale = rng.normal(size=(1, 4, 1, 1)).astype(np.float32)
    for factor, holds in ((1.0, True), (1.001, False)):
        region = Region((1, 4, 6, 5))
        target = region.constant(np.array([1, 4, -1]))
        value = region.old("Mul", region.source, region.constant(scale))
        region.old("Reshape", value, target)
        value = region.new("Reshape", region.source, target)
        region.new("Mul", value, region.constant(factor * scale.reshape(1, 4, 1)))
        proof = region.proof()
        assert proof.holds is holds
        assert proof.sizes[0] == 1


@pytest.mark.parametrize(("batch", "holds"), [(1, True), (None, False)])
def test_a_mean_over_images_is_the_image_only_where_there_is_one(batch, holds):
    region = Region((batch, 4, 6, 5))
    value = region.old("ReduceMean", region.source, axes=[0], keepdims=1)
    region.old("Mul", value, region.constant(np.float32(2)))
    value = region.new("Mul", region.source, region.constant(np.float32(2)))
    region.new("Reshape", value, region.constant(np.array([1, 4, -1, 5])))
    assert region.proof().holds is holds


def test_a_map_of_constants_is_proved_on_its_own_size():
    rng = np.random.default_rng(12)
    first, second = (rng.normal(size=(1, 3, 9, 8)).astype(np.float32) for _ in range(2))
    for corner, holds in ((0.0, True), (0.01, False)):
        region = Region((None, 3, 9, 8))
        value = region.old("Add", region.source, region.constant(first))
        region.old("Add", value, region.constant(second))
        total = first.astype(np.float64) + second
        total[0, 1, 8, 7] += corner
        region.new("Add", region.source, region.constant(total))
        assert region.proof().holds is holds


def test_two_sources_are_proved_together():
    rng = np.random.default_rng(13)
    scale = rng.normal(size=(1, 3, 1, 1)).astype(np.float32)
    x, y = ir.Value(name="x"), ir.Value(name="y")
    region = Region((None, 3, None, None))
    factor = region.constant(scale)
    region.old("Mul", region.old("Add", x, y), factor)
    region.new("Add", region.new("Mul", x, factor), region.new("Mul", y, factor))
    outputs = (region.before[-1].outputs[0], region.after[-1].outputs[0])
    options = {"opset": 17, "stored": "float32", "shape": [region.shape] * 2}
    assert prove(region.before, region.after, (x, y), *outputs, **options).holds
    outputs = (region.before[-1].outputs[0], region.after[0].outputs[0])
    assert not prove(region.before, region.after, (x, y), *outputs, **options).holds


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_is_proved(stride):
    rng = np.random.default_rng(14)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    norm = stored_block(random_norm(rng, 6))
    factor = norm.gamma / np.sqrt(norm.variance + norm.epsilon)
    fused = weight.astype(np.float64) * factor.reshape(2, 3)[[0, 0, 1, 1]][:, :, None, None]
    attributes = {"group": 2, "strides": [stride] * 2, "pads": [1, 0, 1, 2]}
    for wrong, holds in ((0.0, True), (2.0**-10, False)):
        region = Region((None, 4, None, None))
        value = region.old("ConvTranspose", region.source, region.constant(weight), **attributes)
        emit(region, norm, value)
        changed = moved(fused, (1, 2, 0, 2), wrong * np.abs(fused).max())
        bias = region.constant(norm.beta - norm.mean * factor)
        region.new("ConvTranspose", region.source, region.constant(changed), bias, **attributes)
        assert region.proof().holds is holds


def test_another_shape_is_no_proof():
    block = stored_block(repvgg_block(np.random.default_rng(15)))
    wrong = replace(fuse(block), padding=((0, 0), (0, 0)))
    proof = region_of(block, wrong).proof()
    assert not proof.holds
    assert "shape" in proof.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_proof(value):
    region = Region((None, 3, None, None))
    array = ir.tensor(np.array([[[1.0]], [[value]], [[1.0]]], np.float32))
    constant = ir.Value(name="c", const_value=array)
    region.old("Mul", region.source, constant)
    region.new("Mul", region.source, constant)
    proof = region.proof()
    assert not proof.holds
    assert proof.worst == np.inf


def test_new_nodes_of_no_meaning_are_no_proof_and_old_ones_are_an_error():
    region = Region((None, 3, None, None))
    region.old("Identity", region.source)
    region.new("NoSuchOperator", region.source)
    assert "NoSuchOperator" in region.proof().reason
    region.before, region.after = region.after, region.before
    with pytest.raises(NotEvaluableError, match="NoSuchOperator"):
        region.proof()


def test_new_nodes_that_cannot_take_the_source_are_no_proof():
    region = Region((None, 3, None, None))
    region.old("Identity", region.source)
    region.new("Add", region.source, region.constant(np.ones(5)))
    assert "cannot be evaluated" in region.proof().reason


@pytest.mark.parametrize(("by", "holds"), [(0.0, True), (1e-6, False)])
def test_the_new_nodes_are_proved_with_what_is_stored(by, holds):
    """An earlier rewrite rounded 1/3; it is held against 1/3, not against itself."""
    region = Region((None, 3, None, None))
    third = region.constant(np.full((1, 3, 1, 1), 1 / 3))
    region.old("Mul", region.source, third)
    region.new("Mul", region.source, third)
    assert region.proof().worst == 0
    proof = region.proof(exact={third: np.full((1, 3, 1, 1), 1 / 3 + by)})
    assert proof.worst > 0
    assert proof.holds is holds


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_unrounded_constants_are_those_that_were_rounded_or_nothing_is_proved(dtype):
    array = np.random.default_rng(18).normal(size=(1, 3, 1, 1))
    array[0, 1] = 1e-46  # flushed
    region = Region((None, 3, None, None), dtype)
    value = region.constant(array)
    region.old("Mul", region.source, value)
    region.new("Mul", region.source, value)
    assert region.proof(exact={value: array}).holds
    for wrong in (array * (1 + 2 * UNIT_ROUNDOFF[dtype]), array[:, :2], -array):
        proof = region.proof(exact={value: wrong})
        assert not proof.holds
        assert "not what is stored" in proof.reason


def test_no_nodes_at_all_are_the_source_itself():
    region = Region((None, 3, None, None))
    region.old("Dropout", region.source)
    assert region.proof().holds
    region.old("Neg", region.before[-1].outputs[0])
    assert not region.proof().holds


def test_constants_flushed_to_zero_are_allowed_for_and_larger_ones_are_not():
    """Of float32 below 1.2e-38; of float16 below 3e-8 alone, as it holds what is above that."""
    rng = np.random.default_rng(16)
    weight = rng.uniform(0.5, 1.0, size=(3, 4, 1, 1))
    for dtype, factor, holds in (
        ("float32", 2.0**-126, True),
        ("float32", 2.0**-123, False),
        ("float16", 2.0**-25, True),
        ("float16", 2.0**-16, False),
    ):
        region = Region((None, 4, None, None), dtype)
        value = region.old("Conv", region.source, region.constant(weight))
        region.old("Mul", value, region.constant(np.float64(factor), "float32"))
        region.new("Conv", region.source, region.constant(np.zeros_like(weight)))
        assert region.proof().holds is holds


def test_a_proof_says_what_was_tried_and_where_it_is_worst():
    rng = np.random.default_rng(17)
    block = Sequential(random_conv(rng, (3, 3, 3, 3), padding=1), Affine.scalar(2.0, 3))
    proof = region_of(stored_block(block), fuse(stored_block(block))).proof()
    assert proof.holds
    assert proof.probe
    assert len(proof.index) == len(proof.sizes) == 4
    assert proof.ratio == pytest.approx(proof.worst / proof.bound, rel=1e-6, abs=0)
    again = region_of(stored_block(block), fuse(stored_block(block))).proof()
    assert again == proof  # the same probes in every run
