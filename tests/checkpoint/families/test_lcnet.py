"""PP-LCNet's blocks against their forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses

ONE = ((1, 1),)


def v2(sizes, *, channels=4, placeholder=False, **options):
    block = Block(**options)
    for index, size in enumerate(sizes):
        block.add_conv_norm(f"dw_conv_list.{index}", (channels, 1, size, size))
    if placeholder:
        block.add_conv("dw_conv", (channels, 1, sizes[0], sizes[0]), bias=True)

    def forward(x, stride, dilation):
        names = [f"dw_conv_list.{index}" for index in range(len(sizes))]
        return sum(block.conv_norm(x, name, stride=stride, groups=channels) for name in names)

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("sizes", [(5, 3, 1), (5, 3), (3, 1), (7, 5, 3, 1), (3,), (1,)])
def test_v2(sizes, spelling):
    for placeholder in (False, True):
        block, forward = v2(sizes, spelling=spelling, placeholder=placeholder)
        fused = assert_fuses(block, forward, family="PP-LCNetV2", groups=4, strides=STRIDES)
        assert sorted(fused) == ["b.dw_conv.bias", "b.dw_conv.weight"]


def test_a_random_deploy_weight_of_v2_is_told_and_replaced():
    block, _ = v2((5, 3, 1), placeholder=True)
    random = block.arrays["b.dw_conv.weight"]
    fused, report = fuse_arrays(block.arrays)
    assert any("a placeholder, or fused by other rules" in notice for notice in report.notices)
    assert np.abs(fused["b.dw_conv.weight"] - random).max() > 0.1
    again, report = fuse_arrays({**block.arrays, **fused})
    assert any("left from an earlier fusion" in notice for notice in report.notices)
    np.testing.assert_array_equal(again["b.dw_conv.weight"], fused["b.dw_conv.weight"])


@pytest.mark.parametrize("name", ["se.conv1", "pw_conv.conv", "pw_conv_1.conv", "pw_conv_2.conv"])
def test_what_comes_after_v2_stays(name):
    block, _ = v2((5, 3, 1))
    key = f"b.{name}.weight"
    arrays = block.arrays | {key: np.ones((4, 4, 1, 1), np.float32)}
    fused, report = fuse_arrays(arrays)
    assert len(report.fused) == 1
    assert fused[key] is arrays[key]


def test_a_depthwise_conv_of_v2_that_is_no_list_is_no_block():
    block = Block()
    block.add_conv_norm("dw_conv", (4, 1, 3, 3))
    assert not fuse_arrays(block.arrays)[1].fused


def v3(kernel=3, *, channels=4, outputs=None, groups=1, branches=4, identity=True, lab=(0.7, -0.4),
       act=False, **options):  # fmt: skip
    outputs = channels if identity or outputs is None else outputs
    block = Block(**options)
    shape = (outputs, channels // groups)
    for index in range(branches):
        block.add_conv_norm(f"conv_kxk.{index}", (*shape, kernel, kernel))
    if kernel > 1:
        block.add_conv_norm("conv_1x1", (*shape, 1, 1))
    if identity:
        block.add_norm("identity", channels)
    block.add("lab.scale", [lab[0]])
    block.add("lab.bias", [lab[1]])
    if act:
        block.add("act.lab.scale", [1.3])
        block.add("act.lab.bias", [0.2])

    def forward(x, stride, dilation):
        names = [f"conv_kxk.{index}" for index in range(branches)]
        names += ["conv_1x1"] if kernel > 1 else []
        y = sum(block.conv_norm(x, name, stride=stride, groups=groups) for name in names)
        y = y + block.norm(x, "identity") if identity else y
        return block.get("lab.scale") * y + block.get("lab.bias")

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_v3(kernel, groups, identity, spelling):
    block, forward = v3(kernel, groups=groups, identity=identity, spelling=spelling, act=True)
    fused = assert_fuses(
        block,
        forward,
        family="LearnableRepLayer",
        groups=groups,
        strides=ONE if identity else STRIDES,
    )
    assert (fused["b.lab.scale"], fused["b.lab.bias"]) == (1.0, 0.0)  # PaddleOCR applies it again
    for key in ("b.act.lab.scale", "b.act.lab.bias"):
        assert fused[key] is block.arrays[key]


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    channels=st.integers(1, 5),
    outputs=st.integers(1, 6),
    branches=st.integers(1, 5),
    scale=st.sampled_from([0.0, 0.37, 1.0, -2.0]),
    bias=st.sampled_from([0.0, -1.5, 0.8]),
    seed=st.integers(0, 99),
)
def test_any_affine(kernel, channels, outputs, branches, scale, bias, seed):
    block, forward = v3(
        kernel, channels=channels, outputs=outputs, branches=branches, identity=False,
        lab=(scale, bias), seed=seed,
    )  # fmt: skip
    assert_fuses(block, forward, family="LearnableRepLayer", strides=((2, 1),))


def test_the_deploy_form_of_paddleocr_is_fused_no_further():
    block, _ = v3(act=True)
    fused, _ = fuse_arrays(block.arrays)
    deployed = {**fused, "b.lab.scale": np.array([0.7], np.float32)}  # as PaddleOCR leaves it
    again, report = fuse_arrays(deployed)
    assert not report.fused
    assert report.already == ("b",)
    assert again["b.lab.scale"] is deployed["b.lab.scale"]


def test_half_an_affine_is_refused():
    block, _ = v3()
    del block.arrays["b.lab.bias"]
    with pytest.raises(CheckpointError):
        fuse_arrays(block.arrays)


def test_three_projects_say_conv_kxk():
    # timm's RepVGG has no number, its MobileOne conv_scale, PaddleOCR conv_1x1 and lab.
    block, _ = v3(branches=2)
    assert fuse_arrays(block.arrays)[1].fused[0].family == "LearnableRepLayer"
    timm = Block()
    for name in ("conv_kxk.0", "conv_kxk.1"):
        timm.add_conv_norm(name, (4, 4, 3, 3))
    timm.add_conv_norm("conv_scale", (4, 4, 1, 1))
    assert fuse_arrays(timm.arrays)[1].fused[0].family == "MobileOne (timm)"
    single = Block()
    single.add_conv_norm("conv_kxk", (4, 4, 3, 3))
    single.add_conv_norm("conv_1x1", (4, 4, 1, 1))
    assert fuse_arrays(single.arrays)[1].fused[0].family == "RepVGG (timm)"
    mixed = {**timm.arrays, **{k: v for k, v in single.arrays.items() if "conv_1x1" in k}}
    with pytest.raises(CheckpointError):
        fuse_arrays(mixed)
