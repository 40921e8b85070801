"""OREPA's kernels, generated from learned arrays, against the code's own sums of products."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import STRIDES, Block, assert_fuses

EXPAND = 8  # channels that the depthwise kernel makes of each


def add_arrays(block, inputs, outputs, kernel, stem, inside, *, internal=None, groups=1, point):
    """Add what generates one kernel, under the names of OREPA."""
    rng, width = block.rng, inputs // groups
    internal = internal or inputs

    def add(name, *shape):
        block.add(stem + name, rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))

    add("origin", outputs, width, kernel, kernel)
    add("avg_conv", outputs, width, 1, 1)
    block.add(f"{stem}avg_avg", np.full((kernel, kernel), 1 / kernel**2))
    add("pfir_conv", outputs, width, 1, 1)
    add("prior", outputs, kernel, kernel)
    if internal == inputs:
        add("1x1_kxk_idconv1", inputs, width, 1, 1)
        one = np.zeros((inputs, width, 1, 1))
        one[np.arange(inputs), np.arange(inputs) % width] = 1
        block.add(f"{inside}id_tensor", one)
    else:
        add("1x1_kxk_conv1", internal, width, 1, 1)
    add("1x1_kxk_conv2", outputs, internal // groups, kernel, kernel)
    if point:
        add("1x1", outputs, width, 1, 1)
    add("gconv_dw", EXPAND * inputs, 1, kernel, kernel)
    add("gconv_pw", outputs, EXPAND * inputs // groups, 1, 1)
    block.add(f"{inside}vector", rng.normal(size=(6 if point else 5, outputs)))


def generated(block, stem, inside, *, point):
    """Return the kernel of a block of one group, summed up from its arrays as numbers."""

    def of(name):
        return block.get(stem + name).numpy()

    rows = list(block.get(f"{inside}vector").numpy())
    parts = [of("origin")]
    parts.append(of("avg_conv") * of("avg_avg"))
    parts.append(of("pfir_conv") * of("prior")[:, None])
    first = f"{stem}1x1_kxk_idconv1"
    if block.prefix + first in block.arrays:
        one = (block.get(first) + block.get(f"{inside}id_tensor")).numpy()
    else:
        one = of("1x1_kxk_conv1")
    parts.append(np.einsum("ti,othw->oihw", one[:, :, 0, 0], of("1x1_kxk_conv2")))
    if point:
        centre = np.zeros_like(parts[0])
        centre[:, :, centre.shape[2] // 2, centre.shape[3] // 2] = of("1x1")[:, :, 0, 0]
        parts.append(centre)
    dw, pw = of("gconv_dw")[:, 0], of("gconv_pw")[:, :, 0, 0]
    inputs = len(dw) // EXPAND
    dw = dw.reshape(inputs, EXPAND, *dw.shape[1:])
    pw = pw.reshape(len(pw), inputs, EXPAND)
    parts.append(np.einsum("ithw,oit->oihw", dw, pw))
    return sum(part * row.reshape(-1, 1, 1, 1) for part, row in zip(parts, rows, strict=True))


def orepa(inputs, outputs, kernel, *, internal=None, **options):
    block = Block(**options)
    add_arrays(block, inputs, outputs, kernel, "weight_orepa_", "", internal=internal, point=True)
    block.add_norm("bn", outputs)

    def forward(x, stride, dilation):
        weight = paddle.to_tensor(generated(block, "weight_orepa_", "", point=True))
        return block.norm(
            F.conv2d(x, weight, None, stride, dilation * (kernel // 2), dilation), "bn"
        )

    return block, forward


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (2, 6), (6, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("internal", [None, 5])
@pytest.mark.parametrize("spelling", ["torch", "paddle"])
def test_orepa(kernel, inputs, outputs, internal, spelling):
    block, forward = orepa(inputs, outputs, kernel, internal=internal, spelling=spelling)
    fused = assert_fuses(block, forward, family="OREPA", dilations=(1, 2))
    assert sorted(fused) == ["b.orepa_reparam.bias", "b.orepa_reparam.weight"]
    assert fuse_arrays(fused)[1].already == ("b",)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_any_channel_counts(seed, inputs, outputs, internal):
    block, forward = orepa(inputs, outputs, 3, internal=internal, seed=seed, spelling="torch")
    assert_fuses(block, forward, family="OREPA", strides=STRIDES[:1])


def test_buffers_are_taken_as_they_are_stored():
    """``avg_avg``, ``prior`` and ``id_tensor`` are in the file, so no formula is assumed."""
    block, forward = orepa(4, 4, 3)
    for name in ("weight_orepa_avg_avg", "weight_orepa_prior", "id_tensor"):
        block.add(name, block.rng.normal(size=block.arrays[f"b.{name}"].shape))
    assert_fuses(block, forward, family="OREPA")


def test_several_groups_are_refused():
    """OREPA's code deals the rows of gconv_pw out to the groups in another order than a
    grouped convolution has them, so such a block is none that the sum describes."""
    block = Block(spelling="torch")
    add_arrays(block, 4, 4, 3, "weight_orepa_", "", groups=2, point=True)
    block.add_norm("bn", 4)
    with pytest.raises(CheckpointError, match="block 'b'") as caught:
        fuse_arrays(block.arrays)
    assert "2 groups; needed: 1" in caught.value.found


@pytest.mark.parametrize(
    "key",
    [
        "weight_orepa_origin",
        "weight_orepa_avg_avg",
        "weight_orepa_prior",
        "weight_orepa_1x1_kxk_idconv1",
        "weight_orepa_gconv_pw",
        "vector",
        "id_tensor",
        "bn.bias",
    ],
)
def test_a_damaged_block_is_refused(key):
    block, _ = orepa(4, 4, 3)
    lacking = {name: array for name, array in block.arrays.items() if name != f"b.{key}"}
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(lacking)
    block.add(key, block.arrays[f"b.{key}"][..., :-1])
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(block.arrays)


def repconv(inputs, outputs, *, identity, internal=None, **options):
    block = Block(**options)
    stem, inside = "rbr_dense.weight_rbr_", "rbr_dense."
    add_arrays(block, inputs, outputs, 3, stem, inside, internal=internal, point=False)
    block.add_norm("rbr_dense.bn", outputs)
    block.add_conv_norm("rbr_1x1", (outputs, inputs, 1, 1))
    if identity:
        block.add_norm("rbr_identity", inputs)

    def forward(x, stride, dilation):
        weight = paddle.to_tensor(generated(block, stem, inside, point=False))
        y = block.norm(F.conv2d(x, weight, None, stride, 1), "rbr_dense.bn")
        y = y + block.conv_norm(x, "rbr_1x1", stride=stride)
        return y + block.norm(x, "rbr_identity") if identity else y

    return block, forward


@pytest.mark.parametrize("internal", [None, 7])
@pytest.mark.parametrize(("outputs", "identity"), [(4, True), (4, False), (6, False)])
def test_repconv_orepa(outputs, identity, internal):
    block, forward = repconv(
        4, outputs, identity=identity, internal=internal, spelling="torch", epsilon=1e-3
    )
    fused = assert_fuses(
        block,
        forward,
        family="RepConv_OREPA",
        strides=((1, 1),) if identity else STRIDES,
        options={"epsilon": 1e-3},
    )
    assert sorted(fused) == ["b.rbr_reparam.bias", "b.rbr_reparam.weight"]


def test_the_epsilon_of_repconv_orepa_is_asked():
    block, _ = repconv(4, 4, identity=True, spelling="torch", prefix="model.75.")
    with pytest.raises(CheckpointError, match="epsilon") as caught:
        fuse_arrays(block.arrays)
    assert "0.001: RepConv_OREPA of YOLOv7" in caught.value.found
    assert "'model.75" in caught.value.found


def test_a_damaged_repconv_is_refused():
    for key in ("rbr_dense.weight_rbr_prior", "rbr_1x1.conv.weight", "rbr_dense.bn.running_mean"):
        block, _ = repconv(4, 4, identity=True, spelling="torch")
        del block.arrays[f"b.{key}"]
        with pytest.raises(CheckpointError, match="block 'b'"):
            fuse_arrays(block.arrays, epsilon=1e-3)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (2, 6), (6, 2)])
def test_one_tap(inputs, outputs):
    block = Block(spelling="torch")
    middle = inputs if outputs > inputs else outputs
    for name, shape in (
        ("origin", (outputs, inputs, 1, 1)),
        ("l2i_conv1", (middle, inputs, 1, 1)),
        ("l2i_conv2", (outputs, middle, 1, 1)),
    ):
        block.add(f"weight_or1x1_{name}", block.rng.normal(size=shape))
    block.add("vector", block.rng.normal(size=(2, outputs)))
    block.add_norm("bn", outputs)

    def forward(x, stride, dilation):
        one, two = (block.get(f"weight_or1x1_l2i_conv{n}") for n in (1, 2))
        rows = block.get("vector").reshape([2, -1, 1, 1])
        y = F.conv2d(x, block.get("weight_or1x1_origin"), None, stride) * rows[:1]
        return block.norm(y + F.conv2d(F.conv2d(x, one, None, stride), two) * rows[1:], "bn")

    fused = assert_fuses(block, forward, family="OREPA_1x1")
    assert sorted(fused) == ["b.or1x1_reparam.bias", "b.or1x1_reparam.weight"]
