"""Fusing from names and arrays: right by the oracle, complete, and refusing what is not whole."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays, rows
from reparam.checkpoint.blocks import block_tree, find_blocks
from reparam.checkpoint.fusing import Fusing
from reparam.conv import Conv, error_bound, evaluate
from reparam.errors import CheckpointError, NotFusibleError, ReparamError
from tests.weights import cspresnet_arrays, random_arrays, repvgg_arrays

NORM = ("weight", "bias", "_mean", "_variance")


def shapes_of(arrays):
    return {key: array.shape for key, array in arrays.items()}


def block_arrays(family: str, prefix: str = "block.", *, outputs=6, per_group=6, kernel=3,
                 identity=True, alpha=None, seed=0):  # fmt: skip
    """One block under any prefix."""
    wide, point = (outputs, per_group, kernel, kernel), (outputs, per_group, 1, 1)
    names = ("rbr_dense", "rbr_1x1") if family == "RepVGG" else ("conv1", "conv2")
    shapes = {}
    for name, shape in zip(names, (wide, point), strict=True):
        shapes[f"{prefix}{name}.conv.weight"] = shape
        shapes |= {f"{prefix}{name}.bn.{key}": (outputs,) for key in NORM}
    if family == "RepVGG" and identity:
        shapes |= {f"{prefix}rbr_identity.{key}": (outputs,) for key in NORM}
    arrays = random_arrays(shapes, seed)
    if alpha is not None:
        arrays[f"{prefix}alpha"] = np.array([alpha], np.float32)
    return arrays


def assert_right(arrays, fused, epsilon=1e-5, groups=1):
    """The oracle on the block as it was trained equals it on the stored convolution."""
    (match,) = find_blocks(shapes_of(arrays)).blocks
    tree = block_tree(match, arrays, epsilon)
    weight, bias = fused[match.weight_key], fused[match.bias_key]
    conv = Conv.of(weight, bias, padding=[k // 2 for k in weight.shape[2:]], groups=groups)
    x = np.random.default_rng(9).normal(size=(2, weight.shape[1] * groups, 6, 7))
    assert weight.dtype == arrays[match.wide_key].dtype
    bound = error_bound(tree, x, stored=weight.dtype.name)
    assert (np.abs(evaluate(conv, x) - evaluate(tree, x)) <= bound).all()


@pytest.mark.parametrize("alpha", [None, 1.0, 0.37, 0.0, -0.5])
def test_rep_vgg_block_with_alpha(alpha):
    arrays = block_arrays("RepVggBlock", alpha=alpha)
    fused, report = fuse_arrays(arrays)
    assert sorted(fused) == ["block.conv.bias", "block.conv.weight"]
    assert_right(arrays, fused)
    assert report.fused[0].alpha == (None if alpha is None else np.float32(alpha))
    assert any("exactly 0" in notice for notice in report.notices) == (alpha == 0)
    assert any("below 0" in notice for notice in report.notices) == (alpha == -0.5)


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize(("per_group", "groups"), [(6, 1), (3, 2), (2, 3), (1, 6)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_repvgg_blocks(identity, per_group, groups, kernel):
    arrays = block_arrays("RepVGG", identity=identity, per_group=per_group, kernel=kernel)
    fused, report = fuse_arrays(arrays)
    assert sorted(fused) == ["block.rbr_reparam.bias", "block.rbr_reparam.weight"]
    # Without an identity branch nothing tells the groups, and the weight does not depend on them.
    assert report.fused[0].groups == (groups if identity else None)
    assert_right(arrays, fused, groups=groups if identity else 1)


def test_a_block_at_the_root():
    arrays = block_arrays("RepVGG", prefix="")
    fused, report = fuse_arrays(arrays)
    assert sorted(fused) == ["rbr_reparam.bias", "rbr_reparam.weight"]
    assert report.fused[0].where == "(root)"


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_dtype_is_kept(dtype):
    arrays = {k: v.astype(dtype) for k, v in block_arrays("RepVGG").items()}
    fused, _ = fuse_arrays(arrays)
    assert_right(arrays, fused)


def test_epsilon_is_the_family_s_or_the_given_one():
    arrays = block_arrays("RepVGG")
    default, report = fuse_arrays(arrays)
    assert report.epsilon == 1e-5
    assert "PaddleClas" in report.epsilon_source
    assert any("1e-3" in notice for notice in report.notices)  # YOLOv6 spells its blocks alike
    other, report = fuse_arrays(arrays, epsilon=1e-3)
    assert (report.epsilon, report.epsilon_source) == (1e-3, "--epsilon")
    assert_right(arrays, default, epsilon=1e-5)
    assert_right(arrays, other, epsilon=1e-3)
    with pytest.raises(AssertionError):
        assert_right(arrays, other, epsilon=1e-5)  # a wrong epsilon is far outside the bound


@pytest.mark.parametrize("make", [cspresnet_arrays, repvgg_arrays])
class TestWholeNetworks:
    def test_everything_else_is_carried_over(self, make):
        arrays = make()
        kept = {key: array.copy() for key, array in arrays.items()}
        fused, report = fuse_arrays(arrays)
        assert shapes_of(fused) == shapes_of(make(deploy=True))
        carried = set(fused) & set(arrays)
        assert report.carried == len(carried) > 0
        assert all(fused[key] is arrays[key] for key in carried)
        assert not report.left
        assert not report.notices
        assert all(np.array_equal(arrays[key], kept[key]) for key in kept)

    def test_the_order_of_the_file_is_kept(self, make):
        fused, _ = fuse_arrays(make())
        assert list(fused) == list(make(deploy=True))

    def test_twice_is_once(self, make):
        once, first = fuse_arrays(make())
        twice, second = fuse_arrays(once)
        assert list(once) == list(twice)
        assert all(twice[key] is once[key] for key in once)
        assert not second.fused
        assert sorted(second.already) == sorted(block.where for block in first.fused)

    def test_half_fused_is_finished(self, make):
        arrays = make()
        fused, report = fuse_arrays(arrays)
        done = report.fused[0]
        half = {key: array for key, array in arrays.items() if not key.startswith(f"{done.where}.")}
        half |= {key: fused[key] for key in done.keys}
        finished, second = fuse_arrays(half)
        assert second.already == (done.where,)
        assert len(second.fused) == len(report.fused) - 1
        assert {k: a.tobytes() for k, a in finished.items()} == {
            k: a.tobytes() for k, a in fused.items()
        }

    def test_every_key_matters(self, make):
        arrays = make()
        for key in arrays:
            missing = {other: array for other, array in arrays.items() if other != key}
            if key.endswith("alpha"):
                continue  # optional: without it the branch counts once
            with pytest.raises(CheckpointError) as caught:
                fuse_arrays(missing)
            assert key in str(caught.value)

    def test_every_shape_matters(self, make):
        arrays = make()
        for key, array in arrays.items():
            wrong = np.concatenate([array, array], axis=0)
            with pytest.raises(CheckpointError):
                fuse_arrays({**arrays, key: wrong})

    def test_a_renamed_key_is_named(self, make):
        arrays = make()
        key = next(key for key in arrays if key.endswith("bn._mean"))
        arrays[f"{key}_old"] = arrays.pop(key)
        with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            fuse_arrays(arrays)

    def test_values_that_are_not_finite(self, make):
        arrays = make()
        key = list(arrays)[5]
        arrays[key] = arrays[key].copy()
        arrays[key].reshape(-1)[-1] = np.nan
        with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            fuse_arrays(arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("key", ["rbr_dense.conv.weight", "rbr_1x1.conv.weight",
                                 "rbr_identity.weight", "rbr_1x1.bn._variance"])  # fmt: skip
def test_a_kernel_that_is_not_finite_is_the_error_whatever_comes_of_it(key, gamma, value):
    arrays = block_arrays("RepVGG")
    arrays["block.rbr_dense.bn.weight"][:] = gamma  # infinity times 0
    arrays[f"block.{key}"].reshape(-1)[-1] = value
    arrays["block.rbr_1x1.conv.weight"][0] = np.inf  # and infinity minus infinity
    arrays["block.rbr_dense.conv.weight"][0, :, 1, 1] = -np.inf
    with pytest.raises(CheckpointError, match="not finite"):
        fuse_arrays(arrays)


class TestUnknownNetworks:
    def test_blocks_are_found_under_any_prefix(self):
        arrays = block_arrays("RepVggBlock", "neck.fpn.0.") | block_arrays("RepVGG", "body.3.")
        arrays["head.weight"] = np.ones((2, 3), np.float32)
        fused, report = fuse_arrays(arrays)
        assert [block.where for block in report.fused] == ["neck.fpn.0", "body.3"]
        assert report.architecture is None
        assert any("as a whole" in notice for notice in report.notices)
        assert fused["head.weight"] is arrays["head.weight"]

    @pytest.mark.parametrize("missing", ["conv1.conv.weight", "conv2.conv.weight", "conv2.bn.bias"])
    def test_a_block_with_a_key_missing(self, missing):
        arrays = block_arrays("RepVggBlock", "a.b.")
        del arrays[f"a.b.{missing}"]
        with pytest.raises(CheckpointError, match=rf"'a\.b'.*\n.*a\.b\.{missing}"):
            fuse_arrays(arrays)

    def test_two_convolutions_in_a_row_are_no_block(self):
        shapes = {"m.conv1.conv.weight": (8, 4, 3, 3), "m.conv2.conv.weight": (6, 8, 1, 1)}
        shapes |= {f"m.conv1.bn.{key}": (8,) for key in NORM}
        shapes |= {f"m.conv2.bn.{key}": (6,) for key in NORM}
        arrays = random_arrays(shapes)
        fused, report = fuse_arrays(arrays)
        assert list(fused) == list(arrays)
        assert report.left[0].where == "m"
        assert "(6, 8, 1, 1)" in report.left[0].reason

    def test_other_modules_named_alike_are_no_block_and_no_doubt(self):
        shapes = {f"s.{name}.conv.weight": (8, 8, 1, 1) for name in ("conv1", "conv2")}
        shapes |= {f"s.{name}.bn.{key}": (8,) for name in ("conv1", "conv2") for key in NORM}
        shapes |= {"t.conv1.conv.weight": (8, 8, 3, 3), "t.conv2.conv.weight": (8, 8, 3, 3)}
        fused, report = fuse_arrays(random_arrays(shapes))
        assert list(fused) == list(shapes)
        assert not report.fused
        assert not report.left

    def test_an_even_kernel_is_refused(self):
        with pytest.raises(CheckpointError, match="odd kernel"):
            fuse_arrays(block_arrays("RepVGG", kernel=4))

    def test_an_identity_that_no_group_count_allows(self):
        arrays = block_arrays("RepVGG", outputs=6, per_group=4)
        with pytest.raises(CheckpointError, match="any number of groups"):
            fuse_arrays(arrays)

    def test_an_alpha_that_is_no_scalar(self):
        arrays = block_arrays("RepVggBlock")
        arrays["block.alpha"] = np.ones(6, np.float32)
        _, report = fuse_arrays(arrays)
        assert not report.fused
        assert "alpha" in report.left[0].reason


class TestBothForms:
    def test_leftovers(self):
        arrays = block_arrays("RepVGG")
        fused, _ = fuse_arrays(arrays)
        both, report = fuse_arrays({**arrays, **fused})
        assert sorted(both) == sorted(fused)
        assert all(np.array_equal(both[key], fused[key]) for key in fused)
        assert any("earlier fusion" in notice for notice in report.notices)

    def test_placeholders(self):
        arrays = block_arrays("RepVGG")
        fused, _ = fuse_arrays(arrays)
        random = random_arrays(shapes_of(fused), seed=7)
        both, report = fuse_arrays({**random, **arrays})
        assert all(np.array_equal(both[key], fused[key]) for key in fused)
        assert any("placeholder" in notice for notice in report.notices)


def test_subnormals_are_flushed_and_counted():
    arrays = block_arrays("RepVGG", identity=False)
    for name in ("rbr_dense.bn.weight", "rbr_1x1.bn.weight"):
        arrays[f"block.{name}"][2] = 1e-40  # a dead channel
    fused, report = fuse_arrays(arrays)
    weight = fused["block.rbr_reparam.weight"]
    assert report.fused[0].flushed == weight[2].size
    assert not weight[2].any()
    values = np.abs(np.concatenate([array.ravel() for array in fused.values()]))
    assert not ((values > 0) & (values < np.finfo(np.float32).smallest_normal)).any()
    assert_right(arrays, fused)


def test_a_variance_that_cannot_be_is_placed(monkeypatch):
    arrays = block_arrays("RepVGG")
    arrays["block.rbr_1x1.bn._variance"][4] = -0.5
    monkeypatch.setattr(rows, "_PART", 60)
    with pytest.raises(ReparamError, match=r"block 'block'.*-0\.5 at channel 4"):
        fuse_arrays(arrays)


@pytest.mark.parametrize("order", ["F", ">"])
def test_arrays_in_another_order(order):
    arrays = block_arrays("RepVGG")
    if order == "F":
        other = {key: np.asfortranarray(array) for key, array in arrays.items()}
    else:
        other = {key: array.astype(">f4") for key, array in arrays.items()}
    expected, found = fuse_arrays(arrays)[0], fuse_arrays(other)[0]
    assert {k: a.tobytes() for k, a in found.items()} == {
        k: a.tobytes() for k, a in expected.items()
    }
    assert all(array.dtype == np.float32 and array.dtype.isnative for array in found.values())


def test_a_network_that_was_never_trained_is_told():
    arrays = block_arrays("RepVGG")
    for key in arrays:
        if key.endswith("_mean"):
            arrays[key] = np.zeros_like(arrays[key])
        if key.endswith("_variance"):
            arrays[key] = np.ones_like(arrays[key])
    _, report = fuse_arrays(arrays)
    assert any("never trained" in notice for notice in report.notices)


@pytest.mark.parametrize(
    ("dtype", "error", "said"),
    [
        (np.uint16, CheckpointError, "bfloat16"),
        (np.int32, CheckpointError, "int32"),
        (np.float16, NotFusibleError, r"block 'block'.*\n.*float16 holds 65504"),
    ],
)
def test_weights_that_do_not_fit_their_dtype(dtype, error, said):
    arrays = block_arrays("RepVGG")
    key = "block.rbr_dense.conv.weight"
    arrays[key] = (arrays[key] * 1e4).astype(dtype)
    arrays["block.rbr_dense.bn._variance"] = np.full(6, 1e-3, np.float32)
    arrays["block.rbr_dense.bn.weight"] = np.full(6, 10, np.float32)
    with pytest.raises(error, match=said):
        fuse_arrays(arrays)


def test_the_table_of_static_names_follows():
    arrays = block_arrays("RepVggBlock") | {"head.weight": np.ones((2, 2), np.float32)}
    names = {key: f"{key.replace('.', '_')}.w_0" for key in arrays}
    assert Fusing(arrays).names(names) == {
        "head.weight": "head_weight.w_0",
        "block.conv.weight": "block_conv1_conv_weight.w_0",
        "block.conv.bias": "block_conv1_conv_weight.b_0",
    }
