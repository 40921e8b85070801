"""QARepVGG and RepOpt, whose last BatchNorm stands after the sum, against their forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import SPELLINGS, STRIDES, Block, assert_fuses

SQUARE = ("QARepVGG", "QARepVGG (no identity)", "QARepVGG V2 (YOLOv6)")


def v2(*, channels=4, outputs=4, groups=1, identity=True, average=False, kernel=3, **options):
    """The default block: one BatchNorm on the wide branch, and one after the sum."""
    block = Block(**options)
    block.add_conv_norm("rbr_dense", (outputs, channels // groups, kernel, kernel))
    block.add_conv("rbr_1x1", (outputs, channels // groups, 1, 1))
    block.add_norm("bn", outputs)

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups}
        y = block.conv_norm(x, "rbr_dense", dilation=dilation, **geometry)
        y = y + block.conv(x, "rbr_1x1", **geometry)
        y = y + x if identity else y
        if average:
            y = y + F.avg_pool2d(x, kernel, 1, kernel // 2, exclusive=False)
        return block.norm(y, "bn")

    return block, forward


def options(spelling, *families):
    epsilon = {"epsilon": 1e-3} if spelling == "torch" else {}
    return {**epsilon, "families": list(families)}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_identity_where_the_user_says_so(spelling):
    epsilon = 1e-3 if spelling == "torch" else 1e-5
    made = {"spelling": spelling, "epsilon": epsilon}
    one = ((1, 1),)
    for kernel in (3, 5):
        block, forward = v2(kernel=kernel, **made)
        chosen = options(spelling, "QARepVGG")
        assert_fuses(block, forward, family="QARepVGG", strides=one, options=chosen)
        block, forward = v2(kernel=kernel, identity=False, **made)
        chosen = options(spelling, "QARepVGG (no identity)")
        assert_fuses(block, forward, family="QARepVGG (no identity)", options=chosen)
        block, forward = v2(channels=6, outputs=6, groups=3, kernel=kernel, **made)
        chosen = options(spelling, "QARepVGG (grouped)")
        grouped = {"groups": 3, "strides": one, "options": chosen}
        assert_fuses(block, forward, family="QARepVGG (grouped)", **grouped)


def test_the_average_of_yolov6_counts_padding():
    block, forward = v2(average=True, spelling="torch", epsilon=1e-3)
    name = "QARepVGG V2 (YOLOv6)"
    fused = assert_fuses(
        block, forward, family=name, strides=((1, 1),), options=options("torch", name)
    )
    other, _ = fuse_arrays(block.arrays, **options("torch", "QARepVGG"))
    weight = "b.rbr_reparam.weight"
    gain = block.arrays["b.bn.weight"] / np.sqrt(block.arrays["b.bn.running_var"] + 1e-3)
    ninth = np.einsum("oi,o->oi", np.eye(4), gain)[:, :, None, None] / 9
    np.testing.assert_allclose(fused[weight] - other[weight], ninth * np.ones((3, 3)), atol=1e-6)


def test_what_leaves_no_trace_is_asked_for():
    block, _ = v2()
    with pytest.raises(CheckpointError, match="of several families") as error:
        fuse_arrays(block.arrays)
    assert all(f"--family '{name}'" in error.value.hint for name in SQUARE)
    widening, forward = v2(channels=4, outputs=6, identity=False)
    assert_fuses(widening, forward, family="QARepVGG (no identity)", strides=STRIDES)
    doubling, _ = v2(channels=4, outputs=8, identity=False)
    with pytest.raises(CheckpointError) as error:
        fuse_arrays(doubling.arrays)  # or eight channels in two groups
    assert "QARepVGG (grouped) and QARepVGG (no identity)" in error.value.found


def test_a_whole_network_takes_its_families_in_order():
    arrays = {}
    for prefix, channels, outputs in (("0.", 4, 8), ("1.", 8, 8)):
        block, _ = v2(channels=channels, outputs=outputs, prefix=prefix)
        arrays |= block.arrays
    _, report = fuse_arrays(arrays, families=["QARepVGG", "QARepVGG (no identity)"])
    assert [one.family for one in report.fused] == ["QARepVGG (no identity)", "QARepVGG"]


@pytest.mark.parametrize("identity", [True, False])
def test_v1_folds_the_norm_after_three_branches(identity):
    block = Block()
    for name, size in (("rbr_dense", 3), ("rbr_1x1", 1)):
        block.add_conv_norm(name, (4, 2, size, size))
    if identity:
        block.add_norm("rbr_identity", 4)
    block.add_norm("bn", 4)

    def forward(x, stride, dilation):
        names = ("rbr_dense", "rbr_1x1")
        y = sum(block.conv_norm(x, name, stride=stride, groups=2) for name in names)
        y = y + block.norm(x, "rbr_identity") if identity else y
        return block.norm(y, "bn")

    strides = ((1, 1),) if identity else STRIDES
    assert_fuses(block, forward, family="QARepVGG V1", groups=2, strides=strides)


@pytest.mark.parametrize("families", [[], ["QARepVGG"]])
@pytest.mark.parametrize("name", ["se.down.weight", "rbr_1x1.bias"])
def test_what_stands_between_is_not_folded_across(name, families):
    # An attention before the last norm, across which its own switch_to_deploy folds; the bias of
    # GRERepVGGBlock, whose norm stands over the branch of one tap and the identity alone.
    block, _ = v2()
    block.add(name, np.ones(4))
    with pytest.raises(CheckpointError, match="between what would be one convolution") as error:
        fuse_arrays(block.arrays, families=families)
    assert f"b.{name}" in error.value.found
    _, report = fuse_arrays(block.arrays, skip=["b"])
    assert [one.where for one in report.left] == ["b"]


def test_an_attention_in_v1_is_not_folded_across():
    block = Block()
    for name, size in (("rbr_dense", 3), ("rbr_1x1", 1)):
        block.add_conv_norm(name, (4, 4, size, size))
    block.add_norm("bn", 4)
    block.add_conv("se.down", (1, 4, 1, 1))
    with pytest.raises(CheckpointError) as error:
        fuse_arrays(block.arrays)
    assert "b." in error.value.found


def super_gradients(*, groups=1, identity=True, alpha=0.37, bias=True, last=True, **made):
    block = Block(**made)
    block.add_conv_norm("branch_3x3", (4, 4 // groups, 3, 3))
    block.add_conv("branch_1x1", (4, 4 // groups, 1, 1), bias=bias)
    if alpha is not None:
        block.add("alpha", [alpha])
    if last:
        block.add_norm("post_bn", 4)
    block.add_conv("rbr_reparam", (4, 4 // groups, 3, 3), bias=True)  # random, never used

    def forward(x, stride, dilation):
        geometry = {"stride": stride, "groups": groups}
        factor = 1.0 if alpha is None else float(np.float32(alpha))
        y = block.conv_norm(x, "branch_3x3", dilation=dilation, **geometry)
        y = y + factor * block.conv(x, "branch_1x1", **geometry)
        y = y + x if identity else y
        return block.norm(y, "post_bn") if last else y

    return block, forward


@pytest.mark.parametrize("alpha", [None, 0.0, 0.37, 1.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_super_gradients(alpha, bias, last):
    name = "QARepVGG (super-gradients{})"
    cases = ((1, True, ""), (2, True, ", grouped"), (1, False, ", no identity"))
    for groups, identity, kind in cases:
        family = name.format(kind)
        for spelling in SPELLINGS:
            block, forward = super_gradients(
                groups=groups, identity=identity, alpha=alpha, bias=bias, last=last,
                spelling=spelling, epsilon=1e-3,
            )  # fmt: skip
            chosen = {"epsilon": 1e-3, "families": [family]}
            strides = ((1, 1),) if identity else STRIDES
            fused = assert_fuses(
                block, forward, family=family, groups=groups, strides=strides, options=chosen
            )
            assert sorted(fused) == ["b.rbr_reparam.bias", "b.rbr_reparam.weight"]


def test_a_placeholder_of_super_gradients_is_told():
    block, _ = super_gradients()
    _, report = fuse_arrays(block.arrays, families=["QARepVGG (super-gradients)"])
    told = [notice for notice in report.notices if "b.rbr_reparam.weight" in notice]
    assert len(told) == 1
    assert "a placeholder" in told[0]


def test_the_epsilon_of_yolo_nas_is_asked_for():
    block, _ = super_gradients(spelling="torch")
    with pytest.raises(CheckpointError, match="does not tell the epsilon") as error:
        fuse_arrays(block.arrays, families=["QARepVGG (super-gradients)"])
    assert "0.001: YOLO-NAS; 1e-06: YOLO-NAS-POSE" in error.value.found


def repopt(*, channels=4, outputs=4, kernel=3, identity=True, **made):
    block = Block(**made)
    for name, size, scale in (("conv", kernel, "scale_conv"), ("conv_1x1", 1, "scale_1x1")):
        block.add_conv(name, (outputs, channels, size, size))
        block.add(f"{scale}.weight", block.rng.normal(size=outputs))
    if identity:
        block.add("scale_identity.weight", block.rng.normal(size=channels))
    block.add_norm("bn", outputs)

    def scaled(y, name):
        return y * block.get(f"{name}.weight").reshape([1, -1, 1, 1])

    def forward(x, stride, dilation):
        y = scaled(block.conv(x, "conv", stride=stride, dilation=dilation), "scale_conv")
        y = y + scaled(block.conv(x, "conv_1x1", stride=stride), "scale_1x1")
        y = y + scaled(x, "scale_identity") if identity else y
        return block.norm(y, "bn")

    return block, forward


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(2, 5),
    outputs=st.integers(1, 7),
    kernel=st.sampled_from([3, 5, 7]),
    identity=st.booleans(),
    spelling=st.sampled_from(SPELLINGS),
    seed=st.integers(0, 99),
)
def test_repopt(channels, outputs, kernel, identity, spelling, seed):
    epsilon = {"epsilon": 1e-3} if spelling == "torch" else {}
    block, forward = repopt(
        channels=channels, outputs=channels if identity else outputs, kernel=kernel,
        identity=identity, spelling=spelling, seed=seed, **epsilon,
    )  # fmt: skip
    strides = ((1, 1),) if identity else ((2, 1),)
    fused = assert_fuses(
        block, forward, family="RepOpt", strides=strides, dilations=(1, 2), options=epsilon
    )
    assert sorted(fused) == ["b.conv.bias", "b.conv.weight"]


def test_the_target_of_repopt_is_no_block():
    block = Block()
    block.add_conv("conv", (4, 4, 3, 3))
    block.add_norm("bn", 4)
    _, report = fuse_arrays(block.arrays)
    assert not report.fused


def test_repopt_without_one_scale_is_refused():
    block, _ = repopt()
    del block.arrays["b.scale_1x1.weight"]
    with pytest.raises(CheckpointError, match="is not whole"):
        fuse_arrays(block.arrays)
