"""Where weights stand in files that trainers write, and which of them are used."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint, save_checkpoint
from reparam.checkpoint.inspection import inspect
from reparam.checkpoint.manifest import manifest_path
from reparam.checkpoint.pipeline import fuse
from reparam.checkpoint.roles import QUANTISED
from reparam.checkpoint.selection import find_weights
from reparam.equivalence import Probing, verify
from reparam.errors import (
    CheckpointError,
    OptimizerStateError,
    PartError,
    UnsupportedModelError,
)
from tests.weights import cspresnet_arrays, repvgg_arrays, write

QUICK = Probing(network=False)
OPTIMIZER = {
    "conv2d_0.w_0_moment1_0": np.ones((2, 3)),
    "conv2d_0.w_0_moment2_0": np.ones((2, 3)),
    "conv2d_0.w_0_beta1_pow_acc_0": np.ones(1),
    "LR_Scheduler": {"last_epoch": 3, "last_lr": 0.1},
}
TORCH_OPTIMIZER = {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def state(seed: int = 0) -> dict[str, np.ndarray]:
    return repvgg_arrays(seed)


def prefixed(prefix: str, arrays: dict) -> dict:
    return {prefix + key: array for key, array in arrays.items()}


def dump(folder, value, name="ckpt.pdparams", protocol=4):
    path = folder / name
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert np.array_equal(found[key], array)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("value", "part", "left_out"),
    [
        ({"model": state(), "epoch": 3, "optimizer": OPTIMIZER}, "model", ("epoch", "optimizer")),
        ({"state_dict": state()}, "state_dict", ()),
        ({"model": {"state_dict": state(), "epoch": 1}}, "model.state_dict", ("model.epoch",)),
        ({"net": state(), "opt": TORCH_OPTIMIZER, "lr": 0.1}, "net", ("opt", "lr")),
        ({"state": state(), "step": np.float64(7)}, "state", ("step",)),
        ({"weights": state(), "whatever": OPTIMIZER}, "weights", ("whatever",)),
        ({**state(), "epoch": 3, "best": None}, "", ("epoch", "best")),
        ({"model": state(), "LR_Scheduler": {"last_epoch": 1}}, "model", ("LR_Scheduler",)),
    ],
)
def test_the_weights_are_found_and_the_rest_is_named(tmp_path, protocol, value, part, left_out):
    found = load_checkpoint(dump(tmp_path, value, protocol=protocol))
    assert_same(found.arrays, state())
    assert found.layout.part == part
    assert found.layout.left_out == left_out
    said = " ".join(found.layout.notices)
    assert part in said
    assert all(f"'{name}'" in said for name in left_out)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_layers.", "Student.", "ema.", "backbone.", "module.model."]
)
def test_a_prefix_that_every_weight_has_is_taken_off(tmp_path, prefix):
    names = {f"{prefix}{key}": f"p_{i}" for i, key in enumerate(state())}
    path = tmp_path / "ckpt.pdparams"
    save_checkpoint(path, prefixed(prefix, state()), names=names)
    found = load_checkpoint(path)
    assert_same(found.arrays, state())
    assert found.layout.prefix == prefix
    assert found.names == {key: f"p_{i}" for i, key in enumerate(state())}
    assert (
        inspect(path).architecture == inspect(write(tmp_path, state(), "x.pdparams")).architecture
    )


@pytest.mark.parametrize(
    "arrays",
    [
        {**prefixed("module.", state()), "extra": np.ones(2, np.float32)},
        {**prefixed("backbone.", state()), "neck.weight": np.ones(2, np.float32)},
        prefixed("mynet.", state()),
        {"module.": np.ones(2, np.float32), "module.a": np.ones(2, np.float32)},
        {"model": np.ones(2, np.float32), "model.a": np.ones(2, np.float32)},
    ],
)
def test_a_prefix_that_is_no_wrapper_of_everything_stays(tmp_path, arrays):
    found = load_checkpoint(write(tmp_path, arrays))
    assert_same(found.arrays, arrays)
    assert found.layout.prefix == ""
    assert found.layout.notices == ()


CHOICES = {
    "ema beside model": ({"model": state(0), "ema": state(1)}, 1, "ema", "averaged weights"),
    "student and teacher": ({"teacher": state(0), "student": state(1)}, 1, "student", "student"),
    "Student.* and Teacher.*": (
        {**prefixed("Teacher.", state(0)), **prefixed("Student.", state(1))},
        1, "Student", "student",
    ),
    "student, teacher and a loss": (
        {**prefixed("student_model.", state(1)), **prefixed("teacher_model.", state(0)),
         "distill_loss.weight": np.ones(3)}, 1, "student_model", "student"
    ),
    "module.Student.*": (
        {**prefixed("module.Teacher.", state(0)), **prefixed("module.Student.", state(1))},
        1, "module.Student", "student",
    ),
    "ema.* and model.*": (
        {**prefixed("model.", state(0)), **prefixed("ema.", state(1))}, 1, "ema", "averaged weights"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_what_gets_deployed_is_chosen_and_said(tmp_path, case):
    value, seed, where, kind = CHOICES[case]
    found = load_checkpoint(dump(tmp_path, value))
    assert_same(found.arrays, state(seed))
    assert found.layout.kind == kind
    assert f"'{where}'" in " ".join(found.layout.notices)
    assert "--prefix chooses another" in " ".join(found.layout.notices)
    for other in found.layout.choices:  # each can really be chosen
        chosen = load_checkpoint(tmp_path / "ckpt.pdparams", prefix=other)
        assert_same(chosen.arrays, state(1 - seed))
        assert "changed nothing" not in " ".join(chosen.layout.notices)


@pytest.mark.parametrize(
    "value",
    [
        {"generator": state(0), "discriminator": state(1)},
        {"model": state(0), "ema": state(1), "discriminator": state(2)},
        {"student": state(0), "teacher": state(1), "ema": state(2)},
        {"model": {"a": state(0), "b": state(1)}},
        {"model": state(0), "net": state(1)},
    ],
)
def test_several_sets_of_weights_without_a_rule_are_refused(tmp_path, value):
    path = dump(tmp_path, value)
    with pytest.raises(PartError, match="nothing says which") as caught:
        load_checkpoint(path)
    offered = str(caught.value).partition("such as --prefix ")[2]
    assert_same(load_checkpoint(path, prefix=offered).arrays, state(0))


def test_weights_at_two_levels_are_refused(tmp_path):
    with pytest.raises(PartError, match="two levels"):
        load_checkpoint(dump(tmp_path, {"head": np.ones((2, 2)), "backbone": state()}))


class TestPrefixOption:
    def detector(self):
        neck = {"neck.conv.weight": np.ones((2, 2, 1, 1), np.float32)}
        return {**prefixed("backbone.", cspresnet_arrays()), **neck}

    def test_a_part_of_a_detector_is_used_as_a_whole(self, tmp_path):
        path = write(tmp_path, self.detector())
        assert inspect(path).architecture is None
        found = inspect(path, prefix="backbone")
        assert found.architecture == "cspresnet"
        assert found.layout.left_out == ("neck.*",)
        result = fuse(path, prefix="backbone")
        assert verify(path, result.output, Probing(network=False, prefix="backbone")).verdict == (
            "equivalent"
        )
        assert not any(key.startswith("backbone.") for key in load_checkpoint(result.output).arrays)

    def test_verify_of_the_result_alone_finds_the_same_part_of_the_source(self, tmp_path):
        result = fuse(write(tmp_path, self.detector()), prefix="backbone")
        assert '"wanted": "backbone"' in manifest_path(result.output).read_text()
        assert verify(result.output, probing=QUICK).verdict == "equivalent"

    def test_behind_wrappers_and_parts(self, tmp_path):
        value = {"model": prefixed("module.", self.detector()), "ema": self.detector()}
        path = dump(tmp_path, value)
        for prefix in ("backbone", "ema.backbone", "model.backbone", "model.module.backbone"):
            assert_same(load_checkpoint(path, prefix=prefix).arrays, cspresnet_arrays())

    @pytest.mark.parametrize("prefix", ["none", "backbone.none", "back", "model"])
    def test_one_that_names_nothing_is_refused(self, tmp_path, prefix):
        with pytest.raises(PartError, match="'backbone', 'neck'"):
            load_checkpoint(write(tmp_path, self.detector()), prefix=prefix)

    @pytest.mark.parametrize("prefix", ["", ".", "a..b"])
    def test_one_that_is_no_name_is_refused(self, tmp_path, prefix):
        with pytest.raises(PartError, match="no prefix"):
            load_checkpoint(write(tmp_path, self.detector()), prefix=prefix)

    def test_one_that_changes_nothing_is_said_to(self, tmp_path):
        path = write(tmp_path, prefixed("module.", state()))
        for prefix in ("module", "module."):
            found = load_checkpoint(path, prefix=prefix)
            assert_same(found.arrays, state())
            assert "changed nothing" in found.layout.notices[-1]
        nested = dump(tmp_path, {"ema": state(1), "model": state(0)}, "nested.pdparams")
        assert "changed nothing" in load_checkpoint(nested, prefix="ema").layout.notices[-1]
        assert "changed nothing" not in load_checkpoint(nested, prefix="model").layout.notices[-1]


def test_a_fusion_says_what_was_taken_off(tmp_path):
    result = fuse(dump(tmp_path, {"model": prefixed("module.", state()), "epoch": 3}))
    said = " ".join(result.report.notices)
    assert "'model'" in said
    assert "'module.' was taken off" in said
    assert "left out: 'epoch'" in said
    note = manifest_path(result.output).read_text()
    assert '"prefix": "module."' in note
    assert '"part": "model"' in note
    assert list(load_checkpoint(result.output).arrays) == list(
        load_checkpoint(fuse(write(tmp_path, state(), "plain.pdparams")).output).arrays
    )


def test_a_renamed_key_is_named_behind_a_prefix(tmp_path):
    arrays = prefixed("module.", state())
    arrays["module.linear.wait"] = arrays.pop("module.linear.weight")
    with pytest.raises(CheckpointError, match=r"missing: 'linear\.weight'"):
        fuse(write(tmp_path, arrays))


class TestOptimizerState:
    @pytest.mark.parametrize("value", [OPTIMIZER, {"LR_Scheduler": {"last_epoch": 1}}])
    def test_is_recognised_and_refused(self, tmp_path, value):
        path = dump(tmp_path, value, "x.pdopt")
        with pytest.raises(OptimizerStateError, match="state of an optimizer"):
            load_checkpoint(path)
        write(tmp_path, state(), "x.pdparams")
        with pytest.raises(OptimizerStateError, match=r"x\.pdparams"):
            load_checkpoint(path)

    def test_of_paddle(self, tmp_path):
        from reparam.adapters.paddle_models import import_paddle

        paddle = import_paddle()
        layer = paddle.nn.Linear(2, 3)
        for make in (paddle.optimizer.Momentum, paddle.optimizer.AdamW, paddle.optimizer.RMSProp):
            rate = paddle.optimizer.lr.PiecewiseDecay([2], [0.1, 0.2])
            optimizer = make(learning_rate=rate, parameters=layer.parameters())
            layer(paddle.ones([1, 2])).sum().backward()
            optimizer.step()
            saved = optimizer.state_dict()
            paddle.save(saved, str(tmp_path / "x.pdopt"))
            with pytest.raises(OptimizerStateError):
                load_checkpoint(tmp_path / "x.pdopt")
            whole = {"model": layer.state_dict(), "optimizer": saved, "epoch": 3}
            paddle.save(whole, str(tmp_path / "x.pdparams"))
            found = load_checkpoint(tmp_path / "x.pdparams")
            assert sorted(found.arrays) == ["bias", "weight"]
            assert found.names == {key: t.name for key, t in layer.state_dict().items()}
            found = find_weights({"weights": {"w": np.ones(2)}, "other": pickle_of(tmp_path)})
            assert list(found.arrays) == ["w"]


def pickle_of(folder):
    from reparam.checkpoint.opening import mapped
    from reparam.checkpoint.pickle_reader import read_pickle

    return read_pickle(memoryview(mapped(folder / "x.pdopt")))


def quantised(style: str) -> dict[str, np.ndarray]:
    """Names as paddle 3.3.1 writes them for a network in quantisation-aware training."""
    arrays = repvgg_arrays(deploy=True)
    convs = [key.removesuffix(".weight") for key, a in arrays.items() if a.ndim == 4]
    scale = np.ones(1, np.float32)
    if style == "paddle.quantization":
        for conv in convs:
            for name in ("weight_quanter", "activation_quanter"):
                arrays |= {f"{conv}.{name}.{s}": scale for s in ("_scale", "_state", "_accum")}
        return arrays
    found = {}
    for key, array in arrays.items():
        conv = key.rpartition(".")[0]
        found[f"{conv}._layer.{key.rpartition('.')[2]}"] = array
        if conv in convs:
            last = "s" if style == "lsq" else "_scale"
            found[f"{conv}._layer._fake_quant_weight.{last}"] = scale
            found[f"{conv}._layer._fake_quant_input.{last}"] = scale
            found[f"{conv}._ma_output_scale._scale"] = scale
    return found


class TestQuantised:
    @pytest.mark.parametrize("style", ["paddle.quantization", "imperative", "lsq"])
    def test_refused_with_the_reason_and_inspected(self, tmp_path, style):
        path = write(tmp_path, quantised(style))
        for use in (fuse, load_checkpoint, lambda p: verify(p, probing=QUICK)):
            with pytest.raises(
                UnsupportedModelError, match="scales were trained for these weights"
            ):
                use(path)
        found = inspect(path)
        assert found.layout.kind == QUANTISED
        assert found.form == "deploy"
        assert found.architecture == "repvgg"

    def test_a_candidate_of_verify_too(self, tmp_path):
        source = write(tmp_path, state())
        candidate = write(tmp_path, quantised("lsq"), "qat.pdparams")
        with pytest.raises(UnsupportedModelError):
            verify(source, candidate, QUICK)

    def test_the_names_are_those_of_paddle(self, tmp_path):
        from reparam.adapters.paddle_models import import_paddle

        paddle = import_paddle()
        from paddle.quantization import QAT, QuantConfig
        from paddle.quantization.imperative import ImperativeQuantAware
        from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver

        def network():
            return paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))

        quanter = FakeQuanterWithAbsMaxObserver(moving_rate=0.9)
        config = QuantConfig(activation=quanter, weight=quanter)
        networks = [QAT(config).quantize(network(), inplace=False)]
        for kind in ("abs_max", "channel_wise_abs_max"):
            networks.append(network())
            ImperativeQuantAware(weight_quantize_type=kind).quantize(networks[-1])
        for layer in networks:
            path = tmp_path / "x.pdparams"
            paddle.save(layer.state_dict(), str(path))
            assert load_checkpoint(path, accept_quantised=True).layout.kind == QUANTISED
            with pytest.raises(UnsupportedModelError):
                load_checkpoint(path)


class TestHostileNesting:
    def test_dicts_that_hold_themselves(self):
        loop: dict = {"step": np.ones(1)}
        loop["model"] = loop
        with pytest.raises(CheckpointError, match="too deep"):
            find_weights(loop)

    def test_dicts_that_hold_themselves_often(self):
        loop: dict = {"name": "no weights"}
        loop |= {str(i): loop for i in range(50)}
        with pytest.raises(CheckpointError, match="no weights"):
            find_weights(loop)

    def test_dicts_that_are_there_many_times_over(self):
        value: dict = {"w": np.ones(2)}
        for _ in range(7):
            value = {str(i): value for i in range(50)}
        with pytest.raises(PartError):
            find_weights(value)

    def test_very_deep_nesting_holds_no_weights(self):
        value: dict = {"w": np.ones(2)}
        for _ in range(500):
            value = {"model": value}
        with pytest.raises(CheckpointError, match="no weights"):
            find_weights(value)

    def test_a_name_of_a_thousand_wrappers(self):
        with pytest.raises(CheckpointError, match="too long"):
            find_weights({"model." * 20_000 + "w": np.ones(2)})
