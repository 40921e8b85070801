"""A checkpoint's names and shapes say what it is of, and every key is accounted for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.models import Recognised, cspresnet_layout, recognise, repvgg_layout
from reparam.models.layout import Block, ConvBN, Layout, Plain, Shapes

GOLDEN = Path(__file__).parents[1] / "golden"

CSP = cspresnet_layout.Structure
A0 = repvgg_layout.Structure.of(
    **repvgg_layout.VARIANTS["repvgg_a0"],
    override_groups_map=None,
    class_num=1000,
    in_channels=3,
)
SMALL_CSP = CSP((1, 2, 1, 1), (8, 16, 32, 64, 128), True, True, 10)
SMALL_REPVGG = repvgg_layout.Structure(
    (1, 2, 2, 1), (16, 8, 16, 32), {2: 4, 5: 2}, class_num=7, in_channels=1
)


def layout_of(structure) -> Layout:
    family = cspresnet_layout if isinstance(structure, CSP) else repvgg_layout
    return family.layout(structure)


def structure_of(recognised: Recognised):
    """Return the structure that create_model would build from what was recognised."""
    values = {**recognised.assumed, **recognised.settings}
    if recognised.name.startswith("repvgg"):
        values = {**repvgg_layout.VARIANTS.get(recognised.name, {}), **values}
        values = {"override_groups_map": None, **values}
        del values["epsilon"]
        return repvgg_layout.Structure.of(**values)
    return CSP(
        cspresnet_layout.scaled(
            values.get("layers", cspresnet_layout.LAYERS), values.get("depth_mult", 1.0)
        ),
        cspresnet_layout.scaled(
            values.get("channels", cspresnet_layout.CHANNELS), values.get("width_mult", 1.0)
        ),
        values["use_large_stem"],
        values["use_alpha"],
        values["num_classes"],
        values["in_channels"],
    )


def csp_structures() -> st.SearchStrategy:
    stages = st.integers(1, 4)
    return stages.flatmap(
        lambda n: st.builds(
            CSP,
            layers=st.tuples(*[st.integers(1, 3)] * n),
            channels=st.tuples(*[st.integers(1, 16).map(lambda c: 4 * c)] * (n + 1)),
            use_large_stem=st.booleans(),
            use_alpha=st.booleans(),
            num_classes=st.none() | st.integers(1, 20),
            in_channels=st.integers(1, 4),
        )
    )


@st.composite
def repvgg_structures(draw) -> repvgg_layout.Structure:
    structure = repvgg_layout.Structure(
        num_blocks=draw(st.tuples(*[st.integers(1, 3)] * 4)),
        widths=draw(st.tuples(*[st.sampled_from([4, 8, 24, 64, 96])] * 4)),
        class_num=draw(st.integers(1, 20)),
        in_channels=draw(st.integers(1, 4)),
    )
    layers = range(1, len(structure.blocks()))
    groups = draw(st.dictionaries(st.sampled_from(layers), st.sampled_from([2, 4])))
    return replace(structure, groups=groups)


def structures() -> st.SearchStrategy:
    return csp_structures() | repvgg_structures()


@settings(deadline=None, max_examples=60)
@given(structures(), st.booleans())
def test_every_network_is_recognised_from_its_own_keys(structure, deploy):
    found = recognise(layout_of(structure).shapes(deploy=deploy))
    assert found is not None
    expected = (
        replace(structure, use_alpha=False) if deploy and isinstance(structure, CSP) else structure
    )
    assert structure_of(found) == expected
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
    blocks = len(layout_of(structure).blocks)
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


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("structure", [SMALL_CSP, SMALL_REPVGG], ids=["cspresnet", "repvgg"])
def test_each_key_that_is_missing_is_named(structure, deploy):
    whole = layout_of(structure).shapes(deploy=deploy)
    for name in whole:
        found = recognise({key: shape for key, shape in whole.items() if key != name})
        assert found is not None, name
        assert (found.missing, found.unexpected, found.mismatched) == ((name,), (), ())


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("structure", [SMALL_CSP, SMALL_REPVGG], ids=["cspresnet", "repvgg"])
def test_each_key_of_the_wrong_shape_is_named(structure, deploy):
    whole = layout_of(structure).shapes(deploy=deploy)
    for name, shape in whole.items():
        # Of the head, weight and bias are the only two that tell the classes: the bias gives way.
        if name in ("head.weight", "linear.weight"):
            wrong = (shape[0] + 1, shape[1])
        else:
            wrong = (*shape[:-1], shape[-1] + 1)
        found = recognise({**whole, name: wrong})
        assert found is not None, name
        assert found.mismatched == ((name, wrong, shape),)
        assert (found.missing, found.unexpected) == ((), ())


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("structure", [SMALL_CSP, SMALL_REPVGG], ids=["cspresnet", "repvgg"])
@pytest.mark.parametrize(
    "extra",
    [
        "optimizer.step",
        "stages.0.blocks.7.conv2.conv.bias",
        "stages.0.blocks.1.conv2.conv.bias",
        "stages.4.conv1.conv.weight",
        "stages.9.conv1.conv.weight",
        "stage1.1.rbr_dense.conv.weight",
        "stage1.8.rbr_dense.conv.weight",
        "stage2.99999999999.rbr_reparam.bias",
        "stem.conv9.conv.weight",
        "head.scale",
    ],
)
def test_a_key_too_many_is_named(structure, deploy, extra):
    whole = layout_of(structure).shapes(deploy=deploy)
    found = recognise({**whole, extra: (3,)})
    assert found.unexpected == (extra,)
    assert (found.missing, found.mismatched) == ((), ())


def test_a_renamed_key_is_missing_and_unexpected():
    whole = layout_of(A0).shapes()
    shape = whole.pop("stage2.1.rbr_1x1.bn._mean")
    found = recognise({**whole, "stage2.1.rbr_1x1.bn.mean": shape})
    assert found.missing == ("stage2.1.rbr_1x1.bn._mean",)
    assert found.unexpected == ("stage2.1.rbr_1x1.bn.mean",)


def test_a_block_that_is_missing_altogether_is_missed_in_the_form_of_the_others():
    whole = layout_of(SMALL_REPVGG).shapes(deploy=True)
    gone = ("stage0.rbr_reparam.weight", "stage0.rbr_reparam.bias")
    found = recognise({name: shape for name, shape in whole.items() if name not in gone})
    assert (found.form, found.missing) == ("deploy", gone)


def test_named_variants_are_named():
    found = recognise(layout_of(A0).shapes())
    assert (found.name, found.settings) == ("repvgg_a0", {"class_num": 1000, "in_channels": 3})
    assert found.assumed == {"epsilon": 1e-5}
    for name, variant in cspresnet_layout.VARIANTS.items():
        structure = CSP(
            cspresnet_layout.scaled(cspresnet_layout.LAYERS, variant["depth_mult"]),
            cspresnet_layout.scaled(cspresnet_layout.CHANNELS, variant["width_mult"]),
            use_alpha=True,
        )
        found = recognise(layout_of(structure).shapes())
        assert found.name == name
        assert found.settings == {
            **variant,
            "use_large_stem": False,
            "use_alpha": True,
            "num_classes": None,
            "in_channels": 3,
        }
        assert found.assumed == {"act": "swish", "return_idx": [1, 2, 3], "epsilon": 1e-5}


def test_other_widths_are_the_family_with_lists():
    found = recognise(layout_of(SMALL_CSP).shapes())
    assert found.name == "cspresnet"
    assert found.settings["channels"] == [8, 16, 32, 64, 128]
    assert found.settings["layers"] == [1, 2, 1, 1]
    found = recognise(layout_of(replace(A0, groups={2: 2})).shapes())
    assert found.name == "repvgg"
    assert found.settings["override_groups_map"] == {2: 2}


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
    if case.endswith("_se"):
        assert found is None, "squeeze-excite makes another network of it"
    else:
        assert (found.missing, found.unexpected, found.mismatched) == ((), (), ()), about
        assert found.form == "train-time"


def test_squeeze_excite_is_another_network_however_few_of_its_keys():
    deep = replace(A0, num_blocks=(8, 14, 24, 1))
    shapes = layout_of(deep).shapes()
    assert recognise(shapes) is not None
    assert recognise({**shapes, "stage2.3.se.down.weight": (6, 96, 1, 1)}) is None


def prefixed(structure, prefix: str) -> Shapes:
    return {f"{prefix}{name}": shape for name, shape in layout_of(structure).shapes().items()}


def torch_spelled(structure) -> Shapes:
    spelling = {"_mean": "running_mean", "_variance": "running_var"}
    shapes: Shapes = {}
    for name, shape in layout_of(structure).shapes().items():
        stem, _, last = name.rpartition(".")
        shapes[f"{stem}.{spelling.get(last, last)}"] = shape
        if last == "_mean":
            shapes[f"{stem}.num_batches_tracked"] = ()
    return shapes


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"": ()},
        {"weight": (3, 3)},
        {f"layer1.{i}.conv1.weight": (64, 64, 3, 3) for i in range(50)},
        {f"stages.{i}.conv1.conv.weight": (64, 64, 3, 3) for i in range(50)},
        {f"stages.0.conv1.{i}": (1,) for i in range(50)},
        {f"stage{i}.0.rbr_reparam.weight": (8, 8, 3, 3) for i in range(5)},
        {f"blocks.0.rbr_conv.{i}.conv.weight": (64, 1, 3, 3) for i in range(4)},
        prefixed(SMALL_CSP, "backbone."),
        prefixed(SMALL_REPVGG, "backbone."),
        torch_spelled(A0),
        torch_spelled(SMALL_CSP),
        {**prefixed(SMALL_CSP, ""), **prefixed(SMALL_CSP, "neck.")},
    ],
)
def test_other_checkpoints_are_not_recognised(shapes):
    assert recognise(shapes) is None


WORDS = [
    *("stages", "stage0", "stage1", "stage2", "stage3", "stage4", "stem", "blocks", "conv_down"),
    *("conv1", "conv2", "conv3", "conv", "bn", "attn", "fc", "rbr_dense", "rbr_1x1", "alpha"),
    *("rbr_identity", "rbr_reparam", "linear", "head", "weight", "bias", "_mean", "0", "1", "2"),
    *("00", "-1", "٣", "99999999999999999999", "", "\0", "se"),
]


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(".".join),
        st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
        max_size=60,
    )
)
def test_garbage_is_never_an_exception(shapes):
    found = recognise(shapes)
    assert found is None or set(found.unexpected) <= set(shapes)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([SMALL_CSP, SMALL_REPVGG]), st.booleans(), st.data())
def test_damage_is_never_an_exception(structure, deploy, data):
    """Shapes replaced at random: recognised or not, every difference is accounted for."""
    whole = layout_of(structure).shapes(deploy=deploy)
    names = data.draw(st.lists(st.sampled_from(sorted(whole)), max_size=30))
    sizes = st.lists(st.integers(0, 2**40), max_size=5).map(tuple)
    damaged = {**whole, **{name: data.draw(sizes) for name in names}}
    found = recognise(damaged)
    if found is not None:
        assert found.missing == found.unexpected == ()
        assert found.mismatched or damaged == layout_of(structure_of(found)).shapes(deploy=deploy)
