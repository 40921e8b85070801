"""From deploy form back to train-time form: the same function, names that load, nothing guessed."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import block_tree, find_blocks
from reparam.checkpoint.families import FAMILIES
from reparam.checkpoint.families.terms import Input, Mean, Norm, leaves
from reparam.checkpoint.unfusing.arrays import unfuse_arrays
from reparam.checkpoint.unfusing.filling import Filling
from reparam.conv import evaluate
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.conv.magnitudes import magnitude_of
from reparam.conv.rounding import round_once
from reparam.errors import (
    CheckpointError,
    NotEquivalentError,
    NotFusibleError,
    UnsupportedModelError,
)
from tests.checkpoint.families.harness import SPELLINGS
from tests.checkpoint.families.random_blocks import random_block
from tests.golden.families.test_families import CASES, golden
from tests.weights import cspresnet_arrays, random_arrays, repvgg_arrays

Arrays = dict[str, np.ndarray]

NOT_FOLDED = {("QARepVGG V2 (YOLOv6)", "paddle")}  # its pooling leaves padding out of the mean
RECORDS = [pytest.param(f, id=f"{f.name} {f.part}".strip()) for f in FAMILIES]


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {key: array.shape for key, array in arrays.items()}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, err_msg=key)


class TestEveryFamily:
    """Each record is tested by being there; a block of it is drawn from its term."""

    @pytest.mark.parametrize("spelling", SPELLINGS)
    @pytest.mark.parametrize("family", RECORDS)
    def test_there_and_back(self, family, spelling):
        epsilon = family.epsilon.in_spelling(spelling) or 1e-3
        options = {"epsilon": epsilon, "families": [family.name]}
        original = random_block(family, spelling)
        if (family.name, spelling) in NOT_FOLDED:
            with pytest.raises(NotFusibleError):
                fuse_arrays(original, **options)
            return
        fused, report = fuse_arrays(original, **options)
        assert [block.family for block in report.fused] == [family.name]
        back, done = unfuse_arrays(fused, like=original, **options)
        assert set(back) == set(original)
        assert shapes_of({key: back[key] for key in original}) == shapes_of(original)
        assert not done.missing
        assert not done.unexpected
        if not done.unfused:  # the deploy form has all the names of the train-time form
            assert done.already
            assert_same(back, fused)
            return
        (block,) = done.unfused
        assert block.certificate.roundings <= 1
        again, _ = fuse_arrays(back, **options)
        if any(isinstance(leaf, Input | Mean) for leaf in leaves(family.term)):
            # A kernel less the input that the block adds: within one rounding of what is added.
            assert_close(again, fused, back, family, epsilon)
        else:
            assert block.same
            assert_same(again, fused)

    @pytest.mark.parametrize("family", RECORDS)
    def test_every_branch_can_learn(self, family):
        # A branch that is zero has one array that is; were it two, no gradient would reach either.
        original = random_block(family, "torch")
        options = {"epsilon": family.epsilon.torch or 1e-3, "families": [family.name]}
        fused, _ = fuse_arrays(original, **options)
        back, _ = unfuse_arrays(fused, like=original, **options)
        (match,) = find_blocks(shapes_of(back), FAMILIES_NAMED[family.name]).blocks
        zero = {key for key in match.learned_keys if not back[key].any()}
        for branch in branches_of(match.term):
            factors = {key for leaf in leaves(branch) for key in factors_of(leaf)}
            assert len(zero & factors) <= 1, branch


WITHOUT_SHIFTS = {"acnet_plain"}  # no beta and no bias: nothing that a fused bias could go to
FAMILIES_NAMED = {f.name: [one for one in FAMILIES if one.name == f.name] for f in FAMILIES}


def branches_of(term):
    """Return the innermost products of a term: chains without a sum, and single operators."""
    parts = getattr(term, "branches", None) or getattr(term, "parts", None) or ()
    if not any(hasattr(leaf, "branches") for leaf in walk(term)):
        return [term]
    return [branch for part in parts for branch in branches_of(part)]


def walk(term):
    yield term
    for part in (*getattr(term, "branches", ()), *getattr(term, "parts", ())):
        yield from walk(part)


def factors_of(leaf) -> tuple[str, ...]:
    """Return the keys that a leaf multiplies by."""
    keys = getattr(leaf, "keys", ())
    return (getattr(leaf, "weight", ""), getattr(leaf, "factor", ""), *keys[:1])


def assert_close(again: Arrays, fused: Arrays, back: Arrays, family, epsilon: float) -> None:
    (match,) = find_blocks(shapes_of(back), FAMILIES_NAMED[family.name]).blocks
    tree = magnitude_of(block_tree(match, back, epsilon))
    groups = match.geometry.groups or 1
    size = [2 * side + 1 for side in match.geometry.kernel]
    added = evaluate(tree, np.ones((1, match.geometry.per_group * groups, *size))).max()
    for key, array in fused.items():
        off = np.abs(again[key].astype(float) - array.astype(float)).max()
        assert off <= 4 * UNIT_ROUNDOFF["float32"] * added


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_SHIFTS])
def test_recorded_blocks_compute_what_the_original_does(name):
    case = golden(name)
    fused, _ = fuse_arrays(case.state, **case.options)
    back, _ = unfuse_arrays(fused, like=case.state, **case.options)
    assert set(back) == set(case.state)
    found = case.deployed(fuse_arrays(back, **case.options)[0])
    assert (np.abs(found - case.y) <= 2 * case.bound()).all()


class TestNeutralNorms:
    @pytest.mark.parametrize("epsilon", [0.0, 1e-12, 1e-6, 1e-5, 1e-3, 0.1, 0.3, 0.5])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "bfloat16"])
    def test_fusing_gives_every_value_back(self, dtype, epsilon):
        if dtype == "bfloat16":
            dtype = pytest.importorskip("ml_dtypes").bfloat16
        deploy = {
            key: round_once(array.astype(np.float64), dtype)[0]
            for key, array in repvgg_arrays(3, deploy=True).items()
        }
        back, report = unfuse_arrays(deploy, epsilon=epsilon)
        assert all(block.same for block in report.unfused)
        assert {array.dtype for array in back.values()} == {np.dtype(dtype)}
        assert_same(fuse_arrays(back, epsilon=epsilon)[0], deploy)

    def test_an_epsilon_that_nothing_can_make_neutral_is_refused(self):
        with pytest.raises(CheckpointError, match=r"0\.5 or less"):
            unfuse_arrays(repvgg_arrays(deploy=True), epsilon=0.6)

    def test_a_variance_of_one_is_caught(self, monkeypatch):
        # What everyone writes down first: off by epsilon / 2, which is 80 roundings of float32.
        def norm(self, norm, factor):
            for key, value in zip(norm.keys, (factor, 0, 0, 1), strict=True):
                self.put(key, value)

        monkeypatch.setattr(Filling, "norm", norm)
        with pytest.raises(NotEquivalentError, match=r"cannot unfuse block 'stage0'.*\n.*off by"):
            unfuse_arrays(repvgg_arrays(deploy=True))

    def test_an_identity_that_is_not_taken_off_is_caught(self, monkeypatch):
        def zero(self, term, zero=Filling.zero):
            self.norm(term, 1) if isinstance(term, Norm) else zero(self, term)

        monkeypatch.setattr(Filling, "zero", zero)
        with pytest.raises(NotEquivalentError, match=r"cannot unfuse block 'stage2\.1'"):
            unfuse_arrays(repvgg_arrays(deploy=True))

    def test_subnormal_values_are_kept(self):
        deploy = repvgg_arrays(deploy=True)
        deploy["stage0.rbr_reparam.weight"][0, 0, 0, 0] = 1e-42
        back, report = unfuse_arrays(deploy)
        assert back["stage0.rbr_dense.conv.weight"][0, 0, 0, 0] == np.float32(1e-42)
        assert all(block.same for block in report.unfused)


class TestKnownArchitectures:
    @pytest.mark.parametrize("make", [repvgg_arrays, cspresnet_arrays])
    def test_names_and_shapes_are_those_of_the_network(self, make):
        settings = {"use_alpha": False} if make is cspresnet_arrays else {}
        back, report = unfuse_arrays(make(deploy=True, **settings))
        assert shapes_of(back) == {k: a.shape for k, a in make(**settings).items()} | {}
        assert len(back) == len(make(**settings))
        assert report.architecture in ("repvgg", "cspresnet")

    def test_alpha_on_request(self):
        deploy = cspresnet_arrays(deploy=True)
        back, report = unfuse_arrays(deploy, have=["alpha"])
        assert shapes_of(back) == shapes_of(cspresnet_arrays()) | {}
        assert back["stages.0.blocks.0.conv2.alpha"] == [1]
        assert not any("alpha" in notice for notice in report.notices)
        _, report = unfuse_arrays(deploy)
        assert any("--with alpha adds it" in notice for notice in report.notices)
        back, _ = unfuse_arrays(deploy, have=["stages.1.*:alpha"])
        assert [key for key in back if "alpha" in key] == [
            "stages.1.blocks.0.conv2.alpha",
            "stages.1.blocks.1.conv2.alpha",
        ]

    def test_folded_batch_norms_come_back_too(self):
        original = cspresnet_arrays(use_alpha=False)
        fused, _ = fuse_arrays(original, fold_bn=True)
        back, report = unfuse_arrays(fused)
        assert shapes_of(back) == shapes_of(original)
        assert (len(report.unfused), len(report.unfolded)) == (3, 13)
        assert_same(fuse_arrays(back, fold_bn=True)[0], fused)

    def test_half_fused_and_not_fused(self):
        train, deploy = repvgg_arrays(), repvgg_arrays(deploy=True)
        half = {k: a for k, a in train.items() if not k.startswith("stage1.0.")}
        half |= {k: a for k, a in deploy.items() if k.startswith("stage1.0.")}
        back, report = unfuse_arrays(half)
        assert [block.where for block in report.unfused] == ["stage1.0"]
        assert report.unfused[0].branches == ("rbr_dense", "rbr_1x1")
        assert len(report.already) == 6
        assert all(back[key] is half[key] for key in half if not key.startswith("stage1.0."))
        same, report = unfuse_arrays(train)
        assert all(same[key] is train[key] for key in train)
        assert not report.unfused
        assert len(report.already) == 7

    def test_skip(self):
        _, report = unfuse_arrays(repvgg_arrays(deploy=True), skip=["stage[1-4]*"])
        assert [block.where for block in report.unfused] == ["stage0"]
        assert {left.reason for left in report.left} == {"--skip"}
        assert len(report.left) == 6
        with pytest.raises(CheckpointError, match="--skip nothing names no block"):
            unfuse_arrays(repvgg_arrays(deploy=True), skip=["nothing"])

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda a: a.pop("linear.bias"), "lacks 1 key"),
            (lambda a: a.pop("stage0.rbr_reparam.bias"), "lacks 1 key"),
            (lambda a: a.update({"linear.bias": np.ones(3, np.float32)}), "wrong shape"),
            (lambda a: a["stage0.rbr_reparam.weight"].fill(np.nan), "rbr_reparam.weight"),
            (lambda a: a["linear.bias"].fill(np.inf), "linear.bias"),
        ],
    )
    def test_damage_is_refused(self, spoil, said):
        arrays = repvgg_arrays(deploy=True)
        spoil(arrays)
        with pytest.raises(CheckpointError, match=said):
            unfuse_arrays(arrays)


class TestUnknownNetworks:
    """What names and shapes do not tell is asked for, with what there is to choose from."""

    def blocks(self, prefix="neck.", **shapes) -> Arrays:
        made = {}
        for name, shape in shapes.items():
            made[f"{prefix}{name}.rbr_reparam.weight"] = shape
            made[f"{prefix}{name}.rbr_reparam.bias"] = shape[:1]
        return random_arrays(made)

    def test_the_family_is_asked_for(self):
        with pytest.raises(CheckpointError, match=r"what block 'neck\.a' was") as caught:
            unfuse_arrays(self.blocks(a=(8, 8, 3, 3)))
        assert "'RepVGG'" in caught.value.found
        assert "'RepConv'" in caught.value.found
        assert "--family" in caught.value.hint
        assert "--like" in caught.value.hint

    def test_the_identity_is_asked_for(self):
        arrays = self.blocks(a=(8, 8, 3, 3), b=(8, 6, 3, 3))
        with pytest.raises(CheckpointError, match="which branches") as caught:
            unfuse_arrays(arrays, families=["RepVGG"])
        assert caught.value.found == "block 'neck.a': 'rbr_identity' (--with or --without)"
        back, _ = unfuse_arrays(arrays, families=["RepVGG"], have=["rbr_identity"])
        assert "neck.a.rbr_identity._mean" in back
        assert "neck.b.rbr_identity._mean" not in back  # 8 outputs of 6 k inputs: never
        back, _ = unfuse_arrays(arrays, families=["RepVGG"], lack=["rbr_identity"])
        assert not any("identity" in key for key in back)

    def test_what_could_be_grouped_or_wider_has_to_be_named(self):
        arrays = self.blocks(a=(8, 4, 3, 3))  # 8 channels in 2 groups, or 4 in one
        with pytest.raises(CheckpointError, match="which branches"):
            unfuse_arrays(arrays, families=["RepVGG"], have=["rbr_identity"])
        back, report = unfuse_arrays(arrays, families=["RepVGG"], have=["neck.?:rbr_identity"])
        assert report.unfused[0].same
        assert back["neck.a.rbr_identity.weight"].tolist() == [0] * 8

    def test_a_named_block_comes_before_all_blocks(self):
        arrays = self.blocks(a=(8, 8, 3, 3), b=(8, 8, 3, 3))
        back, _ = unfuse_arrays(
            arrays, families=["RepVGG"], have=["rbr_identity"], lack=["neck.b:rbr_identity"]
        )
        assert "neck.a.rbr_identity.weight" in back
        assert "neck.b.rbr_identity.weight" not in back
        with pytest.raises(CheckpointError, match="contradict each other"):
            unfuse_arrays(arrays, families=["RepVGG"], have=["rbr_identity"], lack=["rbr_identity"])

    def test_options_that_name_nothing(self):
        arrays = self.blocks(a=(8, 8, 3, 3))
        options = {"families": ["RepVGG"], "lack": ["rbr_identity"]}
        with pytest.raises(CheckpointError, match="--with shortcut has no effect") as caught:
            unfuse_arrays(arrays, have=["shortcut"], **options)
        assert "rbr_identity" in caught.value.found
        with pytest.raises(CheckpointError, match="no block is a MobileOne"):
            unfuse_arrays(arrays, families=["MobileOne"])
        with pytest.raises(CheckpointError, match="there is no family"):
            unfuse_arrays(arrays, families=["RepVG"])

    def test_branches_that_count(self):
        made = random_arrays({"m.reparam_conv.weight": (8, 1, 3, 3), "m.reparam_conv.bias": (8,)})
        with pytest.raises(CheckpointError, match="which branches") as caught:
            unfuse_arrays(made, families=["MobileOne"])
        assert "--branches N" in caught.value.found
        options = {"families": ["MobileOne"], "have": ["rbr_scale", "rbr_skip"]}
        back, report = unfuse_arrays(made, branches=3, **options)
        assert report.unfused[0].same
        match, carried = find_blocks(shapes_of(back)).blocks[0], "m.rbr_conv.0.conv.weight"
        assert match.family.name == "MobileOne"
        counted = tuple(f"rbr_conv.{number}" for number in range(3))
        assert match.labels == (*counted, "rbr_scale", "rbr_skip")  # without the block's own name
        assert report.unfused[0].carrier == carried
        assert [key for key in match.kernel_keys if back[key].any()] == [carried]

    def test_one_tap_needs_no_second_branch_of_one(self):
        made = random_arrays({"m.reparam_conv.weight": (8, 6, 1, 1), "m.reparam_conv.bias": (8,)})
        back, _ = unfuse_arrays(made, families=["MobileOne"], branches=1)
        assert not any("rbr_scale" in key for key in back)

    def test_a_family_that_the_shapes_cannot_be(self):
        arrays = self.blocks(a=(8, 8, 1, 1))
        with pytest.raises(CheckpointError, match=r"'neck\.a' cannot be a RepVGG"):
            unfuse_arrays(arrays, families=["RepVGG"], lack=["rbr_identity"])
        arrays = self.blocks(a=(8, 3, 3, 3))  # 8 channels are no number of groups of 3
        with pytest.raises(CheckpointError, match=r"'neck\.a' cannot have 'rbr_iden") as caught:
            unfuse_arrays(arrays, families=["RepVGG"], have=["neck.a:rbr_identity"])
        assert "8 output channels for groups of 3" in caught.value.found

    def test_sizes_that_nothing_tells(self):
        made = random_arrays({"m.dw_conv.weight": (8, 1, 5, 5), "m.dw_conv.bias": (8,)})
        with pytest.raises(CheckpointError, match="cannot tell the arrays of block 'm'") as caught:
            unfuse_arrays(made, families=["PP-LCNetV2"], branches=3)
        assert "the size of the kernel 'dw_conv_list.0.conv.weight'" in caught.value.found
        assert "--like" in caught.value.hint

    def test_a_plain_convolution_is_not_taken_for_a_block(self):
        made = random_arrays({"head.conv.weight": (8, 8, 3, 3), "head.conv.bias": (8,)})
        with pytest.raises(CheckpointError, match="what block 'head' was"):
            unfuse_arrays(made)
        back, _ = unfuse_arrays(made, families=["RepVggBlock"])
        assert "head.conv1.bn._mean" in back
        both = made | self.blocks(a=(8, 6, 3, 3))
        back, report = unfuse_arrays(both, families=["RepVGG"], lack=["rbr_identity"])
        assert "head.conv.weight" in back
        assert [left.where for left in report.left] == ["head"]

    def test_the_spelling_is_that_of_the_file_or_asked_for(self):
        arrays = self.blocks(a=(8, 6, 3, 3))
        options = {"families": ["RepVGG"], "epsilon": 1e-5}
        back, _ = unfuse_arrays(arrays, spelling="torch", **options)
        assert back["neck.a.rbr_dense.bn.num_batches_tracked"] == 0
        other = {"bn.running_mean": np.zeros(3, np.float32)}
        back, _ = unfuse_arrays(arrays | other, spelling="paddle", **options)
        assert "neck.a.rbr_dense.bn.running_var" in back
        with pytest.raises(CheckpointError, match="names the statistics"):
            unfuse_arrays(arrays, spelling=None, **options)

    def test_the_epsilon_is_asked_for_where_projects_differ(self):
        arrays = self.blocks(a=(8, 6, 3, 3))
        with pytest.raises(CheckpointError, match=r"epsilon of block 'neck\.a'"):
            unfuse_arrays(arrays, families=["RepVGG"], spelling="torch")


class TestLike:
    def test_another_network_is_refused(self):
        deploy = repvgg_arrays(deploy=True)
        other = repvgg_arrays(widths=(8, 12, 16, 24))
        with pytest.raises(CheckpointError, match="not the deploy form of this RepVGG") as caught:
            unfuse_arrays(deploy, like=other)
        assert "needed: (24, 16, 3, 3)" in caught.value.found
        longer = repvgg_arrays(num_blocks=(1, 3, 2, 1))
        with pytest.raises(CheckpointError, match=r"block 'stage2\.2' .* is in neither form"):
            unfuse_arrays(deploy, like=longer)

    def test_a_network_without_such_blocks_is_refused(self):
        deploy = repvgg_arrays(deploy=True)
        with pytest.raises(CheckpointError, match="no block in train-time form"):
            unfuse_arrays(deploy, like=deploy)
        for like in (None, repvgg_arrays()):
            with pytest.raises(CheckpointError, match="no block of the network is a MobileOne"):
                unfuse_arrays(deploy, like=like, families=["MobileOne"])

    def test_names_that_differ_are_told(self):
        deploy = repvgg_arrays(deploy=True)
        like = repvgg_arrays() | {"aux.weight": np.ones((3, 3), np.float32)}
        del like["linear.bias"]
        _, report = unfuse_arrays(deploy, like=like)
        assert report.missing == ("aux.weight",)
        assert report.unexpected == ("linear.bias",)

    def test_it_decides_and_options_that_say_otherwise_have_no_effect(self):
        deploy = cspresnet_arrays(deploy=True)
        back, _ = unfuse_arrays(deploy, like=cspresnet_arrays())
        assert shapes_of(back) == shapes_of(cspresnet_arrays())
        with pytest.raises(CheckpointError, match="--without alpha has no effect"):
            unfuse_arrays(deploy, like=cspresnet_arrays(), lack=["alpha"])

    def test_a_placeholder_of_the_network_is_kept(self):
        original = repvgg_arrays()
        names = ("stage0.rbr_reparam.weight", "stage0.rbr_reparam.bias")
        like = original | {key: repvgg_arrays(1, deploy=True)[key] for key in names}
        deploy, _ = fuse_arrays(original)
        back, report = unfuse_arrays(deploy, like=like)
        assert not report.missing
        np.testing.assert_array_equal(
            back["stage0.rbr_reparam.weight"], deploy["stage0.rbr_reparam.weight"]
        )
        assert_same(fuse_arrays(back)[0], deploy)

    def test_an_affine_that_stays_in_the_network_keeps_its_values(self):
        # PaddleOCR's deploy form applies lab after the convolution; reparam's has it folded.
        family = next(f for f in FAMILIES if f.name == "LearnableRepLayer")
        original = random_block(family, "paddle")
        deploy, _ = fuse_arrays(original)
        deploy["b.lab.scale"], deploy["b.lab.bias"] = (np.float32([v]) for v in (1.7, -0.4))
        back, _ = unfuse_arrays(deploy, like=original)
        assert back["b.lab.scale"] is deploy["b.lab.scale"]
        fused, _ = fuse_arrays(back)
        weight = deploy["b.reparam_conv.weight"] * np.float64(deploy["b.lab.scale"])
        np.testing.assert_allclose(fused["b.reparam_conv.weight"], weight, rtol=1e-7, atol=0)


def test_a_block_without_room_is_refused(monkeypatch):
    # Two kernels in a row: neither is the whole, nor nothing.
    from reparam.checkpoint import families, matching
    from reparam.checkpoint.families.family import NO_NORM, Family
    from reparam.checkpoint.families.terms import NEVER, Chain, Kernel

    pair = Family("Pair", Chain(Kernel("one", (1, 1), NEVER), Kernel("two", (3, 3), NEVER)),
                  "pair_reparam", NO_NORM, anchors=("one", "two"))  # fmt: skip
    for module in (families, matching):
        monkeypatch.setattr(module, "FAMILIES", (*FAMILIES, pair))
    original = random_block(pair, "paddle")
    fused, _ = fuse_arrays(original)
    with pytest.raises(UnsupportedModelError, match="cannot unfuse block 'b'") as caught:
        unfuse_arrays(fused, like=original)
    assert "no branch has a kernel for the whole" in caught.value.found
    back, report = unfuse_arrays(fused, like=original, skip=["b"])
    assert set(back) == set(fused)
    assert [left.where for left in report.left] == ["b"]
