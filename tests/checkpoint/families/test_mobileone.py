"""MobileOne blocks, in each spelling, against their forward pass."""

from __future__ import annotations

import pytest

from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses


def mobileone(kernel, channels, groups, branches, *, skip, outputs=None, **options):
    outputs = outputs or channels
    block = Block(**options)
    for index in range(branches):
        shape = (outputs, channels // groups, kernel, kernel)
        block.add_conv_norm(f"rbr_conv.{index}", shape)
    if kernel > 1:
        block.add_conv_norm("rbr_scale", (outputs, channels // groups, 1, 1))
    if skip:
        block.add_norm("rbr_skip", channels)

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups}
        y = sum(
            block.conv_norm(x, f"rbr_conv.{index}", dilation=dilation, **geometry)
            for index in range(branches)
        )
        if kernel > 1:
            y = y + block.conv_norm(x, "rbr_scale", **geometry)
        return y + block.norm(x, "rbr_skip") if skip else y

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("branches", [1, 4])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("skip", [True, False])
def test_mobileone(kernel, groups, branches, spelling, skip):
    block, forward = mobileone(kernel, 6, groups, branches, skip=skip, spelling=spelling)
    strides = ((1, 1),) if skip else STRIDES
    fused = assert_fuses(
        block,
        forward,
        family="MobileOne",
        groups=groups,
        strides=strides,
        dilations=(1, 2) if kernel > 1 else (1,),
    )
    assert sorted(fused) == ["b.reparam_conv.bias", "b.reparam_conv.weight"]
