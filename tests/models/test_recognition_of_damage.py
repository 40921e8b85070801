"""A damaged or foreign checkpoint is told from a whole one, and every defect is named."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.models import recognise
from reparam.models.layout import Shapes
from tests.models.structures import (
    A0,
    SMALL,
    SMALL_CSP,
    SMALL_REPVGG,
    SMALL_SE,
    layout_of,
    structure_of,
    torch_spelled,
)


def one_of_a_kind(names: Iterable[str]) -> list[str]:
    """Return the first, and of keys that differ in their numbers alone the last, of many one more.

    The last of a kind is where the fewest other keys say the same.
    """
    listed = list(names)
    kinds: dict[str, list[str]] = {}
    for name in listed:
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    drawn = random.Random(20260101)
    more = [drawn.choice(kind) for kind in kinds.values() if len(kind) > 8]
    return list(dict.fromkeys([listed[0], *(kind[-1] for kind in kinds.values()), *more]))


Choice = Callable[[Iterable[str]], list[str]]
CHOICES = [one_of_a_kind, pytest.param(list, marks=pytest.mark.slow)]


@pytest.mark.parametrize("choice", CHOICES, ids=["sampled", "all"])
@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("structure", SMALL.values(), ids=SMALL)
def test_each_key_that_is_missing_is_named(structure, deploy: bool, choice: Choice):
    whole = layout_of(structure).shapes(deploy=deploy)
    for name in choice(whole):
        found = recognise({key: shape for key, shape in whole.items() if key != name})
        assert found is not None, name
        assert (found.missing, found.unexpected, found.mismatched) == ((name,), (), ())


@pytest.mark.parametrize("choice", CHOICES, ids=["sampled", "all"])
@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("structure", SMALL.values(), ids=SMALL)
def test_each_key_of_the_wrong_shape_is_named(structure, deploy: bool, choice: Choice):
    whole = layout_of(structure).shapes(deploy=deploy)
    for name in choice(whole):
        shape = whole[name]
        # Of the head, weight and bias are the only two that tell the classes: the bias gives way.
        if name in ("head.weight", "linear.weight", "fc.weight"):
            wrong = (shape[0] + 1, shape[1])
            if name == "fc.weight" and not structure.use_last_conv:
                continue  # see below
        else:
            wrong = (*shape[:-1], shape[-1] + 1)
        found = recognise({**whole, name: wrong})
        assert found is not None, name
        assert found.mismatched == ((name, wrong, shape),)
        assert (found.missing, found.unexpected) == ((), ())


def test_a_classifier_of_another_width_misses_the_convolution_before_it():
    whole = layout_of(SMALL["lcnetv2-short"]).shapes()
    found = recognise({**whole, "fc.weight": (24, 7)})
    assert (found.missing, found.mismatched) == (("last_conv.weight",), ())


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("structure", SMALL.values(), ids=SMALL)
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
        "stage3.6.rbr_conv.0.conv.weight",
        "stage4.2.reparam_conv.bias",
        "stages.2.2.dw_conv.bias",
        "stages.3.3.dw_conv_list.0.bn.bias",
        "blocks2.1.dw_conv.conv_1x1.bn.bias",
        "blocks6.3.dw_conv.conv_kxk.4.conv.weight",
        "layer_list.4.bias",
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


def test_squeeze_excite_in_a_few_blocks_is_another_network():
    shapes = layout_of(SMALL_REPVGG).shapes()
    for where in ("stage2.1", "stage0"):
        assert recognise({**shapes, f"{where}.se.down.weight": (6, 96, 1, 1)}) is None


def test_a_block_whose_squeeze_excite_is_gone_altogether_lacks_it():
    whole = layout_of(SMALL_SE).shapes()
    gone = {name: shape for name, shape in whole.items() if name.startswith("stage2.0.se.")}
    found = recognise({name: shape for name, shape in whole.items() if name not in gone})
    assert (found.missing, found.unexpected, found.mismatched) == (tuple(gone), (), ())


def test_another_reduction_of_the_squeeze_is_named_as_wrong_shapes():
    whole = layout_of(SMALL_SE).shapes()
    wider = {
        name: tuple(2 * size if size == 4 else size for size in shape)
        for name, shape in whole.items()
        if name.startswith("stage4.0.se.")
    }
    found = recognise({**whole, **wider})
    assert {name for name, _, _ in found.mismatched} == set(wider) - {"stage4.0.se.up.bias"}


def prefixed(structure, prefix: str) -> Shapes:
    return {f"{prefix}{name}": shape for name, shape in layout_of(structure).shapes().items()}


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
        torch_spelled(layout_of(SMALL_CSP).shapes()),
        {**prefixed(SMALL_CSP, ""), **prefixed(SMALL_CSP, "neck.")},
    ],
)
def test_other_checkpoints_are_not_recognised(shapes):
    assert recognise(shapes) is None


WORDS = [
    *("stages", "stage0", "stage1", "stage2", "stage3", "stage4", "stem", "blocks", "conv_down"),
    *("conv1", "conv2", "conv3", "conv", "bn", "attn", "fc", "rbr_dense", "rbr_1x1", "alpha"),
    *("rbr_identity", "rbr_reparam", "linear", "head", "weight", "bias", "_mean", "0", "1", "2"),
    *("rbr_conv", "rbr_scale", "reparam_conv", "dw_conv", "pw_conv", "dw_conv_list", "last_conv"),
    *("blocks2", "blocks6", "conv_kxk", "layer_list", "identity", "lab", "scale", "expand", "fc"),
    *("00", "-1", "٣", "99999999999999999999", "", "\0", "se", "up", "down"),
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
@given(st.sampled_from(list(SMALL.values())), st.booleans(), st.data())
def test_damage_is_never_an_exception(structure, deploy, data):
    """Shapes replaced at random: recognised or not, every difference is accounted for."""
    whole = layout_of(structure).shapes(deploy=deploy)
    names = data.draw(st.lists(st.sampled_from(sorted(whole)), max_size=30))
    sizes = st.lists(st.integers(0, 2**40), max_size=5).map(tuple)
    damaged = {**whole, **{name: data.draw(sizes) for name in names}}
    found = recognise(damaged)
    if found is not None:
        # As in test_a_classifier_of_another_width_misses_the_convolution_before_it.
        short = getattr(structure, "use_last_conv", True) is False
        assert set(found.missing) <= ({"last_conv.weight"} if short else set())
        assert found.unexpected == ()
        assert (
            found.missing
            or found.mismatched
            or damaged == layout_of(structure_of(found)).shapes(deploy=deploy)
        )
