"""Diverse Branch Blocks against their forward pass; a depthwise one of Paddle is refused."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError, NotFusibleError
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses

INCLUSIVE = "DiverseBranchBlock-inclusive"


def dbb(inputs, outputs, kernel, groups, *, internal=None, exclusive=False, wrong="", **options):
    """A block as the paper's code builds it, and its forward pass.

    Args:
        internal: channels between the two kernels in a row, where the user gave them.
        exclusive: whether pooling leaves its own padding out, which is Paddle's default.
        wrong: ``border`` pads with zeros, ``identity`` forgets what idconv1 is added to.
    """
    block = Block(**options)
    depthwise = groups == outputs
    width = inputs // groups
    block.add_conv_norm("dbb_origin", (outputs, width, kernel, kernel))
    if not depthwise:
        block.add_conv_norm("dbb_1x1", (outputs, width, 1, 1))
        block.add_conv("dbb_avg.conv", (outputs, width, 1, 1))
        block.add_norm("dbb_avg.bn.bn", outputs)
    block.add_norm("dbb_avg.avgbn", outputs)
    internal = internal or (2 * inputs if depthwise else inputs)
    first = "dbb_1x1_kxk.idconv1" if internal == inputs else "dbb_1x1_kxk.conv1"
    block.add_conv(first, (internal, width, 1, 1))
    block.add_norm("dbb_1x1_kxk.bn1.bn", internal)
    block.add_conv("dbb_1x1_kxk.conv2", (outputs, internal // groups, kernel, kernel))
    block.add_norm("dbb_1x1_kxk.bn2", outputs)

    def framed(x, name):
        """Normalize, then pad with what the BatchNorm makes of zeros."""
        y = block.norm(x, name)
        edge = kernel // 2
        if not edge:
            return y
        n, channels, height, width = y.shape
        zeros = paddle.zeros([1, channels, 1, 1], dtype="float64")
        canvas = block.norm(zeros, name).expand([n, channels, height + 2 * edge, width + 2 * edge])
        canvas = canvas.clone()
        canvas = 0 * canvas if wrong == "border" else canvas
        canvas[:, :, edge:-edge, edge:-edge] = y
        return canvas

    def averaged(x, stride):
        if depthwise:
            y = F.avg_pool2d(x, kernel, stride, kernel // 2, exclusive=exclusive)
        else:
            y = framed(block.conv(x, "dbb_avg.conv", groups=groups), "dbb_avg.bn.bn")
            y = F.avg_pool2d(y, kernel, stride, 0)
        return block.norm(y, "dbb_avg.avgbn")

    def in_a_row(x, stride):
        weight = block.get(f"{first}.weight")
        if internal == inputs and wrong != "identity":
            one = np.zeros(weight.shape)
            one[np.arange(inputs), np.arange(inputs) % width] = 1
            weight = weight + paddle.to_tensor(one)
        y = framed(F.conv2d(x, weight, groups=groups), "dbb_1x1_kxk.bn1.bn")
        y = block.conv(y, "dbb_1x1_kxk.conv2", stride=stride, padding=0, groups=groups)
        return block.norm(y, "dbb_1x1_kxk.bn2")

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups}
        y = block.conv_norm(x, "dbb_origin", **geometry) + averaged(x, stride)
        if not depthwise:
            y = y + block.conv_norm(x, "dbb_1x1", **geometry)
        return y + in_a_row(x, stride)

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "internal"),
    [
        (4, 4, 1, None),
        (4, 6, 1, None),
        (4, 6, 2, None),
        (4, 4, 1, 7),
        (4, 4, 2, 6),
        (1, 2, 1, None),
    ],
)
def test_dense_and_grouped(inputs, outputs, groups, internal, kernel, spelling):
    block, forward = dbb(inputs, outputs, kernel, groups, internal=internal, spelling=spelling)
    fused = assert_fuses(block, forward, family="DiverseBranchBlock", groups=groups)
    assert sorted(fused) == ["b.dbb_reparam.bias", "b.dbb_reparam.weight"]
    assert fuse_arrays(fused)[1].already == ("b",)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3]), st.integers(1, 2), st.integers(2, 3))
def test_any_geometry(seed, groups, width, height):
    block, forward = dbb(groups * width, groups * height, 3, groups, seed=seed)
    assert_fuses(block, forward, family="DiverseBranchBlock", groups=groups, strides=((1, 1),))


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_in_pytorch_where_padding_counts(kernel):
    block, forward = dbb(4, 4, kernel, 4, spelling="torch")
    assert_fuses(block, forward, family="DiverseBranchBlock", groups=4)


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_in_paddle_is_no_convolution(kernel):
    block, forward = dbb(4, 4, kernel, 4, exclusive=True)
    with pytest.raises(NotFusibleError, match=r"block 'b'.*average pooling") as caught:
        fuse_arrays(block.arrays)
    assert f"--family '{INCLUSIVE}'" in caught.value.hint
    assert "--skip b" in caught.value.hint
    skipped, report = fuse_arrays(block.arrays, skip=["b"])
    assert set(skipped) == set(block.arrays)
    assert [one.where for one in report.left] == ["b"]

    fused, report = fuse_arrays(block.arrays, families=[INCLUSIVE])
    assert any("exclusive=False" in notice for notice in report.notices)
    x = paddle.to_tensor(np.random.default_rng(1).normal(size=(1, 4, 9, 10)))
    weight, bias = (
        paddle.to_tensor(fused[f"b.dbb_reparam.{name}"].astype(np.float64))
        for name in ("weight", "bias")
    )
    found = F.conv2d(x, weight, bias, 1, kernel // 2, 1, 4)
    apart = np.abs((found - forward(x, 1, 1)).numpy())
    edge = kernel // 2
    assert apart[:, :, edge:-edge, edge:-edge].max() < 1e-5  # the border alone is another
    assert apart.max() > 1e-2


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_in_paddle_that_counts_padding_when_asked(kernel):
    block, forward = dbb(4, 4, kernel, 4)
    assert_fuses(block, forward, family=INCLUSIVE, groups=4, options={"families": [INCLUSIVE]})


def test_depthwise_of_one_tap_pads_nothing():
    block, forward = dbb(4, 4, 1, 4, exclusive=True)
    assert_fuses(block, forward, family="DiverseBranchBlock", groups=4)


def test_the_border_that_paddleclas_gets_wrong():
    """Its re_parameterize() takes 1 / K^2 everywhere, and its own forward pass does not."""
    _, trained = dbb(4, 4, 3, 4, exclusive=True)
    _, theirs = dbb(4, 4, 3, 4)
    x = paddle.ones([1, 4, 7, 7], dtype="float64")
    apart = np.abs((trained(x, 1, 1) - theirs(x, 1, 1)).numpy())
    assert apart[:, :, 1:-1, 1:-1].max() < 1e-12
    assert apart[:, :, 0].min() > 1e-3


@pytest.mark.parametrize(
    "key",
    [
        "dbb_origin.conv.weight",
        "dbb_1x1.bn._mean",
        "dbb_avg.conv.weight",
        "dbb_avg.bn.bn.bias",
        "dbb_avg.avgbn.weight",
        "dbb_1x1_kxk.idconv1.weight",
        "dbb_1x1_kxk.bn1.bn._variance",
        "dbb_1x1_kxk.conv2.weight",
    ],
)
def test_a_damaged_block_is_refused(key):
    block, _ = dbb(4, 6, 3, 1)
    lacking = {name: array for name, array in block.arrays.items() if name != f"b.{key}"}
    with pytest.raises(CheckpointError, match="block 'b'") as caught:
        fuse_arrays(lacking)
    assert key in caught.value.found
    cut = {**block.arrays, f"b.{key}": block.arrays[f"b.{key}"][:-1]}
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(cut)


def test_both_readings_of_the_first_kernel_in_one_block_are_refused():
    block, _ = dbb(4, 6, 3, 1)
    block.add_conv("dbb_1x1_kxk.conv1", (4, 4, 1, 1))
    with pytest.raises(CheckpointError, match="holds what no such block has"):
        fuse_arrays(block.arrays)


@pytest.mark.parametrize("wrong", ["identity", "border"])
def test_wrong_readings_fail(wrong):
    block, mutated = dbb(4, 4, 3, 1, wrong=wrong)
    with pytest.raises(AssertionError):
        assert_fuses(block, mutated, family="DiverseBranchBlock", strides=STRIDES[:1])
