"""A checkpoint's names and shapes say what it is of, and every key is accounted for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.models import cspresnet_layout, recognise, repvgg_layout
from reparam.models.layout import Block, ConvBN, Plain, Shapes
from reparam.models.recognition import train_time_shapes
from tests.models.structures import (
    A0,
    CSP,
    REPVGG,
    SMALL_CSP,
    SMALL_MOBILEONE,
    layout_of,
    mobileone_structures,
    structure_of,
    structures,
    told_by_deploy_form,
    torch_spelled,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@settings(deadline=None, max_examples=60)
@given(structures(), st.booleans())
def test_every_network_is_recognised_from_its_own_keys(structure, deploy):
    structure.check()
    found = recognise(layout_of(structure).shapes(deploy=deploy))
    assert found is not None
    assert structure_of(found) == (told_by_deploy_form(structure) if deploy else structure)
    assert found.form == ("deploy" if deploy else "train-time")
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ())
    assert found.blocks == tuple(block.prefix for block in layout_of(structure).blocks)
    assert found.deployed == (found.blocks if deploy else ())


@settings(deadline=None, max_examples=60)
@given(structures(), st.data())
def test_every_block_and_layer_may_be_in_a_form_of_its_own(structure, data):
    shapes: Shapes = {}
    deployed, folded = [], []
    for part in layout_of(structure).parts:
        if isinstance(part, Plain):
            shapes |= part.keys
        elif isinstance(part, ConvBN):
            shapes |= draw_conv_bn(data, part, folded)
        else:
            shapes |= draw_block(data, part, deployed, folded)
    found = recognise(shapes)
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ())
    assert (found.deployed, found.folded) == (tuple(deployed), tuple(folded))
    parts = layout_of(structure).blocks
    beside = {key for part in parts if part.prefix not in deployed for key in part.deploy}
    assert set(found.beside) == beside & set(shapes)
    blocks = len(parts)
    told = told_by_deploy_form(structure) if len(deployed) == blocks else structure
    assert structure_of(found) == told
    forms = {0: "train-time", blocks: "deploy"}
    assert found.form == forms.get(len(deployed), "mixed")


def draw_conv_bn(data, part: ConvBN, folded: list[str]) -> Shapes:
    fold = data.draw(st.booleans())
    if fold:
        folded.append(part.prefix)
    return part.shapes(fold)


def draw_block(data, part: Block, deployed: list[str], folded: list[str]) -> Shapes:
    form = data.draw(st.sampled_from(["branches", "deploy", "both"]))
    if form == "deploy":
        deployed.append(part.prefix)
        return part.deploy
    shapes = dict(part.others)
    for branch in part.branches:
        shapes |= draw_conv_bn(data, branch, folded)
    # Branches win: deploy keys beside them are neither a form nor unexpected.
    return shapes | part.deploy if form == "both" else shapes


CSP_OPTIONS = [
    {"use_large_stem": stem, "use_alpha": alpha, "num_classes": classes}
    for stem in (False, True)
    for alpha in (False, True)
    for classes in (None, 10)
]


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("name", cspresnet_layout.VARIANTS)
@pytest.mark.parametrize("options", CSP_OPTIONS, ids=str)
def test_variants_of_cspresnet_are_told_by_name(name, options, deploy):
    variant = cspresnet_layout.VARIANTS[name]
    structure = CSP(
        cspresnet_layout.scaled(cspresnet_layout.LAYERS, variant["depth_mult"]),
        cspresnet_layout.scaled(cspresnet_layout.CHANNELS, variant["width_mult"]),
        **options,
    )
    found = recognise(layout_of(structure).shapes(deploy=deploy))
    assumed = {"act": "swish", "return_idx": [1, 2, 3], "trt": False, "epsilon": 1e-5}
    settings = {**variant, **options, "in_channels": 3}
    if deploy:
        assumed["use_alpha"] = False
        del settings["use_alpha"]
    assert (found.name, found.settings, found.assumed) == (name, settings, assumed)


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("name", repvgg_layout.VARIANTS)
def test_variants_of_repvgg_are_told_by_name(name, deploy):
    """Some differ by groups or squeeze-excite alone."""
    structure = REPVGG.of(**repvgg_layout.VARIANTS[name], class_num=10)
    found = recognise(layout_of(structure).shapes(deploy=deploy))
    assert (found.name, found.settings) == (name, {"class_num": 10, "in_channels": 3})
    assert found.assumed == {"epsilon": 1e-5}
    assert structure_of(found) == structure


def test_nearly_a_variant_is_the_family_with_all_its_settings():
    b1g4 = REPVGG.of(**repvgg_layout.VARIANTS["repvgg_b1g4"])
    other = replace(b1g4, groups={**b1g4.groups, 2: 2})
    found = recognise(layout_of(other).shapes(deploy=True))
    assert found.name == "repvgg"
    assert found.settings["override_groups_map"] == other.groups
    found = recognise(layout_of(replace(b1g4, use_se=True)).shapes())
    assert (found.name, found.settings["use_se"]) == ("repvgg", True)


@pytest.mark.parametrize(("stages", "expected"), [(1, [0]), (2, [1]), (3, [1, 2]), (4, [1, 2, 3])])
def test_the_feature_maps_assumed_are_those_that_there_are(stages, expected):
    structure = CSP((1,) * stages, (8,) * (stages + 1))
    assert recognise(layout_of(structure).shapes()).assumed["return_idx"] == expected


def test_other_widths_are_the_family_with_lists():
    found = recognise(layout_of(SMALL_CSP).shapes())
    assert found.name == "cspresnet"
    assert found.settings["channels"] == [8, 16, 32, 64, 128]
    assert found.settings["layers"] == [1, 2, 1, 1]
    found = recognise(layout_of(replace(A0, groups={2: 2})).shapes())
    assert found.name == "repvgg"
    assert found.settings["override_groups_map"] == {2: 2}


@settings(deadline=None, max_examples=30)
@given(mobileone_structures(), st.booleans())
def test_a_mobileone_is_recognised_as_pytorch_wrote_it(structure, deploy):
    shapes = layout_of(structure).shapes(deploy=deploy)
    written = torch_spelled(shapes)
    found, ours = recognise(written), recognise(shapes)
    assert (found.torch, ours.torch) == (True, False)
    assert replace(found, torch=False) == ours
    if not deploy:
        counters = {key for key in written if key.endswith("num_batches_tracked")}
        assert set(train_time_shapes(written).items()) | {(k, ()) for k in counters} == set(
            written.items()
        )


def test_what_is_wrong_with_pytorchs_keys_is_said_in_its_spelling():
    whole = torch_spelled(layout_of(SMALL_MOBILEONE).shapes())
    gone = "stage2.1.rbr_conv.1.bn.running_mean"
    damaged = {key: shape for key, shape in whole.items() if key != gone}
    damaged |= {"linear.weight": (7, 41), "stage0.rbr_scale.bn.running_var": (9,), "x.bias": (1,)}
    found = recognise(damaged)
    assert (found.missing, found.unexpected) == ((gone,), ("x.bias",))
    assert sorted(found.mismatched) == [
        ("linear.weight", (7, 41), (7, 40)),
        ("stage0.rbr_scale.bn.running_var", (9,), (8,)),
    ]


def test_whose_square_classifier_it_is_a_deploy_form_does_not_tell():
    """Its weight would be read the wrong way round in half of the cases."""
    square = replace(SMALL_MOBILEONE, num_classes=SMALL_MOBILEONE.widths[-1])
    assert recognise(layout_of(square).shapes(deploy=True)) is None
    assert recognise(layout_of(square).shapes()).torch is False
    assert recognise(torch_spelled(layout_of(square).shapes())).torch is True


def test_a_fused_kernel_does_not_tell_alpha():
    found = recognise(layout_of(SMALL_CSP).shapes(deploy=True))
    assert "use_alpha" not in found.settings
    assert found.assumed["use_alpha"] is False


@pytest.mark.parametrize(
    "case", ["det_cspresnet", "det_cspresnet_alpha", "clas_repvgg", "clas_repvgg_se"]
)
def test_state_dicts_of_the_public_implementations(case):
    with np.load(GOLDEN / f"{case}.npz") as file:
        about = json.loads(str(file["about"]))
        shapes = {
            name.removeprefix("state/"): file[name].shape
            for name in file.files
            if name.startswith("state/")
        }
    found = recognise(shapes)
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ()), about
    assert found.form == "train-time"
    assert found.settings.get("use_se", False) == about["settings"].get("use_se", False)
