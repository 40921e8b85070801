"""The blocks of MobileOne and PP-LCNet are one convolution, borders included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.conv import Affine, Sequential, evaluate, fuse
from reparam.errors import UnsupportedModelError
from reparam.models import LearnableRepLayer, MobileOneBlock, RepDepthwiseSeparable
from reparam.models.paddle_api import paddle
from tests.models.helpers import EPSILON, arrays_of, bound32, bound64, probe, randomise, run
from tests.models.training_blocks import Kind, geometries, image_for

KINDS = {
    "mobileone": Kind(MobileOneBlock, dilates=True),
    "learnable": Kind(LearnableRepLayer, dilates=True),
}
STAYS = {"mobileone": [], "learnable": ["lab.bias", "lab.scale"]}


def build(kind, inputs, outputs, geometry, branches=2, seed=0, act=None, **more):
    block = KINDS[kind].build(
        inputs, outputs, num_conv_branches=branches, act=act, epsilon=EPSILON, **geometry, **more
    )
    return randomise(block, seed).to(dtype="float64")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_fused_convolution_is_the_block(kind, data):
    inputs, outputs, geometry = data.draw(geometries(KINDS[kind]))
    branches, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
    block = build(kind, inputs, outputs, geometry, branches, seed)
    x, tree = image_for(block, inputs), block.as_block()
    bound = bound64(tree, x)
    [before] = run(block, x)
    assert (np.abs(evaluate(tree, x) - before) <= bound).all()
    assert (np.abs(evaluate(fuse(tree), x) - before) <= bound).all()
    block.convert_to_deploy()
    [after] = run(block, x)
    assert (np.abs(after - before) <= bound).all()
    assert sorted(arrays_of(block)) == [*STAYS[kind], "reparam_conv.bias", "reparam_conv.weight"]
    assert (evaluate(block.as_block(), x) == evaluate(fuse(block.as_block()), x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_the_forms_are_as_near_as_rounding_allows(kind):
    block = build(kind, 6, 6, {"kernel_size": 3}).to(dtype="float32")
    tree, x = block.as_block(), probe(6)
    [before] = run(block, x.astype("float32"))
    block.convert_to_deploy()
    [after] = run(block, x.astype("float32"))
    assert after.dtype == np.float32
    assert (np.abs(after - before) <= bound32(tree, x)).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_the_depthwise_part_is_one_convolution_and_the_rest_stays(kernel, stride):
    def made(**form):
        return RepDepthwiseSeparable(
            8, 8, kernel, stride=stride, split_pw=True, use_se=True, use_shortcut=True,
            epsilon=EPSILON, **form,
        )  # fmt: skip

    block = randomise(made()).to(dtype="float64")
    kernels = [conv.conv.weight.shape[-1] for conv in block.dw_conv_list]
    assert kernels == [size for size in (7, 5, 3, 1) if size <= kernel and size >= stride]
    block.eval()
    x, tree = probe(8, 19, 17), block.as_block()
    with paddle.no_grad():
        inner = block._depthwise(paddle.to_tensor(x)).numpy()
    assert (np.abs(evaluate(tree, x) - inner) <= bound64(tree, x)).all()
    [before] = run(block, x)
    kept = {key: v for key, v in arrays_of(block).items() if not key.startswith("dw_conv_list")}
    block.convert_to_deploy()
    [after] = run(block, x)
    # What follows is the same in both forms, and does not amplify by more than this.
    assert np.abs(after - before).max() <= 1e-12 * np.abs(before).max()
    found = arrays_of(block)
    assert set(found) == {*kept, "dw_conv.weight", "dw_conv.bias"}
    for key, value in kept.items():
        np.testing.assert_array_equal(found[key], value)
    built = made(deploy=True).to(dtype="float64")
    assert built.set_state_dict(block.state_dict()) == ([], [])
    np.testing.assert_array_equal(run(built, x)[0], after)


@pytest.mark.parametrize("kind", KINDS)
def test_built_in_deploy_form_it_takes_the_fused_weights(kind):
    geometry = {"kernel_size": (3, 5), "stride": (2, 1), "groups": 2}
    fused = build(kind, 6, 4, geometry, act="relu")
    fused.convert_to_deploy()
    built = KINDS[kind].build(6, 4, **geometry, act="relu", deploy=True).to(dtype="float64")
    assert built.set_state_dict(fused.state_dict()) == ([], [])
    x = image_for(fused, 6)
    np.testing.assert_array_equal(run(built, x)[0], run(fused, x)[0])


def test_the_affine_before_the_activation_goes_into_the_convolution_the_one_after_it_stays():
    block = build("learnable", 4, 4, {"kernel_size": 3}, act="relu")
    for affine, values in ((block.lab, (-0.7, 0.4)), (block.act.lab, (1.3, -0.2))):
        affine.scale.set_value(np.array(values[:1]))
        affine.bias.set_value(np.array(values[1:]))
    x, tree = probe(4), block.as_block()
    block.convert_to_deploy()
    assert (block.lab.scale.item(), block.lab.bias.item()) == (1.0, 0.0)
    assert (block.act.lab.scale.item(), block.act.lab.bias.item()) == (1.3, -0.2)
    [y] = run(block, x)
    expected = 1.3 * np.maximum(evaluate(tree, x), 0) - 0.2
    assert (np.abs(y - expected) <= 2 * bound64(tree, x) + 1e-15 * np.abs(expected)).all()


def test_an_affine_that_another_project_left_beside_its_fused_convolution_is_part_of_the_block():
    block = build("learnable", 4, 4, {"kernel_size": 3})
    block.convert_to_deploy()
    block.lab.scale.set_value(np.array([0.5]))
    block.lab.bias.set_value(np.array([-0.25]))
    x = probe(4)
    assert isinstance(block.as_block(), Sequential)
    assert isinstance(block.as_block().parts[-1], Affine)
    [y] = run(block, x)
    assert (np.abs(evaluate(block.as_block(), x) - y) <= bound64(block.as_block(), x)).all()


def test_a_factor_of_exactly_zero_is_a_value():
    block = build("learnable", 4, 4, {"kernel_size": 3})
    block.lab.scale.set_value(np.array([0.0]))
    weight, bias = block.get_equivalent_kernel_bias()
    assert not weight.numpy().any()
    np.testing.assert_array_equal(bias.numpy(), np.full(4, block.lab.bias.item()))


@pytest.mark.parametrize("idle", [False, True])
def test_an_idle_activation_has_its_keys_and_no_effect(idle):
    block = build("learnable", 4, 4, {"kernel_size": 3, "stride": 2}, act="relu", idle_act=idle)
    assert {"act.lab.scale", "act.lab.bias"} <= set(arrays_of(block))
    x = probe(4)
    linear = evaluate(block.as_block(), x)
    [y] = run(block, x)
    near = np.abs(y - linear) <= bound64(block.as_block(), x)
    assert near.all() if idle else not near.all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_of_one_tap_has_no_branch_of_one_tap(kind):
    names = {key.partition(".")[0] for key in arrays_of(build(kind, 4, 6, {"kernel_size": 1}))}
    assert not names & {"rbr_scale", "conv_1x1", "rbr_skip", "identity"}
    same = {key.partition(".")[0] for key in arrays_of(build(kind, 4, 4, {"kernel_size": 1}))}
    assert same & {"rbr_skip", "identity"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_even_kernel_is_refused(kind):
    with pytest.raises(UnsupportedModelError, match="no centre"):
        build(kind, 4, 4, {"kernel_size": 2})


# Deliberately wrong blocks: what other implementations do, each seen by the comparison above.


def affine_left_out(block):
    block.as_block = lambda: block.branches().parts[0]


def only_the_first_convolution(block):
    convs = block.conv_kxk if hasattr(block, "conv_kxk") else block.rbr_conv
    tree = block.as_block()
    whole = tree.parts[0] if isinstance(tree, Sequential) else tree
    name = next(key for key in whole.branches if key.endswith(f".{len(convs) - 1}"))
    rest = {key: branch for key, branch in whole.branches.items() if key != name}
    less = type(whole)(rest)
    wrong = Sequential(less, *tree.parts[1:]) if isinstance(tree, Sequential) else less
    block.as_block = lambda: wrong


def shift_scaled_too(block):
    scale, shift = block.lab.scale.item(), block.lab.bias.item()
    wrong = Affine(np.full(6, scale), np.full(6, scale * shift))
    right = block.branches().parts[0]
    block.as_block = lambda: Sequential(right, wrong)


def epsilon_of_another_family(block):
    convs = block.conv_kxk if hasattr(block, "conv_kxk") else block.rbr_conv
    convs[0].bn._epsilon = 1e-3


WRONG = {
    "affine left out": ("learnable", affine_left_out),
    "shift scaled too": ("learnable", shift_scaled_too),
    "only the first convolutions": ("mobileone", only_the_first_convolution),
    "only the first kernels": ("learnable", only_the_first_convolution),
    "epsilon of another family": ("mobileone", epsilon_of_another_family),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_description_is_seen(name):
    kind, spoil = WRONG[name]
    block = build(kind, 6, 6, {"kernel_size": 3}, branches=3)
    x, tree = image_for(block, 6), block.as_block()
    [before] = run(block, x)
    spoil(block)
    fused = evaluate(fuse(block.as_block()), x)
    assert (np.abs(fused - before) > bound64(tree, x)).any()
