"""RepNeXt's depthwise blocks, each kernel padded on its own axes, against their forward pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import Block, assert_fuses

PLAIN, STRIDED = ((1, 1),), ((2, 2), (1, 1), (2, 1))


def add(block, channels, *kernels, bias):
    for kernel in kernels:
        size = [int(axis) if axis.isdigit() else 1 for axis in kernel.split("_")]
        if "w" in kernel or "h" in kernel:
            taps = size[0]
            size = (1, taps) if "w" in kernel else (taps, 1)
        block.add_conv(f"conv_{kernel}", (channels, 1, *size), bias=bias)


def small(channels, *, strided, **options):
    """RepDWConvS: with a stride its row and column stand one after the other, without a bias."""
    block = Block(**options)
    add(block, channels, "3_3", "2_2", bias=True)
    add(block, channels, "3_w", "3_h", bias=not strided)

    def forward(x, stride, dilation):
        down, along = stride

        def conv(x, name, **geometry):
            return block.conv(x, f"conv_{name}", groups=channels, **geometry)

        y = conv(x, "3_3", stride=stride)
        y = y + conv(x, "2_2", stride=stride, dilation=2, padding=1)
        if strided:
            row = conv(x, "3_w", stride=[1, along], padding=[0, 1])
            return y + conv(row, "3_h", stride=[down, 1], padding=[1, 0])
        return y + conv(x, "3_w", padding=[0, 1]) + conv(x, "3_h", padding=[1, 0])

    return block, forward


def medium(channels, **options):
    block = Block(**options)
    add(block, channels, "7_7", "5_3", "3_5", bias=True)
    add(block, channels, "7_w", "7_h", "5_w", "5_h", bias=False)

    def forward(x, stride, dilation):
        down, along = stride

        def conv(x, name, **geometry):
            return block.conv(x, f"conv_{name}", groups=channels, **geometry)

        y = sum(conv(x, name, stride=stride) for name in ("7_7", "5_3", "3_5"))
        for taps in (7, 5):
            row = conv(x, f"{taps}_w", stride=[1, along], padding=[0, taps // 2])
            y = y + conv(row, f"{taps}_h", stride=[down, 1], padding=[taps // 2, 0])
        return y

    return block, forward


@pytest.mark.parametrize("channels", [1, 4])
def test_small(channels):
    block, forward = small(channels, strided=False)
    fused = assert_fuses(block, forward, family="RepDWConvS", groups=channels, strides=PLAIN)
    assert sorted(fused) == ["b.conv_3_3.bias", "b.conv_3_3.weight"]
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert all(again[key] is fused[key] for key in fused)


@pytest.mark.parametrize("channels", [1, 4])
def test_small_with_a_stride(channels):
    block, forward = small(channels, strided=True)
    fused = assert_fuses(
        block, forward, family="RepDWConvS-strided", groups=channels, strides=STRIDED
    )
    assert sorted(fused) == ["b.conv_3_3.bias", "b.conv_3_3.weight"]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(STRIDED))
def test_medium(seed, channels, stride):
    block, forward = medium(channels, seed=seed)
    fused = assert_fuses(block, forward, family="RepDWConvM", groups=channels, strides=(stride,))
    assert sorted(fused) == ["b.conv_7_7.bias", "b.conv_7_7.weight"]
    assert not fuse_arrays(fused)[1].fused


@pytest.mark.parametrize("key", ["conv_3_w.bias", "conv_2_2.weight", "conv_3_3.bias"])
def test_a_damaged_small_block_is_refused(key):
    block, _ = small(4, strided=False)
    del block.arrays[f"b.{key}"]
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(block.arrays)


@pytest.mark.parametrize("key", ["conv_7_w.weight", "conv_5_3.bias", "conv_7_7.weight"])
def test_a_damaged_medium_block_is_refused(key):
    block, _ = medium(4)
    lacking = {name: array for name, array in block.arrays.items() if name != f"b.{key}"}
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(lacking)
    block.add_conv("conv_7_w", (4, 1, 7, 1))  # a column in place of the row
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(block.arrays)


def test_a_bias_between_row_and_column_is_refused():
    """It would have to be zero beyond the border, where one padded kernel still adds it."""
    block, _ = medium(4)
    block.add("conv_7_w.bias", block.rng.normal(size=4))
    with pytest.raises(CheckpointError, match="holds what no such block has"):
        fuse_arrays(block.arrays)


def test_the_row_and_the_column_of_large_blocks_stay_two():
    """One kernel of 11 x 11 taps would cost more than the two: 121 against 22."""
    block = Block(prefix="conv_l.")
    block.add_conv("0", (4, 1, 1, 11), bias=True)
    block.add_conv("1", (4, 1, 11, 1), bias=True)
    fused, report = fuse_arrays(block.arrays)
    assert not report.fused
    assert set(fused) == set(block.arrays)
