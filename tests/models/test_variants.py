"""The variants have the parameters, widths and convolutions of the published networks."""

from __future__ import annotations

from math import prod

import pytest

from reparam.models import (
    create_model,
    mobileone_layout,
    pplcnetv2_layout,
    pplcnetv3_layout,
    repvgg_layout,
)
from reparam.models.cspresnet_layout import CHANNELS, LAYERS, VARIANTS, Structure, layout, scaled
from reparam.models.layout import Shapes
from tests.models.helpers import shapes_of
from tests.models.structures import layout_of

# What an optimizer changes. Train-time: counted in PaddleClas 2.6.0, B2g2 and B3g2 in its RepVGG
# with its own map of groups. Deploy: the paper (arXiv 2101.03697, tables of results) has the same
# in millions, cut after two decimals, but for B2g2, B3g2 and D2se, which it does not list.
REPVGG = {
    "repvgg_a0": (9_108_968, 8_309_384, "8.30"),
    "repvgg_a1": (14_092_264, 12_789_864, "12.78"),
    "repvgg_a2": (28_210_600, 25_499_944, "25.49"),
    "repvgg_b0": (15_817_960, 14_339_048, "14.33"),
    "repvgg_b1": (57_415_016, 51_829_480, "51.82"),
    "repvgg_b1g2": (45_782_376, 41_360_104, "41.36"),
    "repvgg_b1g4": (39_966_056, 36_125_416, "36.12"),
    "repvgg_b2": (89_022_376, 80_315_112, "80.31"),
    "repvgg_b2g2": (70_846_376, 63_956_712, ""),
    "repvgg_b2g4": (61_758_376, 55_777_512, "55.77"),
    "repvgg_b3": (123_085_288, 110_960_872, "110.96"),
    "repvgg_b3g2": (96_911_848, 87_404_776, ""),
    "repvgg_b3g4": (83_825_128, 75_626_728, "75.62"),
    "repvgg_d2se": (133_334_836, 120_387_572, ""),
}

# Counted in CSPResNet of PaddleDetection 2.6.0: plain, with the large stem, with the large stem
# and alpha (PP-YOLOE+). Published counts are of whole detectors.
CSPRESNET = {
    "cspresnet_t": (1_683_936, 1_685_256, 1_685_262),
    "cspresnet_s": (2_990_640, 2_992_976, 2_992_982),
    "cspresnet_m": (9_312_192, 9_317_424, 9_317_436),
    "cspresnet_l": (21_149_472, 21_158_752, 21_158_770),
    "cspresnet_x": (40_226_160, 40_240_640, 40_240_664),
}

# Train-time: counted in ml-mobileone. Deploy: the paper (arXiv 2206.04040, table 3) in millions.
MOBILEONE = {
    "mobileone_s0": (5_293_272, 2_078_504, "2.1"),
    "mobileone_s1": (4_825_192, 4_764_840, "4.8"),
    "mobileone_s2": (7_884_648, 7_808_168, "7.8"),
    "mobileone_s3": (10_170_600, 10_078_312, "10.1"),
    "mobileone_s4": (14_951_248, 14_838_352, "14.8"),
}

# Counted in PaddleClas 2.6.0, train-time less the unused deploy weights, and in PaddleOCR 2.9.
LCNETS = {
    "pplcnetv2_small": (pplcnetv2_layout, 4_128_552),
    "pplcnetv2_base": (pplcnetv2_layout, 6_687_208),
    "pplcnetv2_large": (pplcnetv2_layout, 10_542_120),
    "pplcnetv3_det": (pplcnetv3_layout, 3_324_176),
    "pplcnetv3_rec": (pplcnetv3_layout, 4_891_620),
}


def learned(shapes: Shapes) -> int:
    """Count without the running statistics, as papers do."""
    statistics = ("_mean", "_variance")
    return sum(prod(shape) for name, shape in shapes.items() if not name.endswith(statistics))


