"""RepViT's blocks and heads, PP-LCNetV4's block and Residual against their forward pass."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import block_tree
from reparam.checkpoint.plan import plan_of
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, Block, assert_fuses, bound_of

ONE = ((1, 1),)  # the input itself is a branch


def repvggdw(channels, kernel, groups, *, conv="c", bias=True, **options):
    """A block BN(BN(conv) + conv1 + x), as RepViT (``c``) and PP-LCNetV4 (``conv``) name it."""
    block = Block(**options)
    width = channels // groups
    block.add_conv_norm("conv", (channels, width, kernel, kernel), conv=conv)
    block.add_conv("conv1", (channels, width, 1, 1), bias=bias)
    block.add_norm("bn", channels)

    def forward(x, stride, dilation):
        y = block.conv_norm(x, "conv", conv=conv, groups=groups)
        return block.norm(y + block.conv(x, "conv1", groups=groups) + x, "bn")

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_repvggdw(kernel, groups, spelling):
    block, forward = repvggdw(4, kernel, groups, spelling=spelling)
    fused = assert_fuses(block, forward, family="RepVGGDW (RepViT)", groups=groups, strides=ONE)
    assert sorted(fused) == ["b.bias", "b.weight"]
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert all(again[key] is fused[key] for key in fused)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3]), st.integers(1, 3), st.booleans())
def test_any_geometry(seed, groups, width, bias):
    block, forward = repvggdw(groups * width, 3, groups, conv="conv", bias=bias, seed=seed)
    assert_fuses(block, forward, family="RepDWConv", groups=groups, strides=ONE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_block_of_pp_lcnet_v4(bias, spelling):
    block, forward = repvggdw(4, 3, 4, conv="conv", bias=bias, spelling=spelling)
    fused = assert_fuses(block, forward, family="RepDWConv", groups=4, strides=ONE)
    assert sorted(fused) == ["b.reparam_conv.bias", "b.reparam_conv.weight"]
    assert fuse_arrays(fused)[1].already == ("b",)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_legacy_blocks_of_timm(spelling):
    """Both kernels have a BatchNorm there, and nothing follows the sum."""
    block = Block(spelling=spelling, prefix="blocks.0.token_mixer.")
    block.add_conv_norm("conv", (4, 1, 3, 3), conv="c")
    block.add_conv_norm("conv1", (4, 1, 1, 1), conv="c")

    def forward(x, stride, dilation):
        y = block.conv_norm(x, "conv", conv="c", groups=4)
        return y + block.conv_norm(x, "conv1", conv="c", groups=4) + x

    fused = assert_fuses(block, forward, family="RepVggDw-legacy", groups=4, strides=ONE)
    assert sorted(fused) == ["blocks.0.token_mixer.bias", "blocks.0.token_mixer.weight"]
    elsewhere = {key.replace("token_mixer", "mlp"): one for key, one in block.arrays.items()}
    assert not fuse_arrays(elsewhere)[1].fused


@pytest.mark.parametrize("key", ["conv.c.weight", "conv.bn.bias", "conv1.weight", "bn._variance"])
def test_a_damaged_block_is_refused(key):
    block, _ = repvggdw(4, 3, 4)
    lacking = {name: array for name, array in block.arrays.items() if name != f"b.{key}"}
    with pytest.raises(CheckpointError, match="block 'b'") as caught:
        fuse_arrays(lacking)
    assert key in caught.value.found


def test_what_is_named_alike_and_keeps_no_channel_count_is_left():
    block, _ = repvggdw(4, 3, 4)
    block.add_conv("conv.c", (6, 4, 3, 3))
    fused, report = fuse_arrays(block.arrays)
    assert not report.fused
    assert report.left[0].where == "b"
    assert set(fused) == set(block.arrays)


def residual(channels, kernel, groups, **options):
    block = Block(**options)
    block.add_conv_norm("m", (channels, channels // groups, kernel, kernel), conv="c")

    def forward(x, stride, dilation):
        return x + block.conv_norm(x, "m", conv="c", groups=groups)

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_residual(kernel, groups, spelling):
    block, forward = residual(4, kernel, groups, spelling=spelling)
    fused = assert_fuses(block, forward, family="Residual", groups=groups, strides=ONE)
    assert sorted(fused) == ["b.bias", "b.weight"]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_identity_that_repvit_broadcasts_over_all_inputs(groups):
    """Residual.fuse() adds ones of the weight's own shape (O, I/G): right in depthwise alone."""
    block, forward = residual(4, 3, groups)
    fused, _ = fuse_arrays(block.arrays)
    weight, bias = fused["b.weight"].astype(np.float64), fused["b.bias"].astype(np.float64)
    one = np.zeros_like(weight)
    one[np.arange(4), np.arange(4) % weight.shape[1], 1, 1] = 1
    theirs = weight - one
    theirs[:, :, 1, 1] += 1
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 4, 6, 6)))

    def apart(kernel):
        kernel, shift = paddle.to_tensor(kernel), paddle.to_tensor(bias)
        return float((F.conv2d(x, kernel, shift, 1, 1, 1, groups) - forward(x, 1, 1)).abs().max())

    assert apart(weight) < 1e-5
    assert apart(theirs) > 0.1


