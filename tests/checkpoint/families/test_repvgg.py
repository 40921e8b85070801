"""RepVGG's three branches under every project's names, against their forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses


@dataclass(frozen=True)
class Names:
    """How a project names the branches.

    ``epsilon`` is the family's own in PyTorch's spelling; None where it has to be given.
    ``always`` says that only blocks with an identity are of this family.
    """

    family: str
    wide: str
    point: str
    identity: str = ""
    conv: str = "conv"
    norm: str = "bn"
    alpha: bool = False
    epsilon: float | None = 1e-5
    paddle: float = 1e-5
    always: bool = False
    point_kernels: bool = False

    def option(self, spelling: str) -> dict:
        asked = spelling == "torch" and self.epsilon is None
        return {"epsilon": 1e-3} if asked else {}

    def epsilon_in(self, spelling: str) -> float:
        if spelling == "paddle":
            return self.paddle
        return 1e-3 if self.epsilon is None else self.epsilon


ALL = (
    Names("RepVGG", "rbr_dense", "rbr_1x1", "rbr_identity", alpha=True, epsilon=None),
    Names("RepVggBlock", "conv1", "conv2", alpha=True, epsilon=None),
    Names("RepVGG (mmpretrain)", "branch_3x3", "branch_1x1", "branch_norm", norm="norm"),
    Names(
        "RepVGG (super-gradients)",
        "branch_3x3",
        "branch_1x1",
        "no_conv_branch",
        alpha=True,
        epsilon=None,
    ),
    Names("RepVGG (timm)", "conv_kxk", "conv_1x1", "identity", point_kernels=True),
    Names("RepVGG (PaddleSlim)", "rbr_conv", "rbr_scale", "rbr_skip", point_kernels=True),
    Names(
        "RepConv",
        "rbr_dense",
        "rbr_1x1",
        "rbr_identity",
        conv="0",
        norm="1",
        epsilon=1e-3,
        paddle=1e-3,
    ),
    Names("RepConv (ultralytics)", "conv1", "conv2", "bn", epsilon=1e-3, paddle=1e-3, always=True),
    Names("RepVggBlock (RT-DETR)", "conv1", "conv2", norm="norm"),
)
CASES = [
    pytest.param(names, identity, id=f"{names.family}{' with identity' if identity else ''}")
    for names in ALL
    for identity in (False, True)
    if (names.identity or not identity) and (identity or not names.always)
]


def three_branches(
    names, *, channels=6, outputs=None, groups=1, kernel=3, identity=False, alpha=None, **options
):
    outputs = channels if identity or outputs is None else outputs
    spelling = options.get("spelling", "paddle")
    options.setdefault("epsilon", names.epsilon_in(spelling))
    block = Block(**options)
    words = (names.conv, names.norm)
    block.add_conv_norm(names.wide, (outputs, channels // groups, kernel, kernel), *words)
    block.add_conv_norm(names.point, (outputs, channels // groups, 1, 1), *words)
    if identity:
        block.add_norm(names.identity, channels)
    if alpha is not None:
        block.add("alpha", [alpha])

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups, "conv": names.conv, "norm": names.norm}
        y = block.conv_norm(x, names.wide, dilation=dilation, **geometry)
        factor = 1.0 if alpha is None else float(np.float32(alpha))
        y = y + factor * block.conv_norm(x, names.point, **geometry)
        return y + block.norm(x, names.identity) if identity else y

    return block, forward


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("names", "identity"), CASES)
def test_three_branches(names, identity, groups, spelling):
    for kernel in (3, 5, 7):
        block, forward = three_branches(
            names, groups=groups, kernel=kernel, identity=identity, spelling=spelling, outputs=12
        )
        fused = assert_fuses(
            block,
            forward,
            family=names.family,
            groups=groups,
            strides=((1, 1),) if identity else STRIDES,
            dilations=(1, 2),
            options=names.option(spelling),
        )
        assert len(fused) == 2


@pytest.mark.parametrize("names", [n for n in ALL if n.point_kernels], ids=lambda n: n.family)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_wide_kernel_of_one_tap(names, groups):
    block, forward = three_branches(names, kernel=1, identity=True, groups=groups)
    strides = ((1, 1),)
    assert_fuses(block, forward, family=names.family, groups=groups, strides=strides)


@pytest.mark.parametrize("alpha", [0.0, 0.37, 1.0, -1.25])
@pytest.mark.parametrize("names", [n for n in ALL if n.alpha], ids=lambda n: n.family)
def test_alpha_is_a_factor_of_the_branch_of_one_tap(names, alpha):
    for spelling in SPELLINGS:
        block, forward = three_branches(names, alpha=alpha, spelling=spelling, outputs=4)
        fused = assert_fuses(block, forward, family=names.family, options=names.option(spelling))
        assert "b.alpha" not in fused


@settings(max_examples=30, deadline=None)
@given(
    names=st.sampled_from(ALL),
    groups=st.sampled_from([1, 2, 4]),
    per_group=st.integers(1, 3),
    multiple=st.integers(1, 3),
    kernel=st.sampled_from([3, 5]),
    spelling=st.sampled_from(SPELLINGS),
    identity=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_geometry(names, groups, per_group, multiple, kernel, spelling, identity, seed):
    identity = names.always or (identity and bool(names.identity))
    block, forward = three_branches(
        names,
        channels=groups * per_group,
        outputs=groups * multiple,
        groups=groups,
        kernel=kernel,
        identity=identity,
        spelling=spelling,
        seed=seed,
    )
    options = names.option(spelling)
    strides = ((1, 1),) if identity else ((2, 1),)
    assert_fuses(
        block, forward, family=names.family, groups=groups, strides=strides, options=options
    )


class TestRepOptimizers:
    """The baseline of RepOptimizers, whose names are flat."""

    @pytest.mark.parametrize("spelling", SPELLINGS)
    @pytest.mark.parametrize("identity", [True, False])
    def test_flat_names(self, identity, spelling):
        block = Block(spelling=spelling)
        outputs = 4 if identity else 6
        for name, size in (("3x3", 3), ("1x1", 1)):
            block.add_conv(f"conv_{name}", (outputs, 4, size, size))
            block.add_norm(f"bn_{name}", outputs)
        if identity:
            block.add_norm("bn_identity", 4)

        def forward(x, stride, dilation):
            wide = block.conv(x, "conv_3x3", stride=stride, dilation=dilation)
            y = block.norm(wide, "bn_3x3")
            y = y + block.norm(block.conv(x, "conv_1x1", stride=stride), "bn_1x1")
            return y + block.norm(x, "bn_identity") if identity else y

        strides = ((1, 1),) if identity else STRIDES
        family = "RepVGG (RepOptimizers)"
        fused = assert_fuses(block, forward, family=family, strides=strides, dilations=(1, 2))
        assert sorted(fused) == ["b.conv.bias", "b.conv.weight"]


class TestSlimRep:
    """PaddleSlim's: kernels of falling size, a column, a row and the identity."""

    @staticmethod
    def block(kernel, groups, identity, **options):
        block = Block(**options)
        shape = (4, 4 // groups)
        sizes = range(kernel, 0, -2)
        for index, size in enumerate(sizes):
            block.add_conv_norm(f"rbr_conv.{index}", (*shape, size, size))
        block.add_conv_norm("ver_branch", (*shape, kernel, 1))
        block.add_conv_norm("hor_branch", (*shape, 1, kernel))
        if identity:
            block.add_norm("rbr_skip", 4)
        names = [*(f"rbr_conv.{i}" for i in range(len(sizes))), "ver_branch", "hor_branch"]

        def forward(x, stride, dilation):
            y = sum(
                block.conv_norm(x, name, stride=stride, dilation=dilation, groups=groups)
                for name in names
            )
            return y + block.norm(x, "rbr_skip") if identity else y

        return block, forward

    @pytest.mark.parametrize("identity", [True, False])
    @pytest.mark.parametrize("groups", [1, 2, 4])
    @pytest.mark.parametrize("kernel", [1, 3, 5, 7])
    def test_all_branches_count(self, kernel, groups, identity):
        for spelling in SPELLINGS:
            block, forward = self.block(kernel, groups, identity, spelling=spelling)
            strides = ((1, 1),) if identity else STRIDES
            assert_fuses(block, forward, family="SlimRep", groups=groups, strides=strides)

    def test_paddleslim_fuses_the_first_convolution_alone(self):
        # Its loop over branches ends at the number of branches of one size, which is 1.
        block, _ = self.block(3, 1, identity=False)
        ours = fuse_arrays(block.arrays)[0]["b.reparam_conv.weight"]
        theirs, _ = self.block(3, 1, identity=False)
        for key in list(theirs.arrays):
            if key.startswith("b.rbr_conv.1.") and not key.endswith("_variance"):
                theirs.arrays[key][...] = 0
        wrong = fuse_arrays(theirs.arrays)[0]["b.reparam_conv.weight"]
        assert np.abs(ours - wrong).max() > 0.1


def test_paddleslim_s_identity_is_of_a_depthwise_block_everywhere():
    # A kernel (C, 1, k, k), added to one of (C, C, k, k), reaches every input channel.
    names = next(n for n in ALL if n.family == "RepVGG (PaddleSlim)")
    block, forward = three_branches(names, identity=True)
    fused = assert_fuses(block, forward, family=names.family, strides=((1, 1),))
    weight = fused["b.reparam_conv.weight"]
    gain = block.get("rbr_skip.weight").numpy() / np.sqrt(
        block.get("rbr_skip._variance").numpy() + block.epsilon
    )
    theirs = weight.copy()
    theirs[:, :, 1, 1] += gain[:, None] * (1 - np.eye(6))
    assert np.abs(theirs - weight).max() > 0.1


class TestFoldedByYOLOv6:
    """YOLOv6's own fusing of conv-bn pairs leaves biases where BatchNorms were."""

    @pytest.mark.parametrize("groups", [1, 2])
    @pytest.mark.parametrize("identity", [True, False])
    def test_biases_in_the_place_of_norms(self, identity, groups):
        block = Block(spelling="torch", epsilon=1e-3)
        for name, size in (("rbr_dense", 3), ("rbr_1x1", 1)):
            block.add_conv(f"{name}.conv", (4, 4 // groups, size, size), bias=True)
        if identity:
            block.add_norm("rbr_identity", 4)

        def forward(x, stride, dilation):
            geometry = {"stride": stride, "groups": groups}
            y = block.conv(x, "rbr_dense.conv", dilation=dilation, **geometry)
            y = y + block.conv(x, "rbr_1x1.conv", **geometry)
            return y + block.norm(x, "rbr_identity") if identity else y

        strides = ((1, 1),) if identity else STRIDES
        family = "RepVGG with folded BatchNorms"
        assert_fuses(block, forward, family=family, groups=groups, strides=strides)

    def test_norms_that_are_gone_without_a_bias_are_damage(self):
        names = ALL[0]
        block, _ = three_branches(names)
        arrays = {key: value for key, value in block.arrays.items() if ".bn." not in key}
        with pytest.raises(CheckpointError, match="is not whole"):
            fuse_arrays(arrays)


class TestWhatIsNoBlock:
    def test_bottlerep_keeps_its_alpha_and_its_blocks_are_fused(self):
        # YOLOv6: conv2(conv1(x)) + alpha * x. A ReLU stands between, so alpha is no part of a sum.
        arrays = {}
        for name in ("conv1", "conv2"):
            block, _ = three_branches(ALL[0], identity=True, prefix=f"m.conv1.{name}.")
            arrays |= block.arrays
        arrays["m.conv1.alpha"] = np.array([0.37], np.float32)
        fused, report = fuse_arrays(arrays)
        assert [one.where for one in report.fused] == ["m.conv1.conv1", "m.conv1.conv2"]
        assert fused["m.conv1.alpha"] is arrays["m.conv1.alpha"]
        assert all(one.alpha is None for one in report.fused)

    @pytest.mark.parametrize("second", [(6, 6, 3, 3), (6, 3, 1, 1), (12, 6, 1, 1)])
    def test_two_convolutions_in_a_row_are_none(self, second):
        block = Block()
        block.add_conv_norm("conv1", (6, 6, 3, 3))
        block.add_conv_norm("conv2", second)
        block.add("alpha", [0.5])
        fused, report = fuse_arrays(block.arrays)
        assert not report.fused
        assert fused.keys() == block.arrays.keys()

    def test_mobilevit_has_a_conv_kxk_too(self):
        # A wide convolution and one of one tap in a row, the second without BatchNorm.
        block = Block(spelling="torch")
        block.add_conv_norm("conv_kxk", (6, 6, 3, 3))
        block.add_conv("conv_1x1", (8, 6, 1, 1))
        block.add_norm("norm", 8)
        fused, report = fuse_arrays(block.arrays)
        assert not report.fused
        assert fused.keys() == block.arrays.keys()

    def test_an_even_kernel_is_refused(self):
        block, _ = three_branches(ALL[0], kernel=2)
        with pytest.raises(CheckpointError, match="with an odd kernel"):
            fuse_arrays(block.arrays)

    def test_groups_that_do_not_divide_are_refused(self):
        block, _ = three_branches(ALL[0], identity=True)
        for name, size in (("rbr_dense", 3), ("rbr_1x1", 1)):
            block.add_conv(f"{name}.conv", (6, 4, size, size))
        with pytest.raises(CheckpointError, match="do not allow in any number of groups"):
            fuse_arrays(block.arrays)


COMMON = ("conv1", "conv_kxk")  # words that other modules use too


@pytest.mark.parametrize("names", ALL, ids=lambda n: n.family)
def test_an_unknown_branch_is_never_dropped(names):
    block, _ = three_branches(names, identity=bool(names.identity))
    arrays = block.arrays | {"b.branch_5x5.conv.weight": np.ones((6, 6, 5, 5), np.float32)}
    if names.wide in COMMON:
        _, report = fuse_arrays(arrays)
        assert not report.fused
        assert "b.branch_5x5.conv.weight" in report.left[0].reason
    else:
        with pytest.raises(CheckpointError, match="holds what no such block has") as error:
            fuse_arrays(arrays)
        assert "b.branch_5x5.conv.weight" in error.value.found


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("RepVGG", "se.down"),
        ("RepVGG", "post_se.up"),
        ("RepVGG (mmpretrain)", "se_layer.conv1.conv"),
        ("RepVGG (super-gradients)", "se.fc1"),
        ("RepVGG (timm)", "attn.fc"),
    ],
)
def test_an_attention_stays(family, attention):
    names = next(names for names in ALL if names.family == family)
    block, _ = three_branches(names, identity=True)
    key = f"b.{attention}.weight"
    arrays = block.arrays | {key: np.ones((6, 6, 1, 1), np.float32)}
    fused, report = fuse_arrays(arrays)
    assert len(report.fused) == 1
    assert fused[key] is arrays[key]
