"""MobileOne blocks, in each spelling, against their forward pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.plan import plan_of
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses


class Names(NamedTuple):
    """How a project names the branches."""

    family: str
    convs: str
    scale: str
    skip: str
    norm: str = "bn"
    deploy: str = "reparam_conv"


APPLE = Names("MobileOne", "rbr_conv", "rbr_scale", "rbr_skip")
TIMM = Names("MobileOne (timm)", "conv_kxk", "conv_scale", "identity")
MMPRETRAIN = Names(
    "MobileOne (mmpretrain)",
    "branch_conv_list",
    "branch_scale",
    "branch_norm",
    "norm",
    "branch_reparam",
)
ALL = (APPLE, TIMM, MMPRETRAIN)


def mobileone(
    kernel, channels, groups, branches, *, skip, names=APPLE, outputs=None, scale=None, **options
):
    outputs = outputs or channels
    scale = kernel > 1 if scale is None else scale
    block = Block(**options)
    for index in range(branches):
        shape = (outputs, channels // groups, kernel, kernel)
        block.add_conv_norm(f"{names.convs}.{index}", shape, norm=names.norm)
    if scale:
        block.add_conv_norm(names.scale, (outputs, channels // groups, 1, 1), norm=names.norm)
    if skip:
        block.add_norm(names.skip, channels)

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups, "norm": names.norm}
        y = sum(
            block.conv_norm(x, f"{names.convs}.{index}", dilation=dilation, **geometry)
            for index in range(branches)
        )
        if scale:
            y = y + block.conv_norm(x, names.scale, **geometry)
        return y + block.norm(x, names.skip) if skip else y

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("names", ALL, ids=lambda n: n.family)
def test_mobileone(names, kernel, groups, spelling):
    for branches, skip in ((1, False), (4, True)):
        block, forward = mobileone(
            kernel, 6, groups, branches, skip=skip, names=names, spelling=spelling
        )
        fused = assert_fuses(
            block,
            forward,
            family=names.family,
            groups=groups,
            strides=((1, 1),) if skip else STRIDES,
            dilations=(1, 2) if kernel > 1 else (1,),
        )
        assert sorted(fused) == [f"b.{names.deploy}.bias", f"b.{names.deploy}.weight"]


@settings(max_examples=25, deadline=None)
@given(
    names=st.sampled_from(ALL),
    kernel=st.sampled_from([1, 3, 5]),
    groups=st.sampled_from([1, 3]),
    multiple=st.integers(1, 3),
    branches=st.integers(1, 5),
    scale=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_geometry(names, kernel, groups, multiple, branches, scale, seed):
    block, forward = mobileone(
        kernel, 2 * groups, groups, branches, skip=False, names=names, scale=scale and kernel > 1,
        outputs=groups * multiple, seed=seed,
    )  # fmt: skip
    assert_fuses(block, forward, family=names.family, groups=groups, strides=((2, 1),))


@pytest.mark.parametrize("names", ALL, ids=lambda n: n.family)
def test_an_attention_stays(names):
    block, _ = mobileone(3, 6, 6, 2, skip=True, names=names)
    key = "b.se.conv1.weight"
    fused, report = fuse_arrays(block.arrays | {key: np.ones((2, 6, 1, 1), np.float32)})
    assert len(report.fused) == 1
    assert key in fused


@pytest.mark.parametrize("names", ALL, ids=lambda n: n.family)
def test_kernels_of_two_sizes_are_centred(names):
    block, _ = mobileone(5, 4, 4, 2, skip=True, names=names)
    block.add_conv(f"{names.convs}.1.conv", (4, 1, 3, 3))

    def forward(x, stride, dilation):
        geometry = {"groups": 4, "norm": names.norm}
        branches = (f"{names.convs}.0", f"{names.convs}.1", names.scale)
        y = sum(block.conv_norm(x, branch, **geometry) for branch in branches)
        return y + block.norm(x, names.skip)

    assert_fuses(block, forward, family=names.family, groups=4, strides=((1, 1),))


def paddledetection(*, inputs=4, outputs=4, kernel=3, branches=2, skip=True, bias=False, **options):
    """One block with two sums in a row, an activation between them."""
    block = Block(**options)
    for index in range(branches):
        block.add_conv(f"depth_conv.{index}.conv", (inputs, 1, kernel, kernel), bias=bias)
        block.add_norm(f"depth_conv.{index}.norm", inputs)
        block.add_conv(f"point_conv.{index}.conv", (outputs, inputs, 1, 1), bias=bias)
        block.add_norm(f"point_conv.{index}.norm", outputs)
    block.add_conv("rbr_1x1.conv", (inputs, 1, 1, 1), bias=bias)
    block.add_norm("rbr_1x1.norm", inputs)
    if skip:
        block.add_norm("rbr_identity_st1", inputs)
        block.add_norm("rbr_identity_st2", outputs)

    def depthwise(x, stride, dilation=1):
        names = [f"depth_conv.{index}" for index in range(branches)] + ["rbr_1x1"]
        geometry = {"stride": stride, "groups": inputs, "norm": "norm"}
        y = sum(block.conv_norm(x, name, **geometry) for name in names)
        return y + block.norm(x, "rbr_identity_st1") if skip else y

    def pointwise(x, stride, dilation=1):
        names = [f"point_conv.{index}" for index in range(branches)]
        y = sum(block.conv_norm(x, name, norm="norm") for name in names)
        return y + block.norm(x, "rbr_identity_st2") if skip else y

    return block, {"conv1": depthwise, "conv2": pointwise}


class Half(Block):
    """One of the two regions, so that it can be held to its own forward pass."""

    def __init__(self, block, part):
        super().__init__(spelling=block.spelling)
        depthwise = ("depth_conv", "rbr_1x1", "rbr_identity_st1")
        self.arrays = {
            key: value
            for key, value in block.arrays.items()
            if (key.split(".")[1] in depthwise) == (part == "conv1")
        }


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("skip", [True, False])
def test_two_regions_in_one_block(skip, bias, spelling):
    for kernel in (3, 5):
        block, forwards = paddledetection(
            outputs=4 if skip else 6, kernel=kernel, skip=skip, bias=bias, spelling=spelling
        )
        fused, report = fuse_arrays(block.arrays)
        assert [one.where for one in report.fused] == ["b.conv1", "b.conv2"]
        assert sorted(fused) == [
            f"b.{c}.{k}" for c in ("conv1", "conv2") for k in ("bias", "weight")
        ]
        for part, forward in forwards.items():
            alone = assert_fuses(
                Half(block, part),
                forward,
                family="MobileOne (PaddleDetection)",
                groups=4 if part == "conv1" else 1,
                strides=STRIDES if part == "conv1" and not skip else ((1, 1),),
            )
            for key, value in alone.items():
                np.testing.assert_array_equal(fused[key], value)


def test_paddledetection_drops_the_biases_of_branches():
    block, _ = paddledetection(bias=True)
    ours, _ = fuse_arrays(block.arrays)
    left_out = {key: v for key, v in block.arrays.items() if not key.endswith("conv.bias")}
    theirs, _ = fuse_arrays(left_out)
    for name in ("conv1", "conv2"):
        np.testing.assert_array_equal(ours[f"b.{name}.weight"], theirs[f"b.{name}.weight"])
        assert np.abs(ours[f"b.{name}.bias"] - theirs[f"b.{name}.bias"]).max() > 0.1


def test_one_damaged_region_refuses_the_block():
    block, _ = paddledetection()
    del block.arrays["b.point_conv.0.norm.weight"]
    with pytest.raises(CheckpointError, match="is not whole") as error:
        fuse_arrays(block.arrays)
    assert "b.point_conv.0.norm.weight" in error.value.found


def test_regions_can_be_skipped_one_by_one():
    block, _ = paddledetection()
    fused, report = fuse_arrays(block.arrays, skip=["b.conv1"])
    assert [one.where for one in report.fused] == ["b.conv2"]
    assert "b.depth_conv.0.conv.weight" in fused
    shapes = {key: value.shape for key, value in fused.items()}
    assert [match.where for match in plan_of(shapes).blocks] == ["b.conv1"]
