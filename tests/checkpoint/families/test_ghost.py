"""RepGhost and GhostNetV3 against their forward pass."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses

ONE = ((1, 1),)
GHOSTS = {"GhostNetV3": "bn", "GhostNetV3 (timm)": "bn1"}


def repghost(*, channels=4, kernel=3, norms=1, **options):
    block = Block(**options)
    block.add_conv("primary_conv.0", (channels, 3, 1, 1))
    block.add_norm("primary_conv.1", channels)
    block.add_conv("cheap_operation.0", (channels, 1, kernel, kernel))
    block.add_norm("cheap_operation.1", channels)
    for index in range(norms):
        block.add_norm(f"fusion_bn.{index}", channels)

    def forward(x, stride, dilation):
        y = block.conv(x, "cheap_operation.0", groups=channels)
        y = block.norm(y, "cheap_operation.1")
        return sum((block.norm(x, f"fusion_bn.{index}") for index in range(norms)), y)

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("norms", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_repghost(kernel, norms, spelling):
    block, forward = repghost(kernel=kernel, norms=norms, spelling=spelling)
    fused = assert_fuses(block, forward, family="RepGhost", groups=4, strides=ONE)
    made = {"b.cheap_operation.weight", "b.cheap_operation.bias"}
    stays = {key for key in block.arrays if key.startswith("b.primary_conv.")}
    assert set(fused) == made | stays
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert report.already == ("b",)
    assert list(again) == list(fused)


def test_a_ghost_module_without_the_other_norms_is_no_block():
    # GhostNet's own module has the first two parts, concatenates them and adds nothing.
    block, _ = repghost(norms=0)
    assert not fuse_arrays(block.arrays)[1].fused


def test_repghost_with_a_gap_in_its_norms_is_refused():
    block, _ = repghost(norms=3)
    arrays = {key: value for key, value in block.arrays.items() if "fusion_bn.1." not in key}
    with pytest.raises(CheckpointError, match="is not whole"):
        fuse_arrays(arrays)


def region(part, norm, *, channels=4, outputs=4, groups=1, kernel=1, scale=True, skip=True, **made):
    block = Block(**made)
    shape = (outputs, channels // groups)
    for index in range(3):
        name = f"{part}_rpr_conv.{index}"
        block.add_conv(f"{name}.conv", (*shape, kernel, kernel))
        block.add_norm(f"{name}.{norm}", outputs)
    if scale:
        block.add_conv_norm(f"{part}_rpr_scale", (*shape, 1, 1), norm=norm)
    if skip:
        block.add_norm(f"{part}_rpr_skip", channels)

    def forward(x, stride, dilation):
        names = [f"{part}_rpr_conv.{index}" for index in range(3)]
        names += [f"{part}_rpr_scale"] if scale else []
        geometry = {"stride": stride, "groups": groups, "norm": norm}
        y = sum(block.conv_norm(x, name, **geometry) for name in names)
        return y + block.norm(x, f"{part}_rpr_skip") if skip else y

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", GHOSTS)
def test_the_regions_of_ghostnetv3(family, spelling):
    made = {"norm": GHOSTS[family], "spelling": spelling}
    block, forward = region("primary", outputs=6, scale=False, skip=False, **made)
    fused = assert_fuses(block, forward, family=family)
    assert sorted(fused) == ["b.primary_conv.0.bias", "b.primary_conv.0.weight"]
    block, forward = region("cheap", groups=4, kernel=3, **made)
    fused = assert_fuses(block, forward, family=family, groups=4, strides=ONE)
    assert sorted(fused) == ["b.cheap_operation.0.bias", "b.cheap_operation.0.weight"]
    for kernel in (3, 5):
        block, forward = region("dw", groups=4, kernel=kernel, skip=False, **made)
        fused = assert_fuses(block, forward, family=family, groups=4, strides=STRIDES)
        assert sorted(fused) == ["b.conv_dw.bias", "b.conv_dw.weight"]


@pytest.mark.parametrize("family", GHOSTS)
def test_a_module_with_two_regions_and_a_shortcut(family):
    arrays = {}
    for part, groups, kernel in (("primary", 1, 1), ("cheap", 4, 3)):
        block, _ = region(part, GHOSTS[family], groups=groups, kernel=kernel, prefix="g.")
        arrays |= block.arrays
    arrays["g.short_conv.0.weight"] = np.ones((8, 4, 1, 1), np.float32)
    fused, report = fuse_arrays(arrays)
    assert {one.where for one in report.fused} == {"g.primary_conv.0", "g.cheap_operation.0"}
    assert fused["g.short_conv.0.weight"] is arrays["g.short_conv.0.weight"]
    half, report = fuse_arrays(arrays, skip=["g.primary_conv.0"])
    assert [one.where for one in report.fused] == ["g.cheap_operation.0"]
    rest, report = fuse_arrays(half)
    assert [one.where for one in report.fused] == ["g.primary_conv.0"]
    assert all((rest[key] == value).all() for key, value in fused.items())
