"""The layouts, which need no paddle, hold what the state dicts of the built Layers hold."""

from __future__ import annotations

import pytest

from reparam.models import CSPResNet, RepVGG, create_model, cspresnet_layout, repvgg_layout
from tests.models.helpers import shapes_of
from tests.models.structures import layout_of

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


OTHERS = [
    ("mobileone_s0", {"width_multipliers": [0.125, 0.25, 0.125, 0.125]}),
    ("mobileone_s4", {"width_multipliers": [0.5, 0.125, 0.25, 0.125], "num_conv_branches": 2}),
    (
        "mobileone",
        {
            "num_blocks_per_stage": [1, 3, 3, 2],
            "width_multipliers": [1.5, 0.125, 0.0625, 0.0625],
            "use_se": True,
            "num_classes": 3,
            "in_channels": 1,
        },
    ),
    ("pplcnetv2_base", {"scale": 0.25, "class_num": 5}),
    ("pplcnetv2", {"scale": 0.33, "depths": [1, 2, 1, 2], "use_last_conv": False}),
    ("pplcnetv2", {"scale": 0.5, "depths": [1, 1, 3, 1], "class_expand": 12, "in_channels": 1}),
    ("pplcnetv3_det", {"scale": 0.35}),
    ("pplcnetv3_rec", {"scale": 0.5, "conv_kxk_num": 1, "in_channels": 1}),
]


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize(("name", "settings"), OTHERS)
def test_other_layouts_are_the_state_dict(name, settings, deploy):
    model = create_model(name, deploy=deploy, **settings)
    assert layout_of(model.structure).shapes(deploy=deploy) == shapes_of(model)


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


def batch_norm(prefix: str) -> list[str]:
    return [f"{prefix}.{key}" for key in ("weight", "bias", "_mean", "_variance")]


def test_keys_of_mobileone_are_those_of_its_authors_in_paddles_spelling():
    """Written down from a state dict of ml-mobileone, the second half of the third stage."""
    settings = {"num_blocks_per_stage": [1, 1, 2, 1], "width_multipliers": [0.25] * 4}
    model = create_model("mobileone", use_se=True, num_conv_branches=2, **settings)
    gate = ("se.reduce.weight", "se.reduce.bias", "se.expand.weight", "se.expand.bias")
    expected = [
        *(f"stage3.2.{key}" for key in gate),
        *batch_norm("stage3.2.rbr_skip"),
        *conv_bn("stage3.2.rbr_conv.0"),
        *conv_bn("stage3.2.rbr_conv.1"),
        *conv_bn("stage3.2.rbr_scale"),
        *(f"stage3.3.{key}" for key in gate),
        *batch_norm("stage3.3.rbr_skip"),
        *conv_bn("stage3.3.rbr_conv.0"),
        *conv_bn("stage3.3.rbr_conv.1"),
    ]
    found = list(model.state_dict())
    assert [key for key in found if key.startswith(("stage3.2.", "stage3.3."))] == expected
    assert [key for key in found if key.startswith("stage0.")] == [
        *conv_bn("stage0.rbr_conv.0"),
        *conv_bn("stage0.rbr_scale"),
    ]
    assert found[-2:] == ["linear.weight", "linear.bias"]


def test_keys_of_lcnetv2_are_those_of_paddleclas():
    """Written down from a state dict of PaddleClas 2.6, less the unused weights beside branches."""
    model = create_model("pplcnetv2", scale=0.25, depths=[1, 1, 1, 2])
    found = list(model.state_dict())
    expected = [
        *conv_bn("stages.2.0.dw_conv_list.0"),
        *conv_bn("stages.2.0.dw_conv_list.1"),
        *(f"stages.2.0.se.{key}" for key in ("conv1.weight", "conv1.bias")),
        *(f"stages.2.0.se.{key}" for key in ("conv2.weight", "conv2.bias")),
        *conv_bn("stages.2.0.pw_conv_1"),
        *conv_bn("stages.2.0.pw_conv_2"),
        *conv_bn("stages.3.0.dw_conv_list.0"),
        *conv_bn("stages.3.0.dw_conv_list.1"),
        *conv_bn("stages.3.0.pw_conv"),
        *conv_bn("stages.3.1.dw_conv_list.0"),
        *conv_bn("stages.3.1.dw_conv_list.1"),
        *conv_bn("stages.3.1.dw_conv_list.2"),
        *conv_bn("stages.3.1.pw_conv"),
        "last_conv.weight",
        "fc.weight",
        "fc.bias",
    ]
    assert found[-len(expected) :] == expected
    start = [*conv_bn("stem.0"), *conv_bn("stem.1.dw_conv"), *conv_bn("stem.1.pw_conv")]
    assert found[: len(start)] == start


def test_keys_of_lcnetv3_are_those_of_paddleocr():
    """Written down from a state dict of PaddleOCR 2.9."""
    affine = ["lab.scale", "lab.bias", "act.lab.scale", "act.lab.bias"]
    model = create_model("pplcnetv3_rec", scale=0.35, conv_kxk_num=2)
    found = list(model.state_dict())
    expected = [
        *conv_bn("blocks6.0.dw_conv.conv_kxk.0"),
        *conv_bn("blocks6.0.dw_conv.conv_kxk.1"),
        *conv_bn("blocks6.0.dw_conv.conv_1x1"),
        *(f"blocks6.0.dw_conv.{key}" for key in affine),
        *(f"blocks6.0.se.{key}" for key in ("conv1.weight", "conv1.bias")),
        *(f"blocks6.0.se.{key}" for key in ("conv2.weight", "conv2.bias")),
        *conv_bn("blocks6.0.pw_conv.conv_kxk.0"),
        *conv_bn("blocks6.0.pw_conv.conv_kxk.1"),
        *(f"blocks6.0.pw_conv.{key}" for key in affine),
        *batch_norm("blocks6.1.dw_conv.identity"),
    ]
    start = found.index(expected[0])
    assert found[start : start + len(expected)] == expected
    assert found[:5] == conv_bn("conv1")
    detector = list(create_model("pplcnetv3_det", scale=0.35).state_dict())
    maps = [f"layer_list.{i}.{key}" for i in range(4) for key in ("weight", "bias")]
    assert detector[-8:] == maps
    assert not any(".blocks3.0.dw_conv.identity." in f".{key}" for key in detector)
    assert "blocks3.0.dw_conv.identity.weight" in found
