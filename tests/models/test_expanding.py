"""Expanding keeps the function and is undone without a trace; training in between is kept too."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import reparam
from reparam.adapters.closeness import closeness
from reparam.adapters.paddle_models import in_float64
from reparam.checkpoint import load_checkpoint
from reparam.errors import NotEquivalentError, ReparamError, UnsupportedModelError
from reparam.example import example_checkpoints, example_images
from reparam.models import create_model, fold_batch_norms
from reparam.models.blocks import convert_to_deploy
from reparam.models.paddle_api import paddle
from reparam.models.training import DiverseBranchBlock, entering
from reparam.models.training.makers import MAKERS
from tests.models.helpers import arrays_of, randomise, run

nn, F = paddle.nn, paddle.nn.functional

BLOCKS = list(MAKERS)
pytestmark = pytest.mark.filterwarnings("ignore:When training:UserWarning:paddle")


def images(count: int = 4, channels: int = 3, size: tuple[int, int] = (20, 22)) -> np.ndarray:
    x = np.random.default_rng(5).normal(size=(count, channels, *size))
    return x.astype("float32")


def network(bias: bool = True) -> nn.Sequential:
    """Every kind of convolution that some block stands for, with a BatchNorm after one of them."""
    layers = nn.Sequential(
        nn.Conv2D(3, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2D(8, 8, 5, padding=2, groups=8, bias_attr=False),
        nn.BatchNorm2D(8),
        nn.ReLU(),
        nn.Conv2D(8, 8, (3, 7), padding=(1, 3), groups=2, bias_attr=None if bias else False),
        nn.Conv2D(8, 6, 1),
    )
    layers = randomise(layers)
    layers.eval()
    return layers


def as_close(original, candidate, x: np.ndarray, reference=None) -> bool:
    """Whether ``candidate`` is as close to ``original`` in float64 as float32 is."""
    [truth] = run(in_float64(original), x.astype("float64"))
    [near] = run(reference or original, x)
    [found] = run(candidate, x)
    return closeness(truth, near, found).verdict == "equal"


def same_arrays(before: dict, after: dict) -> bool:
    return list(before) == list(after) and all((before[k] == after[k]).all() for k in before)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_function_is_kept_and_given_back(block):
    x, original, model = images(), network(), network()
    before = arrays_of(model)
    report = reparam.expand(model, block)
    assert report.expanded
    assert as_close(original, model, x)
    assert any(key not in before for key in arrays_of(model))
    assert all(done.roundings <= 1 for done in report.expanded)
    contracted = reparam.contract(model)
    assert contracted.contracted == tuple(done.where for done in report.expanded)
    assert (contracted.absorbed, contracted.biased) == ((), ())
    if block in ("qarepvgg", "rep_mixer"):  # its identity is taken off the weight: one rounding
        assert list(before) == list(arrays_of(model))
        assert as_close(original, model, x)
    else:
        assert same_arrays(before, arrays_of(model))


@pytest.mark.parametrize("block", BLOCKS)
def test_with_data_the_function_is_kept_in_training_as_well(block):
    """The network has no BatchNorm of its own whose statistics were not those of the images."""
    x = images(16)
    layers = [nn.Conv2D(4, 4, 5, padding=2, groups=4), nn.ReLU(), nn.Conv2D(4, 4, 3, padding=1)]
    original = randomise(nn.Sequential(*layers, nn.Conv2D(4, 2, 3)))
    model = copy.deepcopy(original)
    x = np.concatenate([x, x[:, :1]], axis=1)
    [truth] = run(original, x)
    assert reparam.expand(model, block, data=x).batches == 1
    assert as_close(original, model, x)
    model.train()
    trained = model(paddle.to_tensor(x)).numpy()
    assert np.abs(trained - truth).max() <= 1e-5 * np.abs(truth).max()
    plain = copy.deepcopy(original)
    reparam.expand(plain, block)
    plain.train()
    assert np.abs(plain(paddle.to_tensor(x)).numpy() - truth).max() > 0.01 * np.abs(truth).max()


def test_a_batch_norm_that_follows_makes_data_unnecessary():
    x = images(16)
    original = randomise(nn.Sequential(nn.Conv2D(3, 6, 3, bias_attr=False, padding=1)))
    original.add_sublayer("1", nn.BatchNorm2D(6))
    model = copy.deepcopy(original)
    reparam.expand(model)
    for layer in (original, model):
        layer.train()
    truth, found = (layer(paddle.to_tensor(x)).numpy() for layer in (original, model))
    # 1e-5 is added to another variance
    assert np.abs(found - truth).max() <= 1e-4 * np.abs(truth).max()


def test_statistics_are_those_of_all_batches():
    x = images(12)
    model = nn.Sequential(randomise(nn.Conv2D(3, 5, 3, padding=1)))
    y = model(paddle.to_tensor(x)).numpy().astype("float64") - model[0].bias.numpy()[:, None, None]
    reparam.expand(model, "acb", data=(part for part in np.split(x, 3)))
    norm = model[0].square_bn
    np.testing.assert_allclose(norm._mean.numpy(), y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    by_batch = np.mean([part.var((0, 2, 3)) for part in np.split(y, 3)], axis=0)
    np.testing.assert_allclose(norm._variance.numpy(), by_batch, rtol=1e-4)


def test_modes_of_layers_are_left_as_they_were():
    model = network()
    model.train()
    model[3].eval()
    reparam.expand(model, data=images())
    assert model.training
    assert model[0].training
    assert model[0].dbb_origin.bn.training
    assert not model[3].training
    assert not any(layer._forward_pre_hooks for layer in model.sublayers(include_self=True))


def train(model, x: np.ndarray, labels: np.ndarray, steps: int, rate: float = 0.02) -> list[float]:
    """Return the losses of ``steps`` steps of momentum on random parts of ``x``."""
    optimizer = paddle.optimizer.Momentum(rate, 0.9, parameters=model.parameters())
    rng = np.random.default_rng(0)
    model.train()
    losses = []
    for _ in range(steps):
        part = rng.choice(len(x), 16, replace=False)
        loss = F.cross_entropy(model(paddle.to_tensor(x[part])), paddle.to_tensor(labels[part]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def stripes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images (N, 2, 10, 10) of stripes in four directions, and which."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, count)
    h, w = np.mgrid[:10, :10]
    along = np.stack([h, w, h + w, h - w])[labels]
    phase = rng.uniform(0, 6, (count, 1, 1))
    x = np.sin(1.3 * along + phase)[:, None] + rng.normal(scale=0.6, size=(count, 2, 10, 10))
    return x.astype("float32"), labels


def classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2D(2, 6, 3, padding=1, bias_attr=False),
        nn.BatchNorm2D(6),
        nn.ReLU(),
        nn.Conv2D(6, 6, 5, padding=2, groups=6),
        nn.ReLU(),
        nn.Conv2D(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    paddle.seed(1)
    x, labels = stripes(512)
    model = classifier()
    losses = train(model, x, labels, 150)
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    return model, x, labels


@pytest.mark.parametrize("block", ["dbb", "qarepvgg"])
def test_expand_fine_tune_fuse(block, trained):
    """The whole of it: no prediction of the fine-tuned network changes, and it fits the old one."""
    original, x, labels = trained
    model = copy.deepcopy(original)
    reparam.expand(model, block, data=x[:64])
    before = {key: array.copy() for key, array in arrays_of(model).items()}
    losses = train(model, x, labels, 60, rate=0.01)
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
    after = arrays_of(model)
    kernels = [key for key in before if before[key].ndim == 4]
    assert [key for key in kernels if (after[key] == before[key]).all()] == []
    [truth] = run(in_float64(model), x.astype("float64"))
    [train_time] = run(model, x)

    deploy = copy.deepcopy(model)
    assert len(convert_to_deploy(deploy)) == 3
    plain = copy.deepcopy(model)
    assert reparam.contract(plain).absorbed == ("1",)
    fresh = classifier()
    assert fresh.set_state_dict(plain.state_dict()) == ([], [])
    for candidate in (deploy, plain, fresh):
        [found] = run(candidate, x)
        assert closeness(truth, train_time, found).verdict == "equal"
        np.testing.assert_array_equal(found.argmax(1), train_time.argmax(1))


@pytest.mark.parametrize("wrong", ["mean", "sign"])
def test_a_bias_that_the_batch_norm_does_not_take_rightly_is_seen(wrong, trained, monkeypatch):
    from reparam.models.training import expansion

    original, x, labels = trained
    model = copy.deepcopy(original)
    reparam.expand(model, "acb", "0", data=x[:64])
    train(model, x, labels, 5)
    right = expansion._absorb
    factor = {"mean": 0.0, "sign": -1.0}[wrong]
    monkeypatch.setattr(expansion, "_absorb", lambda norm, bias: right(norm, factor * bias))
    plain = copy.deepcopy(model)
    reparam.contract(plain)
    assert not as_close(model, plain, x)


def test_from_its_checkpoint_back_to_the_network_that_it_was(trained, tmp_path):
    """In another process nothing is left but the file: expand again, load, contract."""
    model, x, labels = copy.deepcopy(trained[0]), trained[1], trained[2]
    reparam.expand(model, data=x[:64])
    train(model, x, labels, 5)
    paddle.save(model.state_dict(), str(tmp_path / "expanded.pdparams"))
    other = classifier()
    reparam.expand(other)
    state = paddle.load(str(tmp_path / "expanded.pdparams"))
    assert other.set_state_dict(state) == ([], [])
    reparam.contract(other)
    fused = classifier()
    reparam.expand(fused)
    convert_to_deploy(fused)
    deploy = copy.deepcopy(model)
    convert_to_deploy(deploy)
    assert fused.set_state_dict(deploy.state_dict()) == ([], [])
    reparam.contract(fused)
    for plain in (other, fused):
        assert list(plain.state_dict()) == list(classifier().state_dict())
        assert as_close(model, plain, x)


def example(name: str):
    arrays = load_checkpoint(example_checkpoints()[name]).arrays
    found = reparam.recognise({key: value.shape for key, value in arrays.items()})
    model = create_model(found.name, **found.settings)
    model.set_state_dict(dict(arrays))
    model.eval()
    return model


@pytest.mark.parametrize(("block", "name"), [("dbb", "cspresnet"), ("acb", "repvgg")])
def test_a_trained_network_and_back(block, name):
    """Convolutions outside of its blocks, then, in deploy form, those of its blocks."""
    x = example_images()[0][:32]
    model = example(name)
    if name == "cspresnet":
        report = reparam.expand(model, block)
        inside = [kept for kept in report.kept if "fused as a whole" in kept.reason]
        assert inside
        assert report.expanded
        assert as_close(example(name), model, x)
        reparam.contract(model)
        assert same_arrays(arrays_of(example(name)), arrays_of(model))
    convert_to_deploy(model)
    before = arrays_of(model)
    report = reparam.expand(model, block)
    assert not any("fused as a whole" in kept.reason for kept in report.kept)
    assert as_close(example(name), model, x, reference=example(name))
    labels = run(example(name), x)[0].argmax(1)
    np.testing.assert_array_equal(run(model, x)[0].argmax(1), labels)
    folded = copy.deepcopy(model)
    assert len(convert_to_deploy(folded)) == len(report.expanded)
    fold_batch_norms(folded)
    assert as_close(example(name), folded, x, reference=example(name))
    reparam.contract(model)
    assert same_arrays(before, arrays_of(model))


class TestWhere:
    @pytest.mark.parametrize(
        ("where", "expanded"),
        [
            ("a", ["a.0", "a.1"]),
            ("a.*", ["a.0", "a.1"]),
            ("*.0", ["a.0", "b.0"]),
            (["a.1", "b"], ["a.1", "b.0", "b.1"]),
            (lambda path, conv: conv._kernel_size == [1, 1], ["b.1"]),
            (None, ["a.0", "a.1", "b.0"]),
        ],
    )
    def test_selects(self, where, expanded):
        model = nn.Sequential(
            ("a", nn.Sequential(*(nn.Conv2D(2, 2, 3, padding=1) for _ in range(2)))),
            ("b", nn.Sequential(nn.Conv2D(2, 2, 3, padding=1), nn.Conv2D(2, 2, 1))),
        )
        report = reparam.expand(model, where=where)
        assert [done.where for done in report.expanded] == expanded
        assert isinstance(model.a[1], DiverseBranchBlock) == ("a.1" in expanded)

    def test_a_pattern_that_names_nothing(self):
        with pytest.raises(UnsupportedModelError, match="where='stage1' names no convolution"):
            reparam.expand(network(), where=["0", "stage1"])

    def test_a_block_that_is_not_known(self):
        with pytest.raises(UnsupportedModelError, match="no block named 'ddb'") as caught:
            reparam.expand(network(), "ddb")
        assert "'dbb'" in caught.value.hint

    def test_settings_reach_the_block(self):
        model = network()
        reparam.expand(model, "large_kernel", small_kernel=3)
        assert model[0].small_conv.conv._kernel_size == [3, 3]
        with pytest.raises(UnsupportedModelError, match="no setting named 'groups'"):
            reparam.expand(network(), "dbb", groups=2)
        with pytest.raises(UnsupportedModelError, match="no version 3"):
            reparam.expand(network(), "qarepvgg", version=3)

    def test_nothing_to_expand(self):
        with pytest.raises(UnsupportedModelError, match="no convolution of Linear"):
            reparam.expand(nn.Linear(2, 2))
        with pytest.raises(UnsupportedModelError, match="no convolution of Conv2D"):
            reparam.expand(nn.Conv2D(2, 2, 3))
        model = network()
        reparam.expand(model)
        once = arrays_of(model)
        with pytest.raises(UnsupportedModelError) as caught:
            reparam.expand(model)
        assert "part of a DiverseBranchBlock, which is fused as a whole" in caught.value.found
        assert same_arrays(once, arrays_of(model))


def hooked(conv):
    conv.register_forward_post_hook(lambda layer, x, y: 2 * y)
    return conv


class OwnConv(nn.Conv2D):
    def forward(self, x):
        return super().forward(x) + 1


class OwnBlock(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x)

    def switch_to_deploy(self):
        self.conv.weight.set_value(2 * self.conv.weight)


def named(**geometry):
    return lambda: nn.Conv2D(4, 4, 3, **geometry)


def spoiled(conv, value):
    values = conv.weight.numpy()
    values[0, 0, 0, 0] = value
    conv.weight.set_value(values)
    return conv


LEFT = {
    "hooks": (lambda: hooked(named(padding=1)()), "it has hooks"),
    "weight norm": (lambda: nn.utils.weight_norm(named(padding=1)()), "it has hooks"),
    "a class of its own": (lambda: OwnConv(4, 4, 3, padding=1), "it is a OwnConv"),
    "transposed": (lambda: nn.Conv2DTranspose(4, 4, 3, padding=1), "it is a Conv2DTranspose"),
    "reflection": (named(padding=1, padding_mode="reflect"), "pads with 'reflect'"),
    "channels last": (named(padding=1, data_format="NHWC"), "layout is NHWC"),
    "valid": (named(padding=0), "not centred"),
    "asymmetric": (named(padding=[0, 2, 1, 1]), "not centred"),
    "SAME": (named(padding="SAME"), "given as 'SAME'"),
    "nested": (named(padding=[[0, 0], [0, 0], [1, 1], [1, 1]]), "given as [[0, 0]"),
    "even": (lambda: nn.Conv2D(4, 4, 4, padding=1), "no centre"),
    "dilation": (named(padding=2, dilation=2), "has no dilation"),
    "1x1": (lambda: nn.Conv2D(4, 4, 1), "name it in where="),
    "not finite": (lambda: spoiled(named(padding=1)(), np.inf), "is not finite"),
    "NaN": (lambda: spoiled(named(padding=1)(), np.nan), "is not finite"),
    "a block of its own": (OwnBlock, "fused as a whole"),
    "bfloat16": (lambda: named(padding=1)().to(dtype="bfloat16"), "its weight is bfloat16"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_expanded_is_left_and_told(name):
    make, said = LEFT[name]
    model = nn.Sequential(("odd", make()), ("plain", nn.Conv2D(4, 4, 3, padding=1)))
    before = {key: value.clone() for key, value in model.odd.state_dict().items()}
    report = reparam.expand(model)
    assert [done.where for done in report.expanded] == ["plain"]
    [kept] = report.kept
    assert kept.where.startswith("odd")
    assert said in kept.reason
    assert said in str(report)
    after = model.odd.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key].numpy(), value.numpy())


@pytest.mark.parametrize("what", ["layer", "weight", "list", "dictionary"])
def test_what_is_in_two_places_is_left(what):
    conv = nn.Conv2D(4, 4, 3, padding=1)
    model = nn.Sequential(conv, nn.Conv2D(4, 4, 3, padding=1))
    if what == "layer":
        model.add_sublayer("2", conv)
    if what == "weight":
        model.add_sublayer("2", nn.Conv2D(4, 4, 3, padding=1))
        model[2].weight = conv.weight
    if what == "list":
        model.stages = [conv]
    if what == "dictionary":
        model.stages = {"first": conv}
    report = reparam.expand(model)
    assert [done.where for done in report.expanded] == ["1"]
    assert report.kept
    assert all("in two places" in kept.reason for kept in report.kept)


def test_what_the_data_does_not_reach_is_left():
    """Nothing is known of what it is given; and it may be run under another name."""
    model = network()
    model.add_sublayer("aside", nn.Conv2D(3, 3, 3, padding=1))
    model.forward = lambda x: nn.Sequential(*list(model.children())[:-1])(x)
    report = reparam.expand(model, data=images())
    assert [kept.where for kept in report.kept] == ["6", "aside"]
    assert "does not run it" in report.kept[1].reason
    assert type(model.aside) is nn.Conv2D
    assert reparam.contract(model).contracted == ("0", "2", "5")


def test_a_network_that_is_traced_already():
    model = paddle.jit.to_static(network())
    with pytest.raises(UnsupportedModelError, match="traced"):
        reparam.expand(model)


def test_a_batch_norm_after_two_convolutions_takes_no_bias():
    """Its mean cannot be off by the bias of one of them."""
    norm = nn.BatchNorm2D(4)
    parts = [nn.Sequential(nn.Conv2D(4, 4, 3, padding=1, bias_attr=False), norm) for _ in "ab"]
    report = reparam.expand(nn.Sequential(*parts))
    assert [done.norm for done in report.expanded] == [None, None]


def test_a_bias_that_nothing_takes_is_told(trained):
    model = network(bias=False)
    reparam.expand(model, "acb", data=images())
    randomise(model)
    expanded = copy.deepcopy(model)
    contracted = reparam.contract(model)
    assert contracted.absorbed == ("3",)
    assert contracted.biased == ("5",)
    assert arrays_of(model).keys() == arrays_of(network()).keys()
    assert as_close(expanded, model, images())


class TestNothingIsHalfDone:
    def test_data_that_the_network_does_not_take(self):
        model = network()
        before = arrays_of(model)
        with pytest.raises(UnsupportedModelError, match="cannot be called with a batch"):
            reparam.expand(model, data=images(channels=5))
        with pytest.raises(UnsupportedModelError) as caught:
            reparam.expand(model, data=[(images(), np.zeros(4))])
        assert "for images, labels in loader" in caught.value.hint
        with pytest.raises(UnsupportedModelError, match="NaN or Inf from data="):
            reparam.expand(model, data=np.nan * images())
        assert same_arrays(before, arrays_of(model))
        assert not any(layer._forward_pre_hooks for layer in model.sublayers())

    def test_a_loader_that_is_used_up(self):
        model = network()
        with pytest.raises(UnsupportedModelError, match="holds no batch"):
            reparam.expand(model, data=iter([]))
        assert list(arrays_of(model)) == list(arrays_of(network()))

    @pytest.mark.parametrize("change", [reparam.expand, reparam.contract])
    def test_what_is_no_network(self, change):
        with pytest.raises(UnsupportedModelError, match="no network"):
            change("resnet50")

    def test_contracting_what_is_not_finite(self):
        model = network()
        reparam.expand(model)
        model[5].dbb_origin.conv.weight.set_value(np.full((8, 4, 3, 7), np.nan, "float32"))
        before = list(arrays_of(model))
        with pytest.raises(ReparamError, match="cannot contract block '5'"):
            reparam.contract(model)
        assert list(arrays_of(model)) == before


# Deliberately wrong ways to enter; each has to be refused by the proof.


def gamma_of_one(block, maker):
    for name, layer in block.named_sublayers():
        if name in ("dbb_1x1.bn", "rbr_identity"):
            layer.weight.set_value(paddle.ones_like(layer.weight))


def epsilon_forgotten(block, maker):
    norm = entering.part(block, maker.path[0])
    norm._variance.set_value(paddle.ones_like(norm._variance))


def bias_forgotten(block, maker):
    norm = entering.part(block, maker.path[-1])
    norm.bias.set_value(paddle.zeros_like(norm.bias))


def identity_left_in(block, maker):
    main = entering.part(block, maker.conv)
    weight = main.weight.numpy()
    weight[range(4), range(4), 1, 1] += 1
    main.weight.set_value(weight)


@pytest.mark.parametrize(
    ("block", "spoil"),
    [
        ("dbb", gamma_of_one),
        ("repvgg", gamma_of_one),
        ("acb", epsilon_forgotten),
        ("dbb", bias_forgotten),
        ("qarepvgg", bias_forgotten),
        ("qarepvgg", identity_left_in),
    ],
)
def test_a_wrong_entrance_is_refused(block, spoil, monkeypatch):
    from reparam.models.training import expansion

    def wrong(new, maker, conv):
        entering.take_over(new, maker, conv)
        spoil(new, maker)

    monkeypatch.setattr(expansion, "take_over", wrong)
    model = nn.Sequential(randomise(nn.Conv2D(4, 4, 3, padding=1)))
    with pytest.raises(NotEquivalentError, match="is not the convolution in whose place"):
        reparam.expand(model, block)
    assert type(model[0]) is nn.Conv2D


def test_the_weight_stays_the_same_parameter():
    """For optimizers that hold it, for weights that are frozen."""
    model = network()
    weights = [model[0].weight, model[2].weight]
    weights[1].stop_gradient = True
    reparam.expand(model)
    assert model[0].dbb_origin.conv.weight is weights[0]
    assert model[2].dbb_origin.conv.weight is weights[1]
    assert model[2].dbb_origin.conv.weight.stop_gradient
    reparam.contract(model)
    assert model[0].weight is weights[0]


def test_copies_and_other_dtypes_are_contracted_too():
    model = network()
    reparam.expand(model)
    other = copy.deepcopy(model)
    other.to(dtype="float64")
    reparam.contract(other)
    assert other[0].weight.dtype == paddle.float64
    before = arrays_of(network())
    after = arrays_of(other)
    assert list(before) == list(after)
    for key, array in before.items():
        np.testing.assert_allclose(after[key], array, rtol=1e-7, atol=1e-12)
    assert isinstance(model[0], DiverseBranchBlock)


def test_a_network_in_float64():
    model = network().to(dtype="float64")
    original = copy.deepcopy(model)
    x = images().astype("float64")
    reparam.expand(model, data=x)
    assert model[0].dbb_origin.bn._mean.dtype == paddle.float64
    [truth], [found] = run(original, x), run(model, x)
    assert np.abs(found - truth).max() <= 1e-11 * np.abs(truth).max()  # epsilon: float32


class ConvNorm(nn.Layer):
    """As users write it; nothing says that the BatchNorm comes after the convolution."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2D(outputs)
        self.conv = nn.Conv2D(inputs, outputs, 3, padding=1, bias_attr=False)
        self.kind = kind

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "moved":
            y = y + 1
        z = self.norm(y)
        if self.kind == "beside":
            z = z + F.relu(y)
        if self.kind == "checked":
            assert not y.isnan().any().item()
        return F.relu(z)


@pytest.mark.parametrize("data", [True, False])
def test_a_batch_norm_is_found_by_the_flow_of_the_data(data):
    kinds = ["plain", "beside", "moved", "checked", "plain"]
    model = nn.Sequential(*(ConvNorm(3, 3, kind) for kind in kinds), nn.Conv2D(3, 3, 1))
    model = randomise(model)
    report = reparam.expand(model, data=images() if data else None)
    found = ["0.norm", None, None, None, "4.norm"] if data else [None] * 5
    assert [done.norm for done in report.expanded] == found
    randomise(model)
    expanded = copy.deepcopy(model)
    contracted = reparam.contract(model)
    assert contracted.absorbed == tuple(norm for norm in found if norm)
    assert as_close(expanded, model, images())


def test_a_batch_norm_that_runs_twice_takes_no_bias():
    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 3, 3, padding=1, bias_attr=False)
            self.norm = nn.BatchNorm2D(3)

        def forward(self, x):
            return self.norm(self.norm(self.conv(x)))

    [done] = reparam.expand(Twice(), data={"x": images()}).expanded
    assert done.norm is None
