"""Every block and layer is, in deploy form, the function it was in train-time form."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.conv import evaluate, fuse
from reparam.errors import NotFusibleError, ReparamError, UnsupportedModelError
from reparam.models import (
    ConvBNLayer,
    EffectiveSELayer,
    RepVGGBlock,
    RepVggBlock,
    convert_to_deploy,
    fold_batch_norms,
)
from reparam.models.blocks import ReparamBlock, conv2d_from, conv_of
from reparam.models.layers import activation
from reparam.models.paddle_api import paddle
from tests.models.helpers import EPSILON, arrays_of, bound32, bound64, probe, randomise, run


def rep_vgg_block(alpha: float | None) -> RepVggBlock:
    block = randomise(RepVggBlock(6, 8, act="relu", alpha=alpha is not None, epsilon=EPSILON))
    if alpha is not None:
        block.alpha.set_value(np.array([alpha], dtype="float32"))
    return block


def cases() -> list:
    rep = [pytest.param(lambda a=a: rep_vgg_block(a), id=f"alpha={a}") for a in (None, 0, 0.37, 1)]
    settings = [
        (in_channels, out_channels, stride, groups)
        for in_channels, out_channels in ((8, 8), (8, 16))
        for stride in (1, 2)
        for groups in (1, 2, 8)
    ]
    return rep + [
        pytest.param(
            lambda i=i, o=o, s=s, g=g: randomise(
                RepVGGBlock(i, o, stride=s, groups=g, epsilon=EPSILON)
            ),
            id=f"{i}to{o}-stride{s}-groups{g}",
        )
        for i, o, s, g in settings
    ]


def inputs_of(block: ReparamBlock) -> int:
    return fuse(block.as_block()).in_channels


@pytest.mark.parametrize("build", cases())
def test_train_time_form_is_what_the_algebra_is_told(build):
    block = build().to(dtype="float64")
    x = probe(inputs_of(block))
    [y] = run(block, x)
    truth = np.maximum(evaluate(block.as_block(), x), 0)
    assert (np.abs(y - truth) <= bound64(block.as_block(), x)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("build", cases())
def test_deploy_form_is_the_same_function(build, dtype):
    block = build().to(dtype=dtype)
    tree = block.as_block()
    x = probe(inputs_of(block))
    before = run(block, x.astype(dtype))
    block.convert_to_deploy()
    after = run(block, x.astype(dtype))
    bound = bound64(tree, x) if dtype == "float64" else bound32(tree, x)
    assert before[0].dtype == after[0].dtype == dtype
    assert (np.abs(after[0] - before[0]) <= bound).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bound_notices_a_wrong_epsilon(dtype):
    block = rep_vgg_block(0.37).to(dtype=dtype)
    tree = block.as_block()
    x = probe(6)
    before = run(block, x.astype(dtype))
    block.conv1.bn._epsilon = 1e-3
    block.convert_to_deploy()
    after = run(block, x.astype(dtype))
    bound = bound64(tree, x) if dtype == "float64" else bound32(tree, x)
    assert (np.abs(after[0] - before[0]) > bound).any()


@pytest.mark.parametrize("build", cases())
def test_deploy_form_holds_one_convolution_with_bias_and_no_branches(build):
    block = build()
    block.convert_to_deploy()
    assert sorted(block.state_dict()) == [
        f"{block.deploy_name}.bias",
        f"{block.deploy_name}.weight",
    ]
    assert not any(hasattr(block, name) for name in block.branch_names)


@pytest.mark.parametrize("build", cases())
def test_built_in_deploy_form_it_has_the_geometry_that_fusing_gives(build):
    fused = build()
    fused.convert_to_deploy()
    conv = fuse(fused.as_block())
    if isinstance(fused, RepVggBlock):
        built = RepVggBlock(conv.in_channels, conv.out_channels, deploy=True)
    else:
        built = RepVGGBlock(
            conv.in_channels,
            conv.out_channels,
            stride=conv.stride[0],
            groups=conv.groups,
            deploy=True,
        )
    other = built.as_block()
    assert built.deployed
    for name in ("stride", "padding", "dilation", "groups", "kernel", "in_channels"):
        assert getattr(other, name) == getattr(conv, name)
    built.set_state_dict(fused.state_dict())
    x = probe(conv.in_channels).astype("float32")
    np.testing.assert_array_equal(run(built, x)[0], run(fused, x)[0])


@pytest.mark.parametrize("build", cases())
def test_fusing_twice_is_fusing_once(build):
    block = build()
    weight, bias = block.get_equivalent_kernel_bias()
    block.convert_to_deploy()
    once = arrays_of(block)
    block.convert_to_deploy()
    again = block.get_equivalent_kernel_bias()
    np.testing.assert_array_equal(once[f"{block.deploy_name}.weight"], weight.numpy())
    np.testing.assert_array_equal(once[f"{block.deploy_name}.bias"], bias.numpy())
    np.testing.assert_array_equal(again[0].numpy(), weight.numpy())
    np.testing.assert_array_equal(again[1].numpy(), bias.numpy())
    for name, array in arrays_of(block).items():
        np.testing.assert_array_equal(array, once[name])


@pytest.mark.parametrize("build", cases()[2:5])
def test_fusing_in_training_mode_uses_running_statistics(build):
    training, evaluating = build(), build()
    training.train()
    evaluating.eval()
    training.convert_to_deploy()
    evaluating.convert_to_deploy()
    for name, array in arrays_of(evaluating).items():
        np.testing.assert_array_equal(array, arrays_of(training)[name])


def test_alpha_of_exactly_zero_makes_the_branch_vanish():
    block = rep_vgg_block(0)
    x = probe(6).astype("float32")
    with paddle.no_grad():
        block.eval()
        first = paddle.nn.functional.relu(block.conv1(paddle.to_tensor(x))).numpy()
    alone = fuse(block.conv1.as_block())
    np.testing.assert_array_equal(run(block, x)[0], first)
    weight, bias = block.get_equivalent_kernel_bias()
    np.testing.assert_array_equal(weight.numpy(), alone.weight.astype("float32"))
    np.testing.assert_array_equal(bias.numpy(), alone.bias.astype("float32"))


def test_a_new_alpha_is_one_and_learned():
    block = RepVggBlock(4, 4, alpha=True)
    assert block.alpha.shape == [1]
    assert not block.alpha.stop_gradient
    assert block.alpha.item() == 1.0


def test_fusing_leaves_the_random_numbers_of_a_training_run_alone():
    paddle.seed(7)
    expected = paddle.rand([3]).numpy()
    block = rep_vgg_block(0.37)
    paddle.seed(7)
    block.convert_to_deploy()
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), expected)


def test_fused_values_that_would_be_subnormal_are_zero():
    block = rep_vgg_block(None)
    for conv in (block.conv1, block.conv2):
        scale = conv.bn.weight.numpy()
        scale[2] = 1e-39
        conv.bn.weight.set_value(scale)
        shift = conv.bn.bias.numpy()
        shift[2] = 0.0
        conv.bn.bias.set_value(shift)
    assert 0 < np.abs(fuse(block.as_block()).weight[2]).max() < np.finfo("float32").tiny
    block.convert_to_deploy()
    assert not block.conv.weight.numpy()[2].any()
    assert block.conv.weight.numpy()[3].all()


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_values_that_float32_cannot_hold_are_refused_and_nothing_is_changed(value):
    block = rep_vgg_block(None)
    block.conv1.bn.weight.set_value(np.full(8, value, "float32"))
    block.conv1.conv.weight.set_value(np.full((8, 6, 3, 3), 100.0, "float32"))
    with pytest.raises(NotFusibleError, match="not finite"):
        block.convert_to_deploy()
    with pytest.raises(NotFusibleError, match="not finite"):
        block.get_equivalent_kernel_bias()
    assert not block.deployed
    assert hasattr(block, "conv1")


def test_a_model_is_converted_whole_or_not_at_all():
    model = paddle.nn.Sequential(("first", rep_vgg_block(None)), ("second", rep_vgg_block(None)))
    model.second.conv2.bn._variance.set_value(np.full(8, -1.0, "float32"))
    with pytest.raises(ReparamError, match="cannot fuse block 'second'") as error:
        convert_to_deploy(model)
    assert "variance" in str(error.value)
    assert not model.first.deployed


def test_a_half_fused_model_is_finished():
    model = paddle.nn.Sequential(("first", rep_vgg_block(None)), ("second", rep_vgg_block(1)))
    model.first.convert_to_deploy()
    assert convert_to_deploy(model) == ("second",)
    assert convert_to_deploy(model) == ()


def test_a_block_alone_is_converted():
    block = rep_vgg_block(None)
    assert convert_to_deploy(block) == ("",)
    assert block.deployed


@pytest.mark.parametrize("padding", [0, 1, [0, 2], [1, 2, 0, 3]])
def test_a_convolution_goes_to_the_algebra_and_back(padding):
    layer = randomise(paddle.nn.Conv2D(4, 6, 3, stride=[2, 1], padding=padding, groups=2))
    conv = conv_of(layer)
    x = probe(4).astype("float32")
    back = conv2d_from(conv, "float32")
    np.testing.assert_array_equal(run(back, x)[0], run(layer, x)[0])
    magnitude = 10 * (conv.weight[0].size + 1) * 2.0**-24 * np.abs(evaluate(conv, x)).max()
    assert np.abs(run(back, x)[0] - evaluate(conv, x)).max() <= magnitude


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 2), (1, 4)])
def test_a_folded_layer_is_the_same_function(stride, groups, dtype):
    layer = ConvBNLayer(
        4, 8, 3, stride=stride, padding=1, groups=groups, act="relu", epsilon=2.0**-10
    )
    randomise(layer).to(dtype=dtype)
    tree = layer.as_block()
    x = probe(4)
    before = run(layer, x.astype(dtype))
    layer.train()
    layer.fold_batch_norm()
    after = run(layer, x.astype(dtype))
    assert sorted(layer.state_dict()) == ["conv.bias", "conv.weight"]
    bound = bound64(tree, x) if dtype == "float64" else bound32(tree, x)
    assert (np.abs(after[0] - before[0]) <= bound).all()


def test_folding_twice_is_folding_once():
    layer = randomise(ConvBNLayer(4, 8, 3, padding=1))
    layer.fold_batch_norm()
    once = arrays_of(layer)
    layer.fold_batch_norm()
    for name, array in arrays_of(layer).items():
        np.testing.assert_array_equal(array, once[name])


def test_a_refused_fold_names_the_layer_and_leaves_it():
    model = paddle.nn.Sequential(("only", randomise(ConvBNLayer(4, 8, 3))))
    model.only.bn._variance.set_value(np.full(8, -1.0, "float32"))
    with pytest.raises(ReparamError, match="cannot fold the BatchNorm of 'only'"):
        fold_batch_norms(model)
    assert not model.only.folded


def test_a_block_with_folded_branches_is_still_one_convolution():
    block = rep_vgg_block(0.37).to(dtype="float64")
    tree = block.as_block()
    x = probe(6)
    before = run(block, x)
    assert fold_batch_norms(block) == ("conv1", "conv2")
    block.convert_to_deploy()
    # Folded weights were rounded once more, to float64.
    assert (np.abs(run(block, x)[0] - before[0]) <= 2 * bound64(tree, x)).all()


def test_attention_gates_the_input_by_its_mean():
    layer = randomise(EffectiveSELayer(4)).to(dtype="float64")
    x = probe(4)
    weight, bias = layer.fc.weight.numpy()[:, :, 0, 0], layer.fc.bias.numpy()
    logits = x.mean(axis=(2, 3)) @ weight.T + bias
    gate = np.clip(logits / 6 + 0.5, 0, 1)[:, :, None, None]
    # Paddle's hardsigmoid has the slope 0.1666667, which is 1/6 to seven digits.
    slope = 4e-8 * np.abs(logits).max() * np.abs(x)
    assert (np.abs(run(layer, x)[0] - x * gate) <= slope + 1e-14 * np.abs(x)).all()


def test_swish_in_parts_is_swish():
    x = paddle.to_tensor(np.linspace(-30, 30, 101))
    parts = activation("swish", trt=True)(x).numpy()
    # exp, add, divide, multiply: four roundings on each side.
    assert (np.abs(parts - activation("swish")(x).numpy()) <= 8 * 2.0**-52 * np.abs(parts)).all()


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(UnsupportedModelError, match="'swich'") as error:
        activation("swich")
    assert "'swish'" in error.value.hint
