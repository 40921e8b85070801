"""Edge-oriented blocks against their forward pass in training, which pads with the bias."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.errors import CheckpointError
from tests.checkpoint.families.harness import Block, assert_fuses

MASKS = {
    "conv1x1_sbx": [[1, 0, -1], [2, 0, -2], [1, 0, -1]],
    "conv1x1_sby": [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
    "conv1x1_lpl": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
}
ONE = ((1, 1),)


def ecb(inputs, outputs, middle=5, *, identity=False, zeros=False, **options):
    """A block and its forward pass; ``zeros`` pads between two kernels with zeros, wrongly."""
    block = Block(**options)
    rng = block.rng
    block.add_conv("conv3x3", (outputs, inputs, 3, 3), bias=True)
    block.add("conv1x1_3x3.k0", rng.normal(size=(middle, inputs, 1, 1)))
    block.add("conv1x1_3x3.b0", rng.normal(size=middle))
    block.add("conv1x1_3x3.k1", rng.normal(size=(outputs, middle, 3, 3)) / 6)
    block.add("conv1x1_3x3.b1", rng.normal(size=outputs))
    for name, mask in MASKS.items():
        block.add(f"{name}.k0", rng.normal(size=(outputs, inputs, 1, 1)))
        block.add(f"{name}.b0", rng.normal(size=outputs))
        block.add(f"{name}.scale", rng.normal(size=(outputs, 1, 1, 1)))
        block.add(f"{name}.bias", rng.normal(size=outputs))
        block.add(f"{name}.mask", np.tile(np.array(mask), (outputs, 1, 1, 1)))
    block.add("act.weight", np.full(outputs, 0.2))

    def first(x, name):
        """One tap with a bias, then a frame of that bias."""
        bias = block.get(f"{name}.b0").reshape([1, -1, 1, 1])
        y = F.conv2d(x, block.get(f"{name}.k0")) + bias
        n, channels, height, width = y.shape
        frame = (0 * bias if zeros else bias).expand([n, channels, height + 2, width + 2]).clone()
        frame[:, :, 1:-1, 1:-1] = y
        return frame

    def forward(x, stride, dilation):
        y = block.conv(x, "conv3x3")
        pair = first(x, "conv1x1_3x3"), block.get("conv1x1_3x3.k1"), block.get("conv1x1_3x3.b1")
        y = y + F.conv2d(*pair)
        for name in MASKS:
            kernel = block.get(f"{name}.scale") * block.get(f"{name}.mask")
            y = y + F.conv2d(
                first(x, name), kernel, block.get(f"{name}.bias"), groups=kernel.shape[0]
            )
        return y + x if identity else y

    return block, forward


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 6), (6, 4), (1, 3), (3, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize("middle", [1, 5, 8])
def test_channel_counts_that_leave_no_question(inputs, outputs, middle):
    block, forward = ecb(inputs, outputs, middle)
    fused = assert_fuses(block, forward, family="ECB", strides=ONE)
    assert sorted(fused) == ["b.act.weight", "b.conv3x3.bias", "b.conv3x3.weight"]
    again, report = fuse_arrays(fused)
    assert not report.fused
    assert all(again[key] is fused[key] for key in fused)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_any_channel_counts(seed, channels, middle, identity):
    block, forward = ecb(channels, channels, middle, identity=identity, seed=seed)
    name = "ECB-identity" if identity else "ECB"
    assert_fuses(block, forward, family=name, strides=ONE, options={"families": [name]})


def test_whether_the_input_is_added_is_asked():
    block, _ = ecb(4, 4)
    with pytest.raises(CheckpointError, match="can be of several families") as caught:
        fuse_arrays(block.arrays)
    assert "--family 'ECB' or --family 'ECB-identity'" in caught.value.hint
    skipped, _ = fuse_arrays(block.arrays, skip=["b"])
    assert set(skipped) == set(block.arrays)


def test_asked_for_where_it_cannot_be_the_identity_is_refused():
    block, _ = ecb(4, 8)
    with pytest.raises(CheckpointError):
        fuse_arrays(block.arrays, families=["ECB-identity"])


def test_a_mask_other_than_the_published_is_taken_as_it_is_stored():
    block, forward = ecb(3, 6)
    block.add("conv1x1_sbx.mask", block.rng.normal(size=(6, 1, 3, 3)))
    assert_fuses(block, forward, family="ECB", strides=ONE)


@pytest.mark.parametrize(
    "key", ["conv3x3.bias", "conv1x1_3x3.k1", "conv1x1_sby.mask", "conv1x1_lpl.scale"]
)
def test_a_damaged_block_is_refused(key):
    block, _ = ecb(3, 6)
    lacking = {name: array for name, array in block.arrays.items() if name != f"b.{key}"}
    with pytest.raises(CheckpointError, match="block 'b'") as caught:
        fuse_arrays(lacking)
    assert key in caught.value.found
    block.add(key, block.arrays[f"b.{key}"][:-1])
    with pytest.raises(CheckpointError, match="block 'b'"):
        fuse_arrays(block.arrays)


@pytest.mark.parametrize("wrong", [{"zeros": True}, {"identity": True}])
def test_wrong_readings_fail(wrong):
    block, mutated = ecb(4, 4, **wrong)
    with pytest.raises(AssertionError):
        assert_fuses(block, mutated, family="ECB", strides=ONE, options={"families": ["ECB"]})


def test_zero_is_padded_right_where_the_first_has_no_bias():
    block, forward = ecb(3, 6, zeros=True)
    for name in ("conv1x1_3x3", *MASKS):
        block.add(f"{name}.b0", 0 * block.arrays[f"b.{name}.b0"])
    fused, _ = fuse_arrays(block.arrays)
    x = paddle.ones([1, 3, 4, 4], dtype="float64")
    weight, bias = (paddle.to_tensor(fused[f"b.conv3x3.{key}"]) for key in ("weight", "bias"))
    found = F.conv2d(x.astype("float32"), weight, bias, padding=1).numpy()
    assert np.allclose(found, forward(x, 1, 1).numpy(), atol=1e-4)
