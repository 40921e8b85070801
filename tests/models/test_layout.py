"""The layouts, which need no paddle, hold what the state dicts of the built Layers hold."""

from __future__ import annotations

import pytest

from reparam.models import CSPResNet, RepVGG, cspresnet_layout, repvgg_layout
from tests.models.helpers import shapes_of

CSPRESNETS = [
    {"width_mult": 0.125, "depth_mult": 0.33},
    {"width_mult": 0.375, "depth_mult": 0.33, "use_large_stem": True},
    {"width_mult": 0.125, "depth_mult": 0.67, "use_alpha": True, "num_classes": 10},
    {"layers": [1], "channels": [6, 18], "in_channels": 1},
    {"layers": [2, 1, 1, 1, 1], "channels": [8, 16, 8, 16, 8, 8], "use_large_stem": True},
    {"layers": [1, 3], "channels": [7, 9, 15], "num_classes": 1},
]

REPVGGS = [
    {"num_blocks": [2, 4, 14, 1], "width_multiplier": [0.75, 0.75, 0.75, 2.5]},
    {"num_blocks": [1, 1, 1, 1], "width_multiplier": [0.125] * 4, "class_num": 10},
    {
        "num_blocks": [2, 3, 2, 2],
        "width_multiplier": [0.25, 0.125, 0.125, 0.0625],
        "override_groups_map": {2: 4, 4: 16, 6: 2, 8: 32},
        "in_channels": 1,
    },
    {"num_blocks": [1, 2, 1, 1], "width_multiplier": [1.5, 0.75, 0.375, 0.1], "class_num": 3},
    {
        "num_blocks": [1, 2, 1, 2],
        "width_multiplier": [0.75, 0.125, 0.0625, 0.1],
        "override_groups_map": {3: 4},
        "use_se": True,
    },
]


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("settings", CSPRESNETS)
def test_cspresnet_layout_is_the_state_dict(settings, deploy):
    model = CSPResNet(**settings, deploy=deploy)
    layout = cspresnet_layout.layout(model.structure)
    assert layout.shapes(deploy=deploy) == shapes_of(model)


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("settings", REPVGGS)
def test_repvgg_layout_is_the_state_dict(settings, deploy):
    model = RepVGG(**settings, deploy=deploy)
    layout = repvgg_layout.layout(model.structure)
    assert layout.shapes(deploy=deploy) == shapes_of(model)


def conv_bn(prefix: str) -> list[str]:
    norm = [f"{prefix}.bn.{key}" for key in ("weight", "bias", "_mean", "_variance")]
    return [f"{prefix}.conv.weight", *norm]


def test_keys_of_cspresnet_are_those_of_paddledetection():
    """Written down from a state dict of PaddleDetection 2.6, one stage of one block."""
    expected = [
        *conv_bn("stem.conv1"),
        *conv_bn("stem.conv2"),
        *conv_bn("stem.conv3"),
        *conv_bn("stages.0.conv_down"),
        *conv_bn("stages.0.conv1"),
        *conv_bn("stages.0.conv2"),
        *conv_bn("stages.0.blocks.0.conv1"),
        "stages.0.blocks.0.conv2.alpha",
        *conv_bn("stages.0.blocks.0.conv2.conv1"),
        *conv_bn("stages.0.blocks.0.conv2.conv2"),
        "stages.0.attn.fc.weight",
        "stages.0.attn.fc.bias",
        *conv_bn("stages.0.conv3"),
    ]
    settings = {"layers": [1], "channels": [8, 16], "return_idx": [0]}
    model = CSPResNet(**settings, use_large_stem=True, use_alpha=True)
    assert list(model.state_dict()) == expected


SQUEEZE_EXCITE = ("down.weight", "down.bias", "up.weight", "up.bias")


@pytest.mark.parametrize("use_se", [False, True])
def test_keys_of_repvgg_are_those_of_paddleclas(use_se):
    """Written down from a state dict of PaddleClas 2.6, two blocks in the second stage."""
    blocks = ["stage0", "stage1.0", "stage2.0", "stage2.1", "stage3.0", "stage4.0"]
    expected = []
    for block in blocks:
        if use_se:
            expected += [f"{block}.se.{conv}" for conv in SQUEEZE_EXCITE]
        if block == "stage2.1":
            norm = ("weight", "bias", "_mean", "_variance")
            expected += [f"{block}.rbr_identity.{key}" for key in norm]
        expected += [*conv_bn(f"{block}.rbr_dense"), *conv_bn(f"{block}.rbr_1x1")]
    expected += ["linear.weight", "linear.bias"]
    model = RepVGG([1, 2, 1, 1], [0.25, 0.125, 0.125, 0.125], use_se=use_se)
    assert list(model.state_dict()) == expected
