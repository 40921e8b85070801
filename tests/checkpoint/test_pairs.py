"""--fold-bn: which BatchNorms are folded into the convolution before them, and which are not."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.architectures import recognise
from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import block_tree
from reparam.checkpoint.pairs import find_pairs
from reparam.conv import Conv, error_bound, evaluate
from tests.checkpoint.test_fusing import NORM, block_arrays, shapes_of
from tests.weights import cspresnet_arrays, random_arrays, repvgg_arrays


def pair_shapes(prefix="x.", weight=(6, 4, 3, 3), *, bias=False, conv="conv", norm="bn"):
    shapes = {f"{prefix}{conv}.weight": weight}
    if bias:
        shapes[f"{prefix}{conv}.bias"] = weight[:1]
    return shapes | {f"{prefix}{norm}.{key}": weight[:1] for key in NORM}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prefix", ["x.", "", "a.b.0."])
@pytest.mark.parametrize("weight", [(6, 4, 3, 3), (6, 1, 5, 5), (6, 4, 1, 1), (6, 4, 2, 2),
                                    (6, 4, 3, 1), (6, 4, 3), (6, 4, 3, 3, 3)])  # fmt: skip
def test_a_pair_is_one_convolution(bias, prefix, weight):
    arrays = random_arrays(pair_shapes(prefix, weight, bias=bias))
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    fused, report = fuse_arrays(arrays, fold_bn=True)
    assert list(fused) == [f"{prefix}conv.weight", f"{prefix}conv.bias"]
    (pair,), _ = find_pairs(shapes_of(arrays))
    tree = block_tree(pair, arrays, 1e-5)
    stored = Conv.of(*fused.values(), padding=[size // 2 for size in weight[2:]])
    x = np.random.default_rng(0).normal(
        size=(2, weight[1], *(6 + n for n in range(len(weight) - 2)))
    )
    difference = np.abs(evaluate(stored, x) - evaluate(tree, x))
    assert (difference <= error_bound(tree, x, stored="float32")).all()
    assert report.folded[0].certificate.roundings <= 1
    assert (report.epsilon, report.folded[0].branches) == (1e-5, ("conv + bn",))


def test_without_the_option_nothing_is_folded():
    arrays = random_arrays(pair_shapes())
    fused, report = fuse_arrays(arrays)
    assert list(fused) == list(arrays)
    assert not report.folded
    assert not report.left


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (pair_shapes(norm="norm"), "nothing in the names proves"),
        (pair_shapes(conv="conv1"), "'x.conv.weight' is not in the file"),
        (pair_shapes(norm="act_bn"), "nothing in the names proves"),
        ({f"x.bn.{key}": (6,) for key in NORM}, "'x.conv.weight' is not in the file"),
        (pair_shapes() | {"x.bn._mean": (5,)}, "'x.bn._mean' has the shape (5,)"),
        (pair_shapes() | {"x.conv.weight": (4, 6, 3, 3)}, "4 output channels"),
        (pair_shapes() | {"x.conv.bias": (4,)}, "'x.conv.bias' has the shape (4,)"),
        (
            {k: s for k, s in pair_shapes().items() if k != "x.bn.weight"},
            "'x.bn.weight' is missing",
        ),
        (dict(reversed(pair_shapes().items())), "stands before 'x.conv.weight'"),
        (pair_shapes(weight=(6, 4)), "which is no convolution"),
    ],
)
def test_what_is_not_proven_is_left_with_the_reason(shapes, said):
    arrays = random_arrays(shapes)
    fused, report = fuse_arrays(arrays, fold_bn=True)
    assert {key: value.tobytes() for key, value in fused.items()} == {
        key: value.tobytes() for key, value in arrays.items()
    }
    (left,) = report.left
    assert said in left.reason
    assert any("--fold-bn had no effect" in notice for notice in report.notices)


def test_identities_of_a_block_are_no_pairs():
    arrays = block_arrays("RepVGG") | random_arrays(pair_shapes("stem."))
    fused, report = fuse_arrays(arrays, fold_bn=True, skip=["block"])
    assert [pair.where for pair in report.folded] == ["stem"]
    assert all(fused[key] is arrays[key] for key in arrays if key.startswith("block."))
    assert [(left.where, left.reason) for left in report.left] == [("block", "--skip")]


def test_a_whole_network_keeps_no_batch_norm_and_is_recognised():
    arrays = cspresnet_arrays()
    fused, report = fuse_arrays(arrays, fold_bn=True)
    assert not [key for key in fused if key.endswith("_mean")]
    found = recognise(shapes_of(fused))
    assert (found.form, found.missing, found.unexpected) == ("deploy", (), ())
    assert sorted(found.folded) == sorted(pair.where for pair in report.folded)
    again, second = fuse_arrays(fused, fold_bn=True)
    assert all(again[key] is fused[key] for key in fused)
    assert not second.fused + second.folded


def test_pairs_of_an_unknown_network_are_told_by_names_alone():
    arrays = random_arrays(pair_shapes())
    notice = "told by the names of ConvBNLayer alone"
    assert any(notice in text for text in fuse_arrays(arrays, fold_bn=True)[1].notices)
    known = fuse_arrays(cspresnet_arrays(), fold_bn=True)[1]
    assert not any(notice in text for text in known.notices)


def test_a_dead_channel_of_a_pair_is_flushed():
    arrays = random_arrays(pair_shapes(weight=(6, 4, 3, 3)))
    arrays["x.bn.weight"][1], arrays["x.bn.bias"][1] = 1e-40, 1e-42
    arrays["x.bn._mean"][1] = 0
    fused, report = fuse_arrays(arrays, fold_bn=True)
    assert not fused["x.conv.weight"][1].any()
    assert fused["x.conv.bias"][1] == 0
    assert report.folded[0].flushed == report.flushed == 4 * 9 + 1


def test_a_network_with_squeeze_and_excitation_keeps_its_convolutions():
    """RepVGG-D2se: convolutions without BatchNorm beside identity BatchNorms."""
    squeeze = {}
    for block, channels in (("stage1.0", 8), ("stage2.1", 12)):
        for name, shape in (("down", (2, channels, 1, 1)), ("up", (channels, 2, 1, 1))):
            squeeze[f"{block}.se.{name}.weight"] = shape
            squeeze[f"{block}.se.{name}.bias"] = shape[:1]
    arrays = random_arrays(squeeze, seed=4) | repvgg_arrays()
    for fold in (False, True):
        fused, report = fuse_arrays(arrays, fold_bn=fold)
        assert len(report.fused) == 7
        assert not report.folded
        assert all(fused[key] is arrays[key] for key in squeeze)
        assert not [key for key in fused if "rbr_identity" in key]