@pytest.mark.parametrize("name", repvgg_layout.VARIANTS)
def test_repvggs_have_the_published_parameters(name):
    train_time, deploy, published = REPVGG[name]
    whole = repvgg_layout.layout(repvgg_layout.Structure.of(**repvgg_layout.VARIANTS[name]))
    assert learned(whole.shapes()) == train_time
    assert learned(whole.shapes(deploy=True)) == deploy
    if published:
        assert f"{deploy // 10_000 / 100:.2f}" == published


@pytest.mark.parametrize("name", VARIANTS)
def test_cspresnets_have_the_parameters_of_paddledetection(name):
    variant = VARIANTS[name]
    sizes = scaled(LAYERS, variant["depth_mult"]), scaled(CHANNELS, variant["width_mult"])
    options = ({}, {"use_large_stem": True}, {"use_large_stem": True, "use_alpha": True})
    found = (learned(layout(Structure(*sizes, **chosen)).shapes()) for chosen in options)
    assert tuple(found) == CSPRESNET[name]


@pytest.mark.parametrize("name", mobileone_layout.VARIANTS)
def test_mobileones_have_the_published_parameters(name):
    train_time, deploy, published = MOBILEONE[name]
    structure = mobileone_layout.Structure.of(**mobileone_layout.VARIANTS[name])
    whole = mobileone_layout.layout(structure)
    assert learned(whole.shapes()) == train_time
    assert learned(whole.shapes(deploy=True)) == deploy
    assert f"{deploy / 1e6:.1f}" == published


@pytest.mark.parametrize("name", LCNETS)
def test_lcnets_have_the_parameters_of_their_projects(name):
    family, train_time = LCNETS[name]
    structure = family.Structure.of(**family.VARIANTS[name])
    assert learned(family.layout(structure).shapes()) == train_time


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize(
    "name",
    ["repvgg_a0", "repvgg_b1g4", "cspresnet_t", "mobileone_s0", "pplcnetv2_base", "pplcnetv3_det"],
)
def test_what_is_built_has_them(name, deploy):
    model = create_model(name, deploy=deploy)
    assert shapes_of(model) == layout_of(model.structure).shapes(deploy=deploy)
    trained = [tensor for tensor in model.parameters() if not tensor.stop_gradient]
    assert sum(tensor.size for tensor in trained) == learned(shapes_of(model))


def test_groups_are_on_every_second_layer_and_never_on_the_first_or_last():
    for name, groups in (("repvgg_b1g2", 2), ("repvgg_b3g4", 4)):
        structure = repvgg_layout.Structure.of(**repvgg_layout.VARIANTS[name])
        assert structure.groups == dict.fromkeys(range(2, 27, 2), groups)
        assert len(structure.blocks()) == 28


@pytest.mark.parametrize(
    ("name", "channels", "layers"),
    [
        ("cspresnet_t", (24, 48, 96, 192, 384), (1, 2, 2, 1)),
        ("cspresnet_s", (32, 64, 128, 256, 512), (1, 2, 2, 1)),
        ("cspresnet_m", (48, 96, 192, 384, 768), (2, 4, 4, 2)),
        ("cspresnet_l", (64, 128, 256, 512, 1024), (3, 6, 6, 3)),
        ("cspresnet_x", (80, 160, 320, 640, 1280), (4, 8, 8, 4)),
    ],
)
def test_variants_have_the_published_widths_and_depths(name, channels, layers):
    variant = VARIANTS[name]
    assert scaled(CHANNELS, variant["width_mult"]) == channels
    assert scaled(LAYERS, variant["depth_mult"]) == layers


def test_the_small_variant_has_41_convolutions_and_35_once_deployed():
    shapes = layout(Structure((1, 2, 2, 1), (32, 64, 128, 256, 512), use_large_stem=True))
    for deploy, convolutions in ((False, 41), (True, 35)):
        kernels = [shape for shape in shapes.shapes(deploy=deploy).values() if len(shape) == 4]
        assert len(kernels) == convolutions
