"""Whole networks: their parameters, outputs and interfaces, and that deploying changes none."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

from reparam.errors import ReparamError, UnsupportedModelError
from reparam.models import (
    CSPResNet,
    MobileOne,
    PPLCNetV2,
    PPLCNetV3,
    RepVGG,
    convert_to_deploy,
    create_model,
    fold_batch_norms,
)
from reparam.models.blocks import ReparamBlock
from reparam.models.paddle_api import paddle
from tests.models.helpers import arrays_of, probe, randomise, run

NARROW = {"width_mult": 0.125, "depth_mult": 0.33}
TINY = {"num_blocks": [1, 2, 1, 1], "width_multiplier": [0.125, 0.0625, 0.0625, 0.0625]}

NETWORKS = {
    "cspresnet": lambda **more: CSPResNet(**NARROW, **more),
    "cspresnet-plus": lambda **more: CSPResNet(
        **NARROW, use_large_stem=True, use_alpha=True, **more
    ),
    "cspresnet-classifier": lambda **more: CSPResNet(**NARROW, num_classes=5, trt=True, **more),
    "repvgg": lambda **more: RepVGG(**TINY, class_num=7, **more),
    "repvgg-groups": lambda **more: RepVGG(
        **TINY, class_num=7, override_groups_map={2: 2, 3: 8}, **more
    ),
    "repvgg-squeeze": lambda **more: RepVGG(
        [1, 2, 1, 1], [0.25, 0.125, 0.0625, 0.0625], {3: 4}, class_num=7, use_se=True, **more
    ),
    "mobileone": lambda **more: MobileOne(
        [0.125, 0.125, 0.0625, 0.125], [1, 2, 1, 1], num_conv_branches=3, num_classes=7, **more
    ),
    "mobileone-squeeze": lambda **more: MobileOne(
        [0.25, 0.125, 0.125, 0.0625], [1, 1, 2, 1], use_se=True, num_classes=7, **more
    ),
    "lcnetv2": lambda **more: PPLCNetV2(0.125, [1, 1, 2, 2], class_num=7, class_expand=24, **more),
    "lcnetv2-short": lambda **more: PPLCNetV2(
        0.125, [1, 1, 1, 2], class_num=7, use_last_conv=False, act="hardswish", **more
    ),
    "lcnetv3-detector": lambda **more: PPLCNetV3(0.0625, conv_kxk_num=2, det=True, **more),
    "lcnetv3-recogniser": lambda **more: PPLCNetV3(0.0625, conv_kxk_num=1, **more),
}
NO_BATCH_NORM_OUTSIDE = (RepVGG, MobileOne)


def image(size: int = 64) -> np.ndarray:
    return probe(3, size, size).astype("float32")[:1]


def distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(p - q).max()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_deploy_form_is_as_near_to_the_truth_as_the_original_is(build):
    model, x = randomise(build()), image()
    truth = run(copy.deepcopy(model).to(dtype="float64"), x.astype("float64"))
    scale = max(float(np.abs(y).max()) for y in truth)
    floor = max(distance(run(model, x), truth), 4 * 2.0**-24 * scale)
    assert floor < 1e-3 * scale, "this network cannot tell a wrong fusion from rounding"
    assert convert_to_deploy(model)
    assert distance(run(model, x), truth) <= 4 * floor
    assert fold_batch_norms(model) or isinstance(model, NO_BATCH_NORM_OUTSIDE)
    assert distance(run(model, x), truth) <= 4 * floor
    assert not any("_mean" in name for name in model.state_dict())


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_in_training_mode_is_fused_by_its_running_statistics(build):
    model = randomise(build())
    other = copy.deepcopy(model)
    model.train()
    other.eval()
    assert convert_to_deploy(model) == convert_to_deploy(other)
    assert model.training
    for name, array in arrays_of(other).items():
        np.testing.assert_array_equal(arrays_of(model)[name], array)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_weights_of_a_converted_network_fit_one_built_in_deploy_form(build):
    converted, built = randomise(build()), build(deploy=True)
    convert_to_deploy(converted)
    assert list(built.state_dict()) != list(build().state_dict())
    assert set(built.state_dict()) == set(converted.state_dict())
    built.set_state_dict(converted.state_dict())
    assert distance(run(built, image()), run(converted, image())) == 0
    assert convert_to_deploy(built) == ()


@pytest.mark.parametrize("return_idx", [[1, 2, 3], [0], [0, 3]])
def test_feature_maps_have_the_channels_and_strides_of_out_shape(return_idx):
    model = CSPResNet(**NARROW, return_idx=return_idx)
    outputs = run(model, image())
    assert [(y.shape[1], 64 // y.shape[2]) for y in outputs] == list(model.out_shape)
    assert [shape.stride for shape in model.out_shape] == [4 * 2**i for i in return_idx]


@pytest.mark.parametrize(("stages", "expected"), [(1, [0]), (2, [1]), (3, [1, 2]), (5, [1, 2, 3])])
def test_by_default_the_feature_maps_of_ppyoloe_that_there_are(stages, expected):
    model = create_model("cspresnet", layers=[1] * stages, channels=[8] * (stages + 1))
    assert model.return_idx == expected
    assert len(run(model, image())) == len(expected)


def test_the_image_may_come_in_a_dict():
    model = CSPResNet(**NARROW)
    model.eval()
    x = paddle.to_tensor(image())
    assert model.input_name == "image"
    for y, z in zip(model({"image": x, "scale": None}), model(x), strict=True):
        np.testing.assert_array_equal(y.numpy(), z.numpy())
    with pytest.raises(ReparamError, match="needs the input 'image'"):
        model({"img": x})


def test_a_classifier_returns_scores_and_keeps_the_keys_of_the_backbone():
    plain, model = CSPResNet(**NARROW), CSPResNet(**NARROW, num_classes=5)
    assert set(model.state_dict()) - set(plain.state_dict()) == {"head.weight", "head.bias"}
    assert run(model, image())[0].shape == (1, 5)


def test_other_inputs_and_sizes_are_accepted():
    x = np.zeros((2, 1, 65, 33), "float32")
    assert run(RepVGG(**TINY, in_channels=1, class_num=3), x)[0].shape == (2, 3)
    assert run(CSPResNet(**NARROW, in_channels=1, num_classes=3), x)[0].shape == (2, 3)
    assert RepVGG.input_name == "x"


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_epsilon_reaches_every_batch_norm(build):
    model = build(epsilon=1e-3)
    norms = [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    assert norms
    assert {norm._epsilon for norm in norms} == {1e-3}


def test_a_text_detector_reads_four_maps_and_a_text_recogniser_one_line():
    maps = run(PPLCNetV3(0.25, det=True), image())
    assert [y.shape for y in maps] == [(1, 4, 16, 16), (1, 6, 8, 8), (1, 14, 4, 4), (1, 120, 2, 2)]
    recogniser = PPLCNetV3(0.25)
    height, width = recogniser.default_size
    line = np.zeros((1, 3, height, width), "float32")
    assert run(recogniser, line)[0].shape == (1, 128, 1, width // 8)
    recogniser.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle's, on statistics in training
        assert list(recogniser(paddle.to_tensor(line)).shape) == [1, 128, 1, 40]


def test_dropout_scales_the_scores_of_evaluation():
    """PaddleClas drops in training without making up for it, and scales in evaluation."""
    one = randomise(PPLCNetV2(0.125, [1, 1, 1, 1], class_num=5, dropout_prob=0.5, class_expand=8))
    other = PPLCNetV2(0.125, [1, 1, 1, 1], class_num=5, dropout_prob=0.0, class_expand=8)
    other.set_state_dict(one.state_dict())
    bias = one.fc.bias.numpy()
    whole, halved = run(other, image())[0] - bias, run(one, image())[0] - bias
    np.testing.assert_allclose(halved, whole / 2, rtol=1e-5, atol=1e-6)


def test_trt_changes_how_swish_is_written_and_not_its_value():
    one, other = CSPResNet(**NARROW), CSPResNet(**NARROW, trt=True)
    randomise(one)
    other.set_state_dict(one.state_dict())
    scale = max(float(np.abs(y).max()) for y in run(one, image()))
    assert distance(run(one, image()), run(other, image())) <= 1e-4 * scale
    assert one.stem.conv1.act is not other.stem.conv1.act


@pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_can_be_trained(build):
    model = build()
    model.train()
    outputs = model(paddle.to_tensor(probe(3, 64, 64).astype("float32")))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(output.sum() for output in outputs).backward()
    unused = {
        name for name, p in model.named_parameters() if not p.stop_gradient and p.grad is None
    }
    # PaddleOCR has an activation's affine where it leaves the activation out.
    idle = {f"{name}.act.lab" for name, part in model.named_sublayers() if vars(part).get("idle")}
    assert unused == {f"{name}.{key}" for name in idle for key in ("scale", "bias")}


def test_blocks_are_found_by_the_names_in_the_state_dict():
    model = RepVGG(**TINY)
    blocks = [name for name, layer in model.named_sublayers() if isinstance(layer, ReparamBlock)]
    assert blocks == ["stage0", "stage1.0", "stage2.0", "stage2.1", "stage3.0", "stage4.0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [1, 1], "channels": [8, 16]}, "one more entry in 'channels'"),
        ({"layers": [], "channels": [8]}, "one more entry in 'channels'"),
        ({"layers": [1], "channels": [8, 10]}, "stage 0 has 9 middle channels"),
        ({"channels": [1, 3, 8, 16, 32]}, "positive number"),
        ({"num_classes": 0}, "positive number"),
        ({"in_channels": 0}, "positive number"),
        ({"return_idx": [4]}, "does not fit CSPResNet of 4 stages"),
        ({"return_idx": []}, "does not fit CSPResNet of 4 stages"),
        ({"act": "swich"}, "no activation named 'swich'"),
    ],
)
def test_impossible_cspresnet_settings_are_refused(settings, message):
    with pytest.raises(UnsupportedModelError, match=message):
        create_model("cspresnet", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": [1, 1, 1]}, "four entries"),
        ({"width_multiplier": [1, 1, 1]}, "four entries"),
        ({"num_blocks": [1, 1, 0, 1]}, "at least one block"),
        ({"width_multiplier": [0.125, 0.125, 0.001, 0.125]}, "at least one block"),
        ({"class_num": 0}, "at least one block"),
        ({"override_groups_map": {0: 2}}, "layer 0 cannot have 2 groups"),
        ({"override_groups_map": {9: 2}}, "layer 9 cannot have 2 groups"),
        ({"override_groups_map": {2: 3}}, "layer 2 cannot have 3 groups"),
        ({"override_groups_map": {2: 0}}, "layer 2 cannot have 0 groups"),
        ({"use_se": True}, "squeeze-excite needs 16 channels or more"),
    ],
)
def test_impossible_repvgg_settings_are_refused(settings, message):
    with pytest.raises(UnsupportedModelError, match=message):
        create_model("repvgg", **{**TINY, **settings})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mobileone", {"width_multipliers": [1, 1, 1]}, "four entries"),
        ("mobileone_s0", {"num_blocks_per_stage": [1, 1, 1]}, "four entries"),
        ("mobileone_s0", {"num_blocks_per_stage": [1, 1, 0, 1]}, "at least one block"),
        ("mobileone_s0", {"num_conv_branches": 0}, "at least one block"),
        ("mobileone", {"width_multipliers": [1, 1, 1, 0.01], "use_se": True}, "needs 16 channels"),
        ("pplcnetv2", {"scale": 0, "depths": [1] * 4}, "positive 'scale'"),
        ("pplcnetv2", {"scale": float("nan"), "depths": [1] * 4}, "positive 'scale'"),
        ("pplcnetv2_base", {"depths": [1, 1]}, "4 entries in 'depths'"),
        ("pplcnetv2_base", {"depths": [1, 1, 0, 1]}, "at least one block"),
        ("pplcnetv2_base", {"class_expand": 0}, "at least one block"),
        ("pplcnetv2_base", {"act": "reul"}, "no activation named 'reul'"),
        ("pplcnetv3", {"scale": -1}, "positive 'scale'"),
        ("pplcnetv3_det", {"scale": 0.05}, "at least one branch and channel"),
        ("pplcnetv3_rec", {"conv_kxk_num": 0}, "at least one branch and channel"),
    ],
)
def test_impossible_settings_of_other_networks_are_refused(name, settings, message):
    with pytest.raises(UnsupportedModelError, match=message):
        create_model(name, **settings)
