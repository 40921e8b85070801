"""Every law equals the oracle within the derived bound, over random geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reparam.conv import (
    Affine,
    AvgPool,
    Conv,
    Identity,
    Parallel,
    Sequential,
    add,
    average_pool_as_conv,
    compose,
    error_bound,
    evaluate,
    expand_groups,
    fuse,
    identity_as_conv,
    scale_and_shift,
)
from reparam.errors import NotFusibleError
from tests.conv.blocks import (
    diverse_branch_block,
    excess,
    parallel_blocks,
    probe_for,
    random_conv,
    random_norm,
    repvgg_block,
)

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(parallel_blocks())
def test_a_sum_of_branches_is_one_convolution(case):
    block, x = case
    assert excess(fuse, block, x) <= 1


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.data())
def test_two_convolutions_in_a_row_are_one(seed, data):
    rng = np.random.default_rng(seed)
    groups = [data.draw(st.sampled_from([1, 2, 4])) for _ in range(2)]
    middle = 4
    kernel = [tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2)]
    stride = [tuple(data.draw(st.integers(1, 2)) for _ in range(2)) for _ in range(2)]
    dilation = [tuple(data.draw(st.integers(1, 2)) for _ in range(2)) for _ in range(2)]
    first = random_conv(
        rng,
        (middle, 4 // groups[0], *kernel[0]),
        stride=stride[0],
        dilation=dilation[0],
        padding=((1, 2), (0, 1)),
        groups=groups[0],
    )
    second = random_conv(
        rng,
        (8, middle // groups[1], *kernel[1]),
        stride=stride[1],
        dilation=dilation[1],
        groups=groups[1],
    )
    block = Sequential(first, second)
    assert excess(fuse, block, probe_for(fuse(block), rng)) <= 1


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 3), st.sampled_from([(3, 3), (2, 3), (5, 1)]))
def test_a_pointwise_convolution_without_bias_goes_through_zero_padding(seed, step, kernel):
    rng = np.random.default_rng(seed)
    first = Conv.of(rng.normal(size=(4, 3, 1, 1)), stride=step)
    second = random_conv(rng, (2, 4, *kernel), padding=((2, 1), (0, 2)), stride=(1, 2))
    block = Sequential(first, second, random_norm(rng, 2))
    for extra in range(3):  # every remainder of the input size by the stride
        x = rng.normal(size=(1, 3, 9 * step + extra, 11 * step + extra))
        assert excess(fuse, block, x) <= 1


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.data())
def test_a_kernel_without_bias_goes_through_padding_of_the_axes_where_it_has_one_tap(seed, data):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, 1))  # the one that the first spans and the second does not pad
    taps, step = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 2))
    groups = [data.draw(st.sampled_from([1, 2, 4])) for _ in range(2)]
    stride = [tuple(data.draw(st.integers(1, 2)) for _ in range(2)) for _ in range(2)]
    kernel, own, pads = [1, 1], [(0, 0), (0, 0)], [(2, 1), (2, 1)]
    kernel[axis], own[axis], pads[axis] = taps, (1, 2), (0, 0)
    first = Conv.of(
        rng.normal(size=(4, 4 // groups[0], *kernel)),
        stride=stride[0],
        dilation=step,
        padding=tuple(own),
        groups=groups[0],
    )
    second = random_conv(
        rng,
        (4, 4 // groups[1], 3, 2),
        stride=stride[1],
        padding=tuple(pads),
        groups=groups[1],
    )
    block = Sequential(first, second)
    for extra in range(3):  # every remainder of the input size by the stride
        x = rng.normal(size=(1, 4, 16 + extra, 17 + extra))
        assert excess(fuse, block, x) <= 1


@pytest.mark.parametrize("alpha", [None, 1.0, 0.37, 0.0, -2.5])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_repvgg_blocks(alpha, groups):
    rng = np.random.default_rng(groups)
    block = repvgg_block(rng, groups=groups, alpha=alpha)
    fused = fuse(block)
    assert fused.kernel == (3, 3)
    assert fused.groups == groups
    assert excess(fuse, block, probe_for(fused, rng)) <= 1


def test_a_diverse_branch_block_is_one_convolution_with_padding():
    rng = np.random.default_rng(5)
    block = diverse_branch_block(rng)
    fused = fuse(block)
    assert fused.kernel == (3, 3)
    assert fused.padding == ((1, 1), (1, 1))
    assert excess(fuse, block, probe_for(fused, rng)) <= 1


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.booleans(), st.integers(0, 2))
def test_average_pooling_is_a_convolution_where_padding_counts(seed, counts, pad):
    assume(counts or pad == 0)
    rng = np.random.default_rng(seed)
    pool = AvgPool.of(3, (2, 3), stride=(1, 2), padding=pad, count_include_pad=counts)
    fused = average_pool_as_conv(pool)
    assert excess(lambda _: fused, pool, probe_for(fused, rng)) <= 1


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 3, 6]), st.data())
def test_expanding_groups_changes_nothing(seed, groups, data):
    rng = np.random.default_rng(seed)
    fewer = data.draw(st.sampled_from([g for g in (1, 2, 3, 6) if groups % g == 0]))
    conv = random_conv(rng, (6, 6 // groups, 3, 2), dilation=(2, 3), padding=(2, 1), groups=groups)
    x = probe_for(conv, rng)
    assert excess(lambda _: expand_groups(conv, fewer), conv, x) <= 1
    assert expand_groups(conv, fewer).groups == fewer


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_blocks_without_a_convolution(axes):
    rng = np.random.default_rng(axes)
    norm = random_norm(rng, 4)
    block = Parallel({"skip": Identity(4), "norm": norm})
    x = rng.normal(size=(2, 4) + (5,) * axes)
    assert excess(lambda tree: fuse(tree, axes), block, x) <= 1
    assert np.array_equal(evaluate(identity_as_conv(4, axes), x), x)


def test_fusing_does_not_change_its_arguments():
    rng = np.random.default_rng(3)
    weight, gamma = rng.normal(size=(2, 2, 1, 1)), rng.normal(size=2)
    conv, kept = Conv.of(weight), weight.copy()
    weight[:] = 0  # the record holds its own copy
    assert np.array_equal(conv.weight, kept)
    fuse(Sequential(conv, Affine(gamma, gamma)))
    assert np.array_equal(conv.weight, kept)
    with pytest.raises(ValueError, match="read-only"):
        conv.weight[0] = 1


class TestRefusals:
    """One for each guard; the message says what was found."""

    def conv(self, shape=(4, 3, 3, 3), **geometry) -> Conv:
        return random_conv(np.random.default_rng(1), shape, **geometry)

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"stride": 2}, r"stride \(1, 1\).*stride \(2, 2\)"),
            ({"shape": (5, 3, 3, 3)}, "out_channels 4.*out_channels 5"),
            ({"shape": (4, 2, 3, 3)}, "in_channels 3.*in_channels 2"),
            ({"shape": (4, 3, 1, 1)}, r"kernel \(3, 3\).*kernel \(1, 1\)"),
            ({"padding": 1}, r"padding \(\(0, 0\), \(0, 0\)\).*padding \(\(1, 1\), \(1, 1\)\)"),
            ({"shape": (4, 3, 3)}, r"stride \(1, 1\).*stride \(1,\)"),
        ],
    )
    def test_branches_that_do_not_fit(self, other, said):
        conv = self.conv(**other)
        with pytest.raises(NotFusibleError, match=said):
            add(self.conv(), conv)

    def test_a_sum_of_nothing(self):
        with pytest.raises(NotFusibleError, match="no branches"):
            fuse(Parallel({}))

    def test_an_empty_sequence(self):
        with pytest.raises(NotFusibleError, match="empty sequence"):
            fuse(Sequential())

    def test_pooling_that_excludes_padding(self):
        pool = AvgPool.of(3, (3, 3), padding=1, count_include_pad=False)
        with pytest.raises(NotFusibleError, match="leaves padding out"):
            average_pool_as_conv(pool)

    @pytest.mark.parametrize(
        "first",
        [
            {"shape": (3, 3, 1, 1)},  # has a bias
            {"shape": (3, 3, 3, 3), "bias": False},
            {"shape": (3, 3, 1, 3), "bias": False, "padding": (0, 1)},
            {"shape": (3, 3, 3, 1), "bias": False},
        ],
    )
    def test_what_does_not_go_through_zero_padding(self, first):
        shape, bias = first["shape"], first.get("bias", True)
        weight = np.random.default_rng(2).normal(size=shape)
        head = Conv.of(weight, np.ones(3) if bias else None, padding=first.get("padding", 0))
        with pytest.raises(NotFusibleError, match="does not absorb"):
            compose(head, self.conv((4, 3, 3, 3), padding=1))

    @given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(7, 12))
    def test_one_tap_may_pad_before_what_pads(self, own, more, stride, size):
        rng = np.random.default_rng(own + 4 * more)
        first = Conv.of(rng.normal(size=(3, 2, 1, 1)), padding=own, stride=stride)
        second = Conv.of(rng.normal(size=(4, 3, 3, 3)), padding=more, stride=2)
        x = rng.normal(size=(1, 2, size, size + 1))
        if min((n + 2 * own - 1) // stride + 1 + 2 * more for n in (size, size + 1)) < 3:
            return
        expected = evaluate(second, evaluate(first, x))
        found = evaluate(compose(first, second), x)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= error_bound(Sequential(first, second), x).max()

    def test_channels_that_do_not_follow(self):
        with pytest.raises(NotFusibleError, match="4 output channels"):
            compose(self.conv(), self.conv())
        with pytest.raises(NotFusibleError, match="4 channels; needed: 5"):
            scale_and_shift(self.conv(), Affine.scalar(1, 5))

    def test_groups_that_are_no_divisor(self):
        with pytest.raises(NotFusibleError, match="in 4"):
            expand_groups(self.conv((6, 1, 3, 3), groups=6), 4)

    def test_the_branch_is_named(self):
        block = Parallel(
            {
                "good": self.conv(),
                "bad": Sequential(self.conv(), random_norm(np.random.default_rng(0), 5)),
            }
        )
        with pytest.raises(NotFusibleError, match="branch 'bad'"):
            fuse(block)
