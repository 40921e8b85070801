"""RepLKNet, FastViT's and UniRepLKNet's large kernels against their forward pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, Block, assert_fuses

LARGE = {
    "RepLKNet": ("lkb_origin", "lkb_reparam"),
    "timm-large-kernel": ("large_conv", "reparam_conv"),
}
# Kernel sizes and dilations beside a kernel of each size: UniRepLKNet, table in section 3.1.
DILATED = {
    17: ([5, 9, 3, 3, 3], [1, 2, 4, 5, 7]),
    15: ([5, 7, 3, 3, 3], [1, 2, 3, 5, 7]),
    13: ([5, 7, 3, 3, 3], [1, 2, 3, 4, 5]),
    11: ([5, 5, 3, 3, 3], [1, 2, 3, 4, 5]),
    9: ([5, 5, 3, 3], [1, 2, 3, 4]),
    7: ([5, 3, 3], [1, 2, 3]),
    5: ([3, 3], [1, 2]),
}


def large(family, channels, kernel, small, groups, **options):
    block = Block(**options)
    name = LARGE[family][0]
    block.add_conv_norm(name, (channels, channels // groups, kernel, kernel))
    if small:
        block.add_conv_norm("small_conv", (channels, channels // groups, small, small))

    def forward(x, stride, dilation):
        y = block.conv_norm(x, name, stride=stride, groups=groups)
        return y + block.conv_norm(x, "small_conv", stride=stride, groups=groups) if small else y

    return block, forward


@pytest.mark.parametrize("family", LARGE)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("kernel", "small"), [(7, 3), (7, None), (13, 5), (31, 5), (5, 5), (3, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_small_kernel_beside_a_large_one(family, kernel, small, groups, spelling):
    block, forward = large(family, 4, kernel, small, groups, spelling=spelling)
    fused = assert_fuses(block, forward, family=family, groups=groups)
    deploy = LARGE[family][1]
    assert sorted(fused) == [f"b.{deploy}.bias", f"b.{deploy}.weight"]
    assert fuse_arrays(fused)[1].already == ("b",)


@pytest.mark.parametrize("family", LARGE)
def test_a_damaged_large_kernel_is_refused(family):
    block, _ = large(family, 4, 7, 3, 4)
    name = LARGE[family][0]
    for key in (f"{name}.conv.weight", f"{name}.bn.bias", "small_conv.conv.weight"):
        lacking = {one: array for one, array in block.arrays.items() if one != f"b.{key}"}
        with pytest.raises(CheckpointError, match="block 'b'") as caught:
            fuse_arrays(lacking)
        assert key in caught.value.found
    block.add_conv("small_conv.conv", (4, 1, 9, 9))  # larger than the large one
    with pytest.raises(CheckpointError, match="no larger than the first"):
        fuse_arrays(block.arrays)


def dilated(kernel, channels, branches=None, *, outer=False, groups=None, **options):
    """A DilatedReparamBlock, alone or in its UniRepLKNetBlock, and the forward pass."""
    block = Block(**options)
    groups = groups or channels
    stem = "dwconv." if outer else ""
    branches = branches or list(zip(*DILATED[kernel], strict=True))
    block.add_conv(f"{stem}lk_origin", (channels, channels // groups, kernel, kernel))
    block.add_norm(f"{stem}origin_bn", channels)
    for k, r in branches:
        block.add_conv(f"{stem}dil_conv_k{k}_{r}", (channels, channels // groups, k, k))
        block.add_norm(f"{stem}dil_bn_k{k}_{r}", channels)
    if outer:
        block.add_norm("norm", channels)
        block.add_conv("se.down", (1, channels, 1, 1), bias=True)
        block.add_conv("se.up", (channels, 1, 1, 1), bias=True)
        block.add_conv("pwconv1.1", (4 * channels, channels), bias=True)
        block.add_conv("pwconv2.0", (channels, 4 * channels))
        block.add_norm("pwconv2.2", channels)
        block.add("gamma", block.rng.normal(size=channels))

    def forward(x, stride, dilation):
        y = block.norm(block.conv(x, f"{stem}lk_origin", groups=groups), f"{stem}origin_bn")
        for k, r in branches:
            part = block.conv(x, f"{stem}dil_conv_k{k}_{r}", dilation=r, groups=groups)
            y = y + block.norm(part, f"{stem}dil_bn_k{k}_{r}")
        return block.norm(y, "norm") if outer else y

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kernel", DILATED)
def test_every_row_of_the_published_table(kernel, spelling):
    block, forward = dilated(kernel, 3, spelling=spelling)
    fused = assert_fuses(block, forward, family="DilatedReparamBlock", groups=3, strides=((1, 1),))
    assert sorted(fused) == ["b.lk_origin.bias", "b.lk_origin.weight"]
    again, report = fuse_arrays(fused)
    assert report.already == ("b",)
    assert all(again[key] is fused[key] for key in fused)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 4]),
    st.sets(st.sampled_from([(3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (1, 4)]), min_size=1),
)
def test_any_branches_and_groups(seed, groups, branches):
    block, forward = dilated(9, 4, sorted(branches), groups=groups, seed=seed)
    assert_fuses(block, forward, family="DilatedReparamBlock", groups=groups, strides=((1, 1),))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_batchnorm_outside_folds_too(spelling):
    block, forward = dilated(7, 4, outer=True, spelling=spelling)
    fused = assert_fuses(block, forward, family="UniRepLKNetBlock", groups=4, strides=((1, 1),))
    assert {key for key in fused if key.startswith("b.dwconv")} == {
        "b.dwconv.lk_origin.weight",
        "b.dwconv.lk_origin.bias",
    }
    assert not any(key.startswith("b.norm") for key in fused)
    kept = [key for key in block.arrays if key.startswith(("b.se", "b.pwconv", "b.gamma"))]
    assert all(fused[key] is block.arrays[key] for key in kept)


def test_a_batchnorm_named_norm_elsewhere_is_not_taken():
    """Only in a UniRepLKNetBlock, told by what is beside it, is ``norm`` known to follow."""
    block, _ = dilated(7, 4, outer=True)
    del block.arrays["b.se.down.weight"]
    fused, report = fuse_arrays(block.arrays)
    assert [(done.where, done.family) for done in report.fused] == [
        ("b.dwconv", "DilatedReparamBlock")
    ]
    assert fused["b.norm.weight"] is block.arrays["b.norm.weight"]


@pytest.mark.parametrize(
    "key",
    ["lk_origin.weight", "origin_bn._mean", "dil_conv_k3_2.weight", "dil_bn_k3_3._variance"],
)
def test_a_damaged_dilated_block_is_refused(key):
    block, _ = dilated(7, 4)
    lacking = {name: array for name, array in block.arrays.items() if name != f"b.{key}"}
    with pytest.raises(CheckpointError, match="block 'b'") as caught:
        fuse_arrays(lacking)
    assert key in caught.value.found


def test_a_kernel_that_is_not_of_the_size_in_its_name_is_refused():
    block, _ = dilated(7, 4)
    block.add_conv("dil_conv_k3_2", (4, 1, 5, 5))
    with pytest.raises(CheckpointError, match="block 'b'") as caught:
        fuse_arrays(block.arrays)
    assert "(3, 3)" in caught.value.found
