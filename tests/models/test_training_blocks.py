"""Every block to train with is one convolution, borders included, whatever its geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.checkpoint import fuse_arrays
from reparam.conv import evaluate, fuse
from reparam.errors import NotFusibleError, UnsupportedModelError
from reparam.models import RepVGGBlock, training
from reparam.models.paddle_api import paddle
from tests.models.helpers import EPSILON, arrays_of, bound64, randomise, run
from tests.models.training_blocks import KINDS, build, geometries, image_for

THREE = {"kernel_size": 3, "stride": 1, "groups": 1}


def excess(block, x) -> float:
    """How many times the bound the fused convolution is off from what the Layer computes."""
    tree = block.as_block()
    [y] = run(block, x)
    fused = evaluate(fuse(tree), x)
    assert y.shape == fused.shape
    return float((np.abs(fused - y) / bound64(tree, x)).max())


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_fused_convolution_is_the_block(kind, data):
    inputs, outputs, geometry = data.draw(geometries(KINDS[kind]))
    block = build(kind, inputs, outputs, geometry, data.draw(st.integers(0, 99)))
    x = image_for(block, inputs)
    tree = block.as_block()
    [before] = run(block, x)
    assert (np.abs(evaluate(tree, x) - before) <= bound64(tree, x)).all()
    assert excess(block, x) <= 1
    block.convert_to_deploy()
    [after] = run(block, x)
    assert (np.abs(after - before) <= bound64(tree, x)).all()
    deploy = block.deploy_name
    assert sorted(arrays_of(block)) == [f"{deploy}.bias", f"{deploy}.weight"]
    assert block.deployed


FAMILIES = {
    "repvgg": "RepVGG",
    "acb": "ACNet",
    "dbb": "DiverseBranchBlock",
    "large-kernel": "RepLKNet",
    "dilated": "DilatedReparamBlock",
    "qarepvgg1": "QARepVGG V1",
    "qarepvgg2": "QARepVGG",
    "rep-mixer": "RepMixer",
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_bare_checkpoint_of_it_fuses_to_the_same_bits(kind):
    """Two descriptions of one block, by its Layer and by a record of names, made apart."""
    block = build(kind, 6, 6, {**THREE, "kernel_size": 5}).to(dtype="float32")
    arrays = {f"net.{key}": array for key, array in arrays_of(block).items()}
    choice = {"families": ["QARepVGG"]} if kind == "qarepvgg2" else {}  # the identity has no name
    fused, report = fuse_arrays(arrays, epsilon=EPSILON, **choice)
    assert [done.family for done in report.fused] == [FAMILIES[kind]]
    block.convert_to_deploy()
    expected = {f"net.{key}": array for key, array in arrays_of(block).items()}
    assert fused.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(fused[key], array)


@pytest.mark.parametrize("kind", KINDS)
def test_built_in_deploy_form_it_takes_the_fused_weights(kind):
    fused = build(kind, 6, 6, THREE)
    fused.convert_to_deploy()
    if kind == "rep-mixer":
        built = training.RepMixer(6, deploy=True)
    else:
        act = {"act": None, "deploy": True}
        built = KINDS[kind].build(6, 6, **THREE, **act)
    built = built.to(dtype="float64")
    assert built.deployed
    assert built.set_state_dict(fused.state_dict()) == ([], [])
    x = image_for(built, 6)
    np.testing.assert_array_equal(run(built, x)[0], run(fused, x)[0])
    for name in ("stride", "padding", "dilation", "groups", "kernel"):
        assert getattr(built.as_block(), name) == getattr(fused.as_block(), name)


NAMES = {
    "acb": ["hor_bn", "hor_conv", "square_bn", "square_conv", "ver_bn", "ver_conv"],
    "dbb": ["dbb_1x1.bn", "dbb_1x1.conv", "dbb_1x1_kxk.bn1.bn", "dbb_1x1_kxk.bn2",
            "dbb_1x1_kxk.conv2", "dbb_1x1_kxk.idconv1", "dbb_avg.avgbn", "dbb_avg.bn.bn",
            "dbb_avg.conv", "dbb_origin.bn", "dbb_origin.conv"],
    "dbb-wide": ["dbb_1x1.bn", "dbb_1x1.conv", "dbb_1x1_kxk.bn1.bn", "dbb_1x1_kxk.bn2",
                 "dbb_1x1_kxk.conv1", "dbb_1x1_kxk.conv2", "dbb_avg.avgbn", "dbb_avg.bn.bn",
                 "dbb_avg.conv", "dbb_origin.bn", "dbb_origin.conv"],
    "large-kernel": ["lkb_origin.bn", "lkb_origin.conv", "small_conv.bn", "small_conv.conv"],
    "dilated": ["dil_bn_k3_1", "dil_bn_k3_2", "dil_conv_k3_1", "dil_conv_k3_2", "lk_origin",
                "origin_bn"],
    "qarepvgg1": ["bn", "rbr_1x1.bn", "rbr_1x1.conv", "rbr_dense.bn", "rbr_dense.conv",
                  "rbr_identity"],
    "qarepvgg2": ["bn", "rbr_1x1", "rbr_dense.bn", "rbr_dense.conv"],
    "rep-mixer": ["", "mixer.rbr_conv.0.bn", "mixer.rbr_conv.0.conv", "mixer.rbr_scale.bn",
                  "mixer.rbr_scale.conv", "mixer.rbr_skip", "norm.rbr_skip"],
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_state_dicts_have_the_names_of_the_authors_code(kind):
    block = build(kind, 6, 6, {**THREE, "kernel_size": 5})
    assert sorted({key.rpartition(".")[0] for key in arrays_of(block)}) == NAMES[kind]


def test_a_depthwise_diverse_branch_block_has_no_1x1_branches():
    names = arrays_of(build("dbb", 6, 6, {**THREE, "groups": 6}))
    assert not any(name.startswith("dbb_1x1.") for name in names)
    assert {n.split(".")[1] for n in names if n.startswith("dbb_avg.")} == {"avgbn"}
    assert names["dbb_1x1_kxk.conv1.weight"].shape == (12, 1, 1, 1)


@pytest.mark.filterwarnings("ignore:When training:UserWarning:paddle")
def test_in_training_the_border_is_not_in_the_statistics_of_a_batch():
    """Zeros around the image would lower the variance that is seen."""
    block = build("dbb", 4, 4, THREE)
    x = image_for(block, 4)
    block.train()
    norm = block.dbb_1x1_kxk.bn1.bn
    before = norm._mean.numpy()
    block(paddle.to_tensor(x))
    y = block.dbb_1x1_kxk.idconv1(paddle.to_tensor(x)).numpy()
    expected = 0.9 * before + 0.1 * y.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(norm._mean.numpy(), expected, rtol=1e-6)  # its momentum: float32


@pytest.mark.filterwarnings("ignore:When training:UserWarning:paddle")
def test_every_parameter_of_every_block_is_learned():
    for kind in KINDS:
        block = build(kind, 6, 6, THREE)
        block.train()
        block(paddle.to_tensor(image_for(block, 6))).square().sum().backward()
        for name, parameter in block.named_parameters():
            if not parameter.stop_gradient:
                assert parameter.grad is not None, (kind, name)
                assert np.abs(parameter.grad.numpy()).max() > 0, (kind, name)


# Deliberately wrong blocks: what other implementations do, each seen by the comparison above.


def pooling_without_the_padding(block):
    block.dbb_avg.avg.exclusive = True


def off_centre(block):
    conv = block.small_conv.conv
    pad, window = paddle.nn.functional.pad, paddle.nn.functional.conv2d
    conv.forward = lambda x: window(pad(x, [0, 2, 0, 2]), conv.weight)


def border_of_zeros(block):
    for norm in (block.dbb_avg.bn, block.dbb_1x1_kxk.bn1):
        norm.forward = lambda x, norm=norm: paddle.nn.functional.pad(norm.bn(x), [1, 1, 1, 1])


def bias_left_out_of_the_border(block):
    norm = block.dbb_1x1_kxk.bn1
    right = norm.forward

    def wrong(x):
        inside = norm.bn(x)
        beta = norm.bn.bias.reshape([1, -1, 1, 1])
        outside = 1.0 - paddle.nn.functional.pad(paddle.ones_like(inside), [1, 1, 1, 1])
        return right(x) - outside * beta

    norm.forward = wrong


def identity_of_every_channel(block):
    right = block.train_time
    block.train_time = lambda x: right(x) - block.bn(x * 0) + block.bn(x.sum(1, keepdim=True) - x)


def scale_on_the_mixer_only(block):
    scale = block.layer_scale
    block.train_time = lambda x: x + scale * block.mixer(x) - block.norm(x)


def without_its_own_identity(block):
    conv = block.dbb_1x1_kxk.idconv1
    conv.forward = lambda x: paddle.nn.functional.conv2d(x, conv.weight, groups=conv.groups)


def column_for_row(block):
    block.ver_conv, block.hor_conv = block.hor_conv, block.ver_conv
    weights = block.ver_conv.weight.numpy(), block.hor_conv.weight.numpy()
    block.ver_conv.weight.set_value(weights[1].transpose(0, 1, 3, 2))
    block.hor_conv.weight.set_value(weights[0].transpose(0, 1, 3, 2))


def dilation_forgotten(block):
    conv = block.dil_conv_k3_2
    conv._dilation, conv._padding, conv._updated_padding = [1, 1], [1, 1], [1, 1]


def epsilon_of_another_family(block):
    block.ver_bn._epsilon = 1e-3


LARGE = {**THREE, "kernel_size": 5}
# What the wrong forward is given in the place of the right one, or what the description misses.
WRONG = {
    "pooling without the padding": ("dbb", {**THREE, "groups": 6}, pooling_without_the_padding),
    "border of zeros": ("dbb", THREE, border_of_zeros),
    "bias left out of the border": ("dbb", THREE, bias_left_out_of_the_border),
    "without its own identity": ("dbb", THREE, without_its_own_identity),
    "small kernel off centre": ("large-kernel-small", LARGE, off_centre),
    "dilation forgotten": ("dilated", LARGE, dilation_forgotten),
    "identity of every channel": ("qarepvgg2", THREE, identity_of_every_channel),
    "scale on the mixer only": ("rep-mixer", THREE, scale_on_the_mixer_only),
    "column for row": ("acb", LARGE, column_for_row),
    "epsilon of another family": ("acb", THREE, epsilon_of_another_family),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_block_is_caught(name):
    kind, geometry, spoil = WRONG[name]
    if kind == "large-kernel-small":
        built = training.LargeKernelBlock(6, 6, 5, small_kernel=3, act=None, epsilon=EPSILON)
        block = randomise(built).to(dtype="float64")
    else:
        block = build(kind, 6, 6, geometry)
    x = image_for(block, 6)
    assert excess(block, x) <= 1
    tree = block.as_block()  # before: what the right block is
    spoil(block)
    [y] = run(block, x)
    assert (np.abs(evaluate(fuse(tree), x) - y) > bound64(tree, x)).any()


def test_a_mean_that_leaves_padding_out_is_refused():
    block = build("dbb", 6, 6, {**THREE, "groups": 6})
    pooling_without_the_padding(block)
    with pytest.raises(NotFusibleError, match="branch 'dbb_avg'"):
        block.convert_to_deploy()
    assert not block.deployed


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: training.ACBlock(4, 4, 4), "no centre"),
        (lambda: training.ACBlock(4, 4, (3, 2)), "no centre"),
        (lambda: training.ACBlock(4, 6, groups=4), "output channels in 4 groups"),
        (lambda: training.DiverseBranchBlock(6, 4, groups=4), "input channels in 4 groups"),
        (lambda: training.DiverseBranchBlock(6, 6, groups=2, internal_channels=3), "internal"),
        (lambda: training.DiverseBranchBlock(6, 6, 0), "does not fit a kernel"),
        (lambda: training.LargeKernelBlock(4, 4, 3, small_kernel=5), "larger than the whole"),
        (lambda: training.LargeKernelBlock(4, 4, 5, small_kernel=2), "no centre"),
        (lambda: training.DilatedReparamBlock(4, 4, 19), "no dilated branches are known"),
        (lambda: training.DilatedReparamBlock(4, 4, 5, dilated=[(3, 3)]), "wider than 5x5"),
        (lambda: training.DilatedReparamBlock(4, 4, 5, dilated=[(3, 1), (3, 1)]), "the same"),
        (lambda: training.QARepVGGBlock(4, 4, version=3), "no version 3"),
        (lambda: training.RepMixer(4, 2), "no centre"),
        (lambda: RepVGGBlock(4, 4, 2), "no centre"),
        (lambda: RepVGGBlock(4, 4, stride=0), "stride 0"),
    ],
)
def test_a_geometry_that_no_block_has(make, said):
    with pytest.raises(UnsupportedModelError, match=said):
        make()
