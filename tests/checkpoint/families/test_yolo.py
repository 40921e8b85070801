"""Blocks of object detectors whose fused convolution has the name of a branch."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses


def conv2(kernel, groups, outputs=6, **options):
    block = Block(epsilon=1e-3, **options)
    block.add_conv("conv", (outputs, 4 // groups, kernel, kernel))
    block.add_conv("cv2", (outputs, 4 // groups, 1, 1))
    block.add_norm("bn", outputs)

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups}
        y = block.conv(x, "conv", dilation=dilation, **geometry)
        return block.norm(y + block.conv(x, "cv2", **geometry), "bn")

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_conv2(kernel, groups, spelling):
    block, forward = conv2(kernel, groups, spelling=spelling)
    fused = assert_fuses(block, forward, family="Conv2", groups=groups, strides=STRIDES)
    assert list(fused) == ["b.conv.weight", "b.conv.bias"]
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert report.already == ("b",)
    assert list(again) == list(fused)


@pytest.mark.parametrize("key", ["b.cv2.weight", "b.bn.weight"])
def test_conv2_without_a_part_is_left(key):
    block, _ = conv2(3, 1)
    del block.arrays[key]
    _, report = fuse_arrays(block.arrays)
    assert not report.fused


def test_conv2_of_another_second_kernel_is_left():
    block, _ = conv2(3, 1)
    block.add_conv("cv2", (6, 4, 3, 3))
    assert not fuse_arrays(block.arrays)[1].fused


def repvggdw(channels=4, small=3, **options):
    block = Block(epsilon=1e-3, **options)
    block.add_conv_norm("conv", (channels, 1, 7, 7))
    block.add_conv_norm("conv1", (channels, 1, small, small))

    def forward(x, stride, dilation):
        names = ("conv", "conv1")
        return sum(block.conv_norm(x, name, stride=stride, groups=channels) for name in names)

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_repvggdw(spelling):
    block, forward = repvggdw(spelling=spelling)
    fused = assert_fuses(block, forward, family="RepVGGDW", groups=4)
    assert sorted(fused) == ["b.conv.bias", "b.conv.weight"]


def test_repvggdw_of_other_kernels_is_left():
    block, _ = repvggdw(small=5)
    assert not fuse_arrays(block.arrays)[1].fused


def test_repvggdw_that_is_not_depthwise_is_left():
    block, _ = repvggdw()
    for name, size in (("conv", 7), ("conv1", 3)):
        block.add_conv(f"{name}.conv", (4, 4, size, size))
    _, report = fuse_arrays(block.arrays)
    assert not report.fused


def test_rtdetr_leaves_its_branches_beside_the_result():
    block = Block(spelling="torch")
    block.add_conv_norm("conv1", (4, 4, 3, 3), norm="norm")
    block.add_conv_norm("conv2", (4, 4, 1, 1), norm="norm")
    fused, _ = fuse_arrays(block.arrays)
    again, report = fuse_arrays({**block.arrays, **fused})
    assert [one.family for one in report.fused] == ["RepVggBlock (RT-DETR)"]
    assert any("left from an earlier fusion" in notice for notice in report.notices)
    for key, value in fused.items():
        np.testing.assert_array_equal(again[key], value)


def test_yolov7_adds_the_identity_in_groups():
    # YOLOv7 fills the diagonal of a weight (8, 2), so that six of eight channels get nothing.
    block = Block(epsilon=1e-3)
    for name, size in (("rbr_dense", 3), ("rbr_1x1", 1)):
        block.add_conv_norm(name, (8, 2, size, size), "0", "1")
    block.add_norm("rbr_identity", 8)

    def forward(x, stride, dilation):
        names = {"conv": "0", "norm": "1", "stride": stride, "groups": 4}
        y = block.conv_norm(x, "rbr_dense", **names) + block.conv_norm(x, "rbr_1x1", **names)
        return y + block.norm(x, "rbr_identity")

    fused = assert_fuses(block, forward, family="RepConv", groups=4, strides=((1, 1),))
    without = {key: value for key, value in block.arrays.items() if "identity" not in key}
    plain, _ = fuse_arrays(without)
    identity = (fused["b.rbr_reparam.weight"] - plain["b.rbr_reparam.weight"])[:, :, 1, 1]
    theirs = np.zeros((8, 2))
    np.fill_diagonal(theirs, 1.0)
    assert ((np.abs(identity) > 0.1).sum(axis=1) == 1).all()
    assert (np.abs(identity[theirs == 1]) > 0.1).all()
    assert np.abs(identity[2:] - theirs[2:]).max() > 0.1
