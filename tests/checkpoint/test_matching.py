"""Which family a block is of: names propose, all names and shapes decide, or the user does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint import matching as matching_module
from reparam.checkpoint.blocks import find_blocks
from reparam.checkpoint.families import CONV_BN, FAMILIES, Choice, Epsilon, Family
from reparam.checkpoint.families import repvgg as repvgg_records
from reparam.checkpoint.families.terms import POINT, Chain, Kernel, Norm, Sum, conv_norm
from reparam.checkpoint.plan import families_named, plan_of
from reparam.errors import CheckpointError
from tests.checkpoint.test_fusing import block_arrays
from tests.weights import random_arrays, repvgg_arrays

OUTER = Family(
    name="with an outer norm",
    term=Chain(Sum(conv_norm("rbr_dense"), conv_norm("rbr_1x1", POINT)), Norm("bn")),
    deploy="rbr_reparam",
    epsilon=Epsilon.of(1e-5, "a test"),
    anchors=("rbr_dense", "rbr_1x1"),
)


def shapes_of(arrays):
    return {key: array.shape for key, array in arrays.items()}


def known(monkeypatch, *families):
    monkeypatch.setattr(matching_module, "FAMILIES", families)


def torch_named(arrays):
    names = {"_mean": "running_mean", "_variance": "running_var"}
    renamed = {}
    for key, array in arrays.items():
        stem, _, last = key.rpartition(".")
        renamed[f"{stem}.{names.get(last, last)}"] = array
        if last == "_variance":
            renamed[f"{stem}.num_batches_tracked"] = np.array(7)
    return renamed


class TestSeveralFamilies:
    def test_the_one_that_explains_the_most_is_right(self, monkeypatch):
        known(monkeypatch, repvgg_records.REPVGG, OUTER)
        arrays = block_arrays("RepVGG", identity=False)
        norm = {f"block.bn.{key}": arrays[f"block.rbr_1x1.bn.{key}"] for key in ("weight", "bias")}
        norm |= {f"block.bn.{k}": arrays[f"block.rbr_1x1.bn.{k}"] for k in ("_mean", "_variance")}
        (match,) = find_blocks(shapes_of(arrays | norm)).blocks
        assert match.family is OUTER
        (match,) = find_blocks(shapes_of(arrays)).blocks
        assert match.family is repvgg_records.REPVGG
        with pytest.raises(CheckpointError, match="holds what no such block has"):
            find_blocks(shapes_of(block_arrays("RepVGG") | norm))  # neither explains all of it

    def test_two_that_explain_the_same_are_the_user_s_to_decide(self, monkeypatch):
        twin = replace(repvgg_records.REPVGG, name="Twin")
        known(monkeypatch, repvgg_records.REPVGG, twin)
        shapes = shapes_of(block_arrays("RepVGG"))
        with pytest.raises(CheckpointError, match="several families") as error:
            find_blocks(shapes)
        assert "--family 'RepVGG' or --family 'Twin'" in str(error.value)
        (match,) = find_blocks(shapes, [twin]).blocks
        assert match.family is twin

    def test_the_first_that_was_named_and_fits_is_taken(self, monkeypatch):
        one, two = (replace(repvgg_records.REPVGG, name=name) for name in ("One", "Two"))
        known(monkeypatch, repvgg_records.REPVGG, one, two)
        shapes = shapes_of(block_arrays("RepVGG"))
        for order in ([one, two], [two, one]):
            (match,) = find_blocks(shapes, order).blocks
            assert match.family is order[0]

    def test_all_that_is_open_is_asked_at_once(self, monkeypatch):
        twin = replace(repvgg_records.REPVGG, name="Twin")
        third = replace(OUTER, term=OUTER.term.parts[0], name="Third")
        known(monkeypatch, repvgg_records.REPVGG, twin, third)
        shapes = shapes_of(block_arrays("RepVGG", prefix="a.", identity=False))
        shapes |= shapes_of(block_arrays("RepVGG", prefix="b."))
        shapes |= shapes_of(block_arrays("RepVGG", prefix="c."))
        with pytest.raises(CheckpointError, match="and 2 more can be of several") as error:
            find_blocks(shapes)
        assert "'a': RepVGG, Third and Twin have the same" in error.value.found
        assert "'b' and 1 more: RepVGG and Twin have the same" in error.value.found
        assert "the first that fits is taken" in error.value.hint
        with pytest.raises(CheckpointError, match="block 'b' can be"):
            find_blocks(shapes, spared=lambda where: where != "b")
        left = dict(find_blocks(shapes, spared=lambda _: True).spared)
        assert set(left) == set("abc")

    def test_one_of_two_is_named_by_its_option(self, monkeypatch):
        with pytest.raises(CheckpointError, match="no family named 'repvg'") as error:
            families_named(["repvg"])
        assert "'RepVGG'" in error.value.found
        assert repvgg_records.REPVGG in families_named(["repvgg"])

    def test_a_named_family_that_no_block_is_of(self):
        with pytest.raises(CheckpointError, match="no block is a MobileOne"):
            fuse_arrays(repvgg_arrays(), families=["MobileOne"])

    def test_a_named_family_is_forced_onto_no_shapes(self):
        arrays = block_arrays("RepVggBlock")
        arrays["block.conv2.conv.weight"] = arrays["block.conv2.conv.weight"][:, :1]
        assert fuse_arrays(arrays)[1].left
        with pytest.raises(CheckpointError, match=r"block 'block' \(RepVggBlock\)") as error:
            fuse_arrays(arrays, families=["RepVggBlock"])
        assert "block.conv2.conv.weight" in error.value.found


class TestKeysThatNoFamilyExplains:
    def test_names_of_a_block_are_refused(self):
        arrays = block_arrays("RepVGG")
        arrays["block.rbr_3x3.conv.weight"] = np.ones((4, 4, 3, 3), np.float32)
        with pytest.raises(CheckpointError, match="holds what no such block has") as error:
            fuse_arrays(arrays)
        assert "'block.rbr_3x3.conv.weight'" in error.value.found
        _, report = fuse_arrays(arrays, skip=["block"])
        assert [(one.where, one.reason) for one in report.left] == [("block", "--skip")]
        fused, report = fuse_arrays(arrays, families=["RepVGG"])
        assert len(report.fused) == 1
        assert "block.rbr_3x3.conv.weight" in fused

    def test_names_that_occur_everywhere_leave_a_doubt(self):
        arrays = block_arrays("RepVggBlock")
        arrays["block.conv3.conv.weight"] = np.ones((4, 4, 3, 3), np.float32)
        _, report = fuse_arrays(arrays)
        assert not report.fused
        assert "'block.conv3.conv.weight' is no part" in report.left[0].reason
        _, report = fuse_arrays(arrays, families=["RepVggBlock"])
        assert len(report.fused) == 1


class TestEpsilon:
    def test_paddle_s_spelling_has_the_family_s(self):
        _, report = fuse_arrays(repvgg_arrays())
        assert report.epsilon == 1e-5

    def test_pytorch_s_spelling_of_shared_names_is_asked_for(self):
        arrays = torch_named(repvgg_arrays())
        with pytest.raises(CheckpointError, match="does not tell the epsilon") as error:
            fuse_arrays(arrays)
        assert "0.001: YOLOv6" in error.value.found
        assert "1e-05: RepVGG" in error.value.found
        fused, report = fuse_arrays(arrays, epsilon=1e-5)
        expected, _ = fuse_arrays(repvgg_arrays())
        assert report.epsilon_source == "--epsilon"
        for key, array in fused.items():
            assert array.tobytes() == expected[key].tobytes()
        assert fused.keys() == expected.keys()

    def test_a_name_that_points_to_one_project_is_told(self):
        arrays = {f"backbone.ERBlock_2.{k}": a for k, a in torch_named(repvgg_arrays()).items()}
        with pytest.raises(CheckpointError, match="looks like YOLOv6"):
            fuse_arrays(arrays)

    def test_a_sign_of_two_values_is_no_sign(self, monkeypatch):
        choices = (Choice(1e-3, "one", "stage"), Choice(1e-5, "other", "stage"))
        epsilon = Epsilon(None, None, "a test", choices)
        known(monkeypatch, replace(repvgg_records.REPVGG, epsilon=epsilon))
        with pytest.raises(CheckpointError) as error:
            fuse_arrays(block_arrays("RepVGG", prefix="stage."))
        assert "looks like" not in str(error.value)


class TestNumbers:
    def test_a_branch_left_out_is_missing(self):
        shapes = mobileone_shapes(0, 1, 3)
        with pytest.raises(CheckpointError, match="not whole") as error:
            find_blocks(shapes)
        assert "'b.rbr_conv.2.conv.weight' is missing" in error.value.found

    def test_a_huge_number_costs_nothing(self):
        with pytest.raises(CheckpointError, match="not whole"):
            find_blocks(mobileone_shapes(0, 999999))

    def test_eleven_branches_are_in_the_order_of_numbers(self):
        (match,) = find_blocks(mobileone_shapes(*range(11))).blocks
        assert match.labels[:11] == tuple(f"rbr_conv.{n}" for n in range(11))


def mobileone_shapes(*numbers):
    shapes = {}
    for number in numbers:
        shapes[f"b.rbr_conv.{number}.conv.weight"] = (4, 4, 3, 3)
        norm = ("weight", "bias", "_mean", "_variance")
        shapes |= {f"b.rbr_conv.{number}.bn.{key}": (4,) for key in norm}
    return shapes


def test_every_family_has_a_name_a_source_and_an_epsilon_with_one():
    for family in (*FAMILIES, CONV_BN):
        assert family.name
        assert family.epsilon.source
    assert all(family.source for family in FAMILIES)
    parts = [(family.name, family.part) for family in FAMILIES]
    assert len(set(parts)) == len(parts)


def test_the_order_of_the_file_is_no_evidence():
    arrays = repvgg_arrays()
    plan = plan_of(shapes_of(dict(reversed(arrays.items()))))
    assert {match.where for match in plan.blocks} == {
        match.where for match in plan_of(shapes_of(arrays)).blocks
    }


@pytest.mark.parametrize("seed", range(3))
def test_two_thousand_other_names_hold_no_block(seed):
    rng = np.random.default_rng(seed)
    words = ["conv", "bn", "conv1", "weight", "0", "layer", "norm", "attn", "fc"]
    names = {".".join(rng.choice(words, rng.integers(1, 6))) + ".weight" for _ in range(2000)}
    found = find_blocks(dict.fromkeys(sorted(names), (4, 4, 3, 3)))
    assert not found.blocks


def test_inspecting_tells_of_a_damaged_block():
    arrays = random_arrays(mobileone_shapes(0, 2))
    found = find_blocks(shapes_of(arrays), spared=lambda _: True)
    assert [where for where, _ in found.spared] == ["b"]
    assert "'b.rbr_conv.1.conv.weight' is missing" in found.spared[0][1]


def test_what_would_cost_more_as_one_convolution_is_left(monkeypatch):
    chain = Chain(Kernel("row", (1, 7)), Kernel("column", (7, 1)))
    epsilon = Epsilon.of(0.0, "none")
    family = Family("Chain", chain, "fused", epsilon, anchors=("row", "column"))
    known(monkeypatch, family)
    shapes = {"b.row.weight": (1, 1, 1, 7), "b.column.weight": (1, 1, 7, 1)}
    found = find_blocks(shapes)
    assert not found.blocks
    assert "49 MACs for each output position instead of 14" in dict(found.doubts)["b"]


def test_a_convolution_of_one_tap_is_deployed_only_under_a_name_that_says_so():
    shapes = {"a.conv.weight": (4, 4, 1, 1), "a.conv.bias": (4,)}
    assert not find_blocks(shapes).deployed
    own = {key.replace("a.conv", "a.reparam_conv"): shape for key, shape in shapes.items()}
    assert [where for where, _ in find_blocks(own).deployed] == ["a"]
    wide = {"a.conv.weight": (4, 4, 3, 3), "a.conv.bias": (4,)}
    assert [where for where, _ in find_blocks(wide).deployed] == ["a"]
