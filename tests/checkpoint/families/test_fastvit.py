"""FastViT's token mixer and position encoding against their forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, Block, assert_fuses

NAMES = {
    "RepMixer": ("rbr_conv", "rbr_scale", "rbr_skip", "layer_scale"),
    "RepMixer (timm)": ("conv_kxk", "conv_scale", "identity", "layer_scale.gamma"),
}
ONE = ((1, 1),)


def mixer(family, window=(3, 3), *, channels=4, branches=1, scaled=True, **options):
    convs, scale, skip, layer_scale = NAMES[family]
    block = Block(**options)
    for index in range(branches):
        block.add_conv_norm(f"mixer.{convs}.{index}", (channels, 1, *window))
    block.add_conv_norm(f"mixer.{scale}", (channels, 1, 1, 1))
    block.add_norm(f"mixer.{skip}", channels)
    block.add_norm(f"norm.{skip}", channels)
    if scaled:
        block.add(layer_scale, block.rng.normal(size=(channels, 1, 1)))

    def forward(x, stride, dilation):
        names = [f"mixer.{convs}.{index}" for index in range(branches)] + [f"mixer.{scale}"]
        mixed = sum(block.conv_norm(x, name, groups=channels) for name in names)
        mixed = mixed + block.norm(x, f"mixer.{skip}") - block.norm(x, f"norm.{skip}")
        return x + (block.get(layer_scale) * mixed if scaled else mixed)

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("window", [(3, 3), (7, 7), (1, 11), (5, 1)])
@pytest.mark.parametrize("family", NAMES)
def test_mixer(family, window, scaled, spelling):
    block, forward = mixer(family, window, scaled=scaled, spelling=spelling)
    fused = assert_fuses(block, forward, family=family, groups=4, strides=ONE)
    assert sorted(fused) == ["b.reparam_conv.bias", "b.reparam_conv.weight"]
    assert fused["b.reparam_conv.weight"].shape == (4, 1, *window)


@settings(max_examples=20, deadline=None)
@given(
    family=st.sampled_from(list(NAMES)),
    window=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([3, 7])),
    channels=st.integers(2, 6),
    branches=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_window(family, window, channels, branches, seed):
    block, forward = mixer(family, window, channels=channels, branches=branches, seed=seed)
    assert_fuses(block, forward, family=family, groups=channels, strides=ONE)


@pytest.mark.parametrize("family", NAMES)
def test_the_block_inside_is_not_fused_alone(family):
    # mixer.* alone is a MobileOne block: fusing it and leaving the rest would load nowhere.
    block, _ = mixer(family)
    skip = NAMES[family][2]
    del block.arrays[f"b.norm.{skip}._mean"]
    with pytest.raises(CheckpointError, match="is not whole") as error:
        fuse_arrays(block.arrays)
    assert f"b.norm.{skip}._mean" in error.value.found


@pytest.mark.parametrize("family", NAMES)
def test_a_zero_scale_leaves_the_identity(family):
    block, forward = mixer(family)
    block.arrays[f"b.{NAMES[family][3]}"][...] = 0
    fused = assert_fuses(block, forward, family=family, groups=4, strides=ONE)
    weight = fused["b.reparam_conv.weight"]
    assert (weight[:, 0, 1, 1] == 1).all()
    assert np.count_nonzero(weight) == 4


def position(name, prefix, *, channels=4, size=7, groups=4):
    block = Block(prefix=prefix)
    block.add_conv(name, (channels, channels // groups, size, size), bias=True)
    return block


@pytest.mark.parametrize(
    ("family", "name", "prefix"),
    [("RepCPE", "pe", "network.6."), ("RepConditionalPosEnc", "pos_enc", "stages.3.pos_emb.")],
)
def test_position_encoding(family, name, prefix):
    block = position(name, prefix)

    def forward(x, stride, dilation):
        return F.conv2d(x, block.get(f"{name}.weight"), block.get(f"{name}.bias"), 1, 3, 1, 4) + x

    fused = assert_fuses(block, forward, family=family, groups=4, strides=ONE)
    assert sorted(fused) == [f"{prefix}reparam_conv.bias", f"{prefix}reparam_conv.weight"]


@pytest.mark.parametrize(
    "block",
    [
        position("pe", "network.6.", size=3),
        position("pe", "network.6.", groups=1),
        position("pos_enc", "stages.3."),
    ],
    ids=["3x3", "dense", "elsewhere"],
)
def test_other_convolutions_of_that_name_are_left(block):
    _, report = fuse_arrays(block.arrays)
    assert not report.fused


def test_a_position_encoding_beside_other_modules_is_left():
    # Attention with a depthwise 'pe' of its own, as in YOLO's PSA without BatchNorm.
    block = position("pe", "attn.")
    block.add_conv("qkv", (8, 4, 1, 1))
    _, report = fuse_arrays(block.arrays)
    assert not report.fused
    assert "'attn.qkv.weight' is no part" in report.left[0].reason