def test_a_residual_that_changes_the_channel_count_is_left():
    block = Block()
    block.add_conv_norm("m", (6, 4, 3, 3), conv="c")
    assert not fuse_arrays(block.arrays)[1].fused


def head(block, name, inputs, outputs, *, bias=True, names=("bn", "l")):
    """Add a BatchNorm and the fully connected layer after it; return what it computes."""
    block.add_norm(f"{name}.{names[0]}", inputs)
    matrix = block.rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
    stored = matrix if block.spelling == "torch" else matrix.T
    block.add(f"{name}.{names[1]}.weight", stored)
    if bias:
        block.add(f"{name}.{names[1]}.bias", block.rng.normal(size=outputs))

    def forward(x):
        y = block.norm(x, f"{name}.{names[0]}")[:, :, 0, 0]
        weight = block.get(f"{name}.{names[1]}.weight")
        y = y @ (weight.t() if block.spelling == "torch" else weight)
        return y + block.get(f"{name}.{names[1]}.bias") if bias else y

    return forward


def assert_is_linear(block, forward, *, family, where):
    fused, report = fuse_arrays(block.arrays)
    assert [(done.where, done.family) for done in report.fused] == [(where, family)]
    weight, bias = fused[f"{where}.weight"], fused[f"{where}.bias"]
    old = next(array for key, array in block.arrays.items() if array.ndim == 2)
    assert weight.shape == old.shape
    assert weight.flags.c_contiguous
    rows = weight if block.spelling == "torch" else weight.T
    x = np.random.default_rng(2).normal(size=(3, rows.shape[1], 1, 1))
    found = x[:, :, 0, 0] @ rows.astype(np.float64).T + bias
    expected = forward(paddle.to_tensor(x)).numpy()
    (match,) = plan_of({key: one.shape for key, one in block.arrays.items()}).blocks
    tree = block_tree(match, block.arrays, block.epsilon)
    bound = bound_of(tree, x, (1, 1), 1, 1, [0, 0])[:, :, 0, 0]
    assert (np.abs(found - expected) <= bound).all()
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert all(again[key] is fused[key] for key in fused)
    return fused


SHAPES = [(3, 5), (4, 4), (5, 2)]  # a square one tells nothing of which axis is which


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_batchnorm_before_a_linear_layer(inputs, outputs, bias, spelling):
    block = Block(spelling=spelling, prefix="")
    forward = head(block, "head", inputs, outputs, bias=bias)
    assert_is_linear(block, forward, family="BN_Linear", where="head")


HEADS = [
    ("RepViT-classifier", "classifier", ["classifier"], ("bn", "l")),
    ("RepViT-classifier-distilled", "classifier", ["classifier", "classifier_dist"], ("bn", "l")),
    ("timm-RepViT-head", "head", ["head"], ("bn", "l")),
    ("timm-RepViT-head-distilled", "head", ["head", "head_dist"], ("bn", "l")),
    ("RepNeXt-head", "head", ["head", "head_dist"], ("norm", "linear")),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize(("family", "module", "parts", "names"), HEADS)
@pytest.mark.parametrize("root", ["", "model."])
def test_heads(family, module, parts, names, inputs, outputs, spelling, root):
    block = Block(spelling=spelling, prefix=f"{root}{module}.")
    forwards = [head(block, name, inputs, outputs, names=names) for name in parts]

    def mean(x):
        return sum(forward(x) for forward in forwards) / len(forwards)

    fused = assert_is_linear(block, mean, family=family, where=f"{root}{module}")
    assert sorted(fused) == [f"{root}{module}.bias", f"{root}{module}.weight"]


def test_two_heads_of_a_levit_keep_their_places():
    block = Block(spelling="torch", prefix="")
    for name in ("head", "head_dist"):
        head(block, name, 4, 3)
    fused, report = fuse_arrays(block.arrays)
    assert [done.where for done in report.fused] == ["head", "head_dist"]
    assert sorted(fused) == ["head.bias", "head.weight", "head_dist.bias", "head_dist.weight"]


def test_half_a_pair_of_heads_is_refused():
    block = Block(spelling="torch", prefix="classifier.")
    head(block, "classifier", 4, 3)
    head(block, "classifier_dist", 4, 3)
    del block.arrays["classifier.classifier_dist.l.weight"]
    with pytest.raises(CheckpointError, match="block 'classifier'"):
        fuse_arrays(block.arrays)
