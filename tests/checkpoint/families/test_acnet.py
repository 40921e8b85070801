"""ACNet's and PaddleSlim's asymmetric blocks against their forward pass, cropping included."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.families.terms import STATISTICS
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, Block, assert_fuses

BRANCHES = {"square": (1, 1), "ver": (1, 0), "hor": (0, 1)}
NAMES = {"ACNet": ("{}_conv", "{}_bn"), "ACBlock": ("{}_branch.conv", "{}_branch.bn")}
DEPLOY = {"ACNet": "fused_conv", "ACBlock": "fused_branch"}


def acb(family, channels, outputs, kernel, groups, *, affine=True, **options):
    """A block and its forward pass with padding of half the kernel."""
    block = Block(**options)
    conv, norm = NAMES[family]
    for name, axes in BRANCHES.items():
        window = [kernel if axis else 1 for axis in axes]
        block.add_conv(conv.format(name), (outputs, channels // groups, *window))
        block.add_norm(norm.format(name), outputs)
        if not affine:
            for key in ("weight", "bias"):
                del block.arrays[f"b.{norm.format(name)}.{key}"]

    def normalize(y, name):
        if affine:
            return block.norm(y, name)
        mean, variance = (
            block.get(f"{name}.{key}").reshape([1, -1, 1, 1]) for key in STATISTICS[block.spelling]
        )
        return (y - mean) / paddle.sqrt(variance + block.epsilon)

    def forward(x, stride, dilation, padding=None):
        """With padding below half the kernel, column and row see a cropped input."""
        half = kernel // 2
        padding = dilation * half if padding is None else padding
        y = 0
        for name, axes in BRANCHES.items():
            pads = [padding if axis else padding - dilation * half for axis in axes]
            crop = [max(0, -pad) for pad in pads]
            size = [n - c for n, c in zip(x.shape[2:], crop, strict=True)]
            part = x[:, :, crop[0] : size[0], crop[1] : size[1]]
            pads = [max(0, pad) for pad in pads]
            weight = block.get(f"{conv.format(name)}.weight")
            made = F.conv2d(part, weight, None, stride, pads, dilation, groups)
            y = y + normalize(made, norm.format(name))
        return y

    return block, forward


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(("channels", "outputs", "groups"), [(4, 4, 1), (4, 6, 2), (4, 4, 4)])
def test_blocks(family, kernel, channels, outputs, groups, spelling):
    block, forward = acb(family, channels, outputs, kernel, groups, spelling=spelling)
    fused = assert_fuses(block, forward, family=family, groups=groups, dilations=(1, 2))
    assert sorted(fused) == [f"b.{DEPLOY[family]}.bias", f"b.{DEPLOY[family]}.weight"]
    assert fuse_arrays(fused)[1].already == ("b",)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3]), st.integers(1, 2), st.integers(1, 2))
def test_any_geometry(seed, groups, width, height):
    block, forward = acb("ACNet", groups * width, groups * height, 3, groups, seed=seed)
    assert_fuses(block, forward, family="ACNet", groups=groups, strides=((1, 1), (2, 1)))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_batchnorm_without_gamma_and_beta(spelling):
    block, forward = acb("ACNet", 4, 6, 3, 1, affine=False, spelling=spelling)
    assert_fuses(block, forward, family="ACNet")


@pytest.mark.parametrize(("kernel", "padding"), [(3, 0), (5, 0), (5, 1), (3, 2), (5, 4)])
def test_any_padding_even_where_the_block_crops(kernel, padding):
    block, forward = acb("ACNet", 4, 4, kernel, 1)
    fused, _ = fuse_arrays(block.arrays)
    weight, bias = (
        paddle.to_tensor(fused[f"b.fused_conv.{key}"].astype(np.float64))
        for key in ("weight", "bias")
    )
    for stride in (1, 2):
        x = paddle.to_tensor(np.random.default_rng(3).normal(size=(1, 4, 11, 12)))
        found = F.conv2d(x, weight, bias, stride, padding).numpy()
        expected = forward(x, stride, 1, padding).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("branch", ["ver", "hor", "square"])
def test_a_damaged_block_is_refused(family, branch):
    block, _ = acb(family, 4, 4, 3, 1)
    conv, norm = (name.format(branch) for name in NAMES[family])
    for key in (f"b.{conv}.weight", f"b.{norm}._variance"):
        lacking = {name: array for name, array in block.arrays.items() if name != key}
        with pytest.raises(CheckpointError, match="block 'b'") as caught:
            fuse_arrays(lacking)
        assert key in caught.value.found
    turned = block.arrays[f"b.{conv}.weight"]
    turned = turned.swapaxes(2, 3) if branch != "square" else turned[:, :, :, :2]
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays({**block.arrays, f"b.{conv}.weight": turned})


def test_column_and_row_swapped_is_another_function():
    block, forward = acb("ACNet", 4, 4, 3, 1)

    def mutated(x, stride, dilation):
        return forward(x.transpose([0, 1, 3, 2]), stride[::-1], dilation).transpose([0, 1, 3, 2])

    with pytest.raises(AssertionError):
        assert_fuses(block, mutated, family="ACNet")
