"""Squeeze-excite stays behind the sum when the block is deployed, and is not fused into it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays
from reparam.conv import gamma
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.models import RepVGG, RepVGGBlock, SqueezeExcite, convert_to_deploy
from reparam.models.paddle_api import paddle
from tests.models.helpers import EPSILON, arrays_of, bound32, bound64, probe, randomise, run

GEOMETRIES = [(16, 16, 1, 1), (16, 48, 2, 1), (32, 32, 1, 4)]


def block_of(inputs: int, channels: int, stride: int, groups: int) -> RepVGGBlock:
    """The first geometry has an identity branch: a BatchNorm without a convolution."""
    geometry = {"stride": stride, "groups": groups}
    return randomise(RepVGGBlock(inputs, channels, use_se=True, epsilon=EPSILON, **geometry))


def weights_of(se: SqueezeExcite) -> list[np.ndarray]:
    down, up = se.down, se.up
    arrays = (down.weight, down.bias, up.weight, up.bias)
    return [array.astype("float64").numpy() for array in arrays]


def gate(se: SqueezeExcite, y: np.ndarray) -> np.ndarray:
    down, down_bias, up, up_bias = weights_of(se)
    squeezed = np.maximum(y.mean(axis=(2, 3)) @ down[:, :, 0, 0].T + down_bias, 0)
    logits = squeezed @ up[:, :, 0, 0].T + up_bias
    return 1 / (1 + np.exp(-logits[:, :, None, None]))


def bound(se: SqueezeExcite, y: np.ndarray, off: np.ndarray, dtype: str) -> np.ndarray:
    """Return how far y * gate(y) may be off where ``y`` is off by ``off``.

    The gate is at most 1 and its slope at most 1/4, of logits that are sums of as many terms as
    there are positions, channels and squeezed channels. Eight roundings for the sigmoid and the
    product.
    """
    down, down_bias, up, up_bias = (np.abs(array) for array in weights_of(se))
    down, up = down[:, :, 0, 0], up[:, :, 0, 0]
    moved = off.mean(axis=(2, 3)) @ down.T @ up.T
    terms = (np.abs(y).mean(axis=(2, 3)) @ down.T + down_bias) @ up.T + up_bias
    count = y.shape[2] * y.shape[3] + down.shape[0] + down.shape[1] + 3
    logits = (moved + gamma(count, dtype) * terms)[:, :, None, None]
    size = np.abs(y) + off
    return off + size * (logits / 4 + 8 * UNIT_ROUNDOFF[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gate_is_the_sigmoid_of_two_layers_of_the_mean(dtype):
    se = randomise(SqueezeExcite(32)).to(dtype=dtype)
    x = probe(32)
    allowed = bound(se, x, np.zeros_like(x), dtype)
    assert (np.abs(run(se, x.astype(dtype))[0] - x * gate(se, x)) <= allowed).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_deploy_form_is_the_same_function_with_its_squeeze_excite(geometry, dtype):
    block = block_of(*geometry).to(dtype=dtype)
    tree, x = block.as_block(), probe(geometry[0])
    off = bound64(tree, x) if dtype == "float64" else bound32(tree, x)
    before = run(block, x.astype(dtype))[0]
    plain = copy.deepcopy(block)
    block.convert_to_deploy()
    y = plain._sum(paddle.to_tensor(x.astype(dtype))).numpy().astype("float64")
    # Each form is off by as much as the bound says, in opposite directions at worst.
    allowed = 2 * bound(block.se, y, off, dtype)
    assert (np.abs(run(block, x.astype(dtype))[0] - before) <= allowed).all()
    block.se = None  # what the public implementation makes of it
    assert (np.abs(run(block, x.astype(dtype))[0] - before) > allowed).any()


def test_only_the_branches_are_replaced():
    block = block_of(*GEOMETRIES[0])
    before = arrays_of(block)
    kept = [name for name in before if name.startswith("se.")]
    block.convert_to_deploy()
    after = arrays_of(block)
    assert sorted(after) == sorted([*kept, "rbr_reparam.bias", "rbr_reparam.weight"])
    assert len(kept) == 4
    for name in kept:
        np.testing.assert_array_equal(after[name], before[name])


def test_convolutions_without_batch_norm_beside_the_identitys_are_carried_over():
    """Pairing convolutions and BatchNorms by their order would give the gate the identity's."""
    before = arrays_of(block_of(*GEOMETRIES[0]))
    fused, report = fuse_arrays(before)
    assert [block.branches for block in report.fused] == [("rbr_dense", "rbr_1x1", "rbr_identity")]
    for name in before:
        if name.startswith("se."):
            assert fused[name] is before[name]
    assert len(fused) == 6


def test_a_whole_network_keeps_it():
    model = randomise(RepVGG([1, 2, 1, 1], [0.25, 0.125, 0.0625, 0.0625], use_se=True))
    names = [name for name in model.state_dict() if ".se." in name]
    assert len(names) == 4 * 6
    x = probe(3, 32, 64).astype("float32")
    before = run(model, x)[0]
    assert len(convert_to_deploy(model)) == 6
    assert [name for name in model.state_dict() if ".se." in name] == names
    blind = copy.deepcopy(model)
    for block in blind.sublayers():
        if isinstance(block, RepVGGBlock):
            block.se = None
    scale = np.abs(before).max()
    assert np.abs(run(model, x)[0] - before).max() <= 1e-4 * scale
    assert np.abs(run(blind, x)[0] - before).max() > 0.1 * scale
