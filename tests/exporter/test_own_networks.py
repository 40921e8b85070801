"""A network of the user's own through fusing, verifying, exporting; nothing wrong is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reparam.adapters.foreign_models import ForeignModel
from reparam.checkpoint import load_checkpoint
from reparam.equivalence import Probing, verify
from reparam.errors import (
    CheckpointError,
    NotEquivalentError,
    NotFusibleError,
    OutputError,
    UnsupportedModelError,
)
from reparam.exporter import export
from reparam.exporter.benchmarking import Protocol, benchmark
from reparam.exporter.layer_fusing import fuse_layers
from reparam.exporter.layer_networks import has_branches
from tests.converter import needs_converter
from tests.own_network import MISTAKES, weights
from tests.weights import write

SPEC = "tests.own_network:build"
SIZE = (16, 12)


def own(**arguments) -> ForeignModel:
    return ForeignModel(SPEC, arguments)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path, weights())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    path = write(folder, weights(as_dict=True))
    return path, export(path, model=own(as_dict=True), input_size=SIZE)


class TestFuse:
    def test_the_deploy_form_and_its_proof(self, source):
        result = fuse_layers(source, own())
        report = result.report
        assert [proved.block.where for proved in report.fused] == ["stem", "body.0", "body.1"]
        assert all(proved.check.verdict == "equal" for proved in report.fused)
        assert report.network.verdict == "equal"
        assert report.left == ()
        arrays = load_checkpoint(result.output).arrays
        assert "stem.one.weight" in arrays
        assert not any("wide" in key for key in arrays)
        before = weights()
        carried = [key for key in arrays if key in before]
        assert report.carried == len(carried) == 6
        assert all((arrays[key] == before[key]).all() for key in carried)

    def test_the_manifest_says_who_converted(self, source):
        result = fuse_layers(source, own(width=8))
        note = json.loads(result.output.with_name("ckpt.deploy.pdparams.manifest.json").read_text())
        assert note["sha256"] == result.sha256
        assert note["report"]["architecture"] == SPEC
        assert note["report"]["arguments"] == {"width": 8}
        (stem, *_) = note["report"]["fused"]
        assert stem["method"] == "convert_to_deploy"
        assert stem["kind"] == "tests.own_network.Block"
        assert stem["check"]["verdict"] == "equal"
        assert 0 < stem["check"]["bound"] < 1e-2

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_wrong_method_writes_nothing(self, mistake, tmp_path):
        arguments = {"mistake": mistake, "attention": True, "width": 16}
        source = write(tmp_path, weights(**arguments))
        with pytest.raises(NotEquivalentError) as caught:
            fuse_layers(source, own(**arguments))
        assert caught.value.exit_code == 1
        assert "block 'body.0'" in caught.value.what
        assert "tests.own_network.Block" in caught.value.why
        assert list(tmp_path.iterdir()) == [source]

    def test_a_wrong_block_can_be_left(self, tmp_path):
        arguments = {"mistake": "epsilon", "width": 16}
        source = write(tmp_path, weights(**arguments))
        report = fuse_layers(source, own(**arguments), skip=["body.0"]).report
        assert [proved.block.where for proved in report.fused] == ["stem", "body.1"]
        assert [(left.where, left.reason) for left in report.left] == [("body.0", "--skip")]

    def test_skipping_by_pattern(self, source):
        report = fuse_layers(source, own(), skip=["body.*"], dry_run=True).report
        assert [left.where for left in report.left] == ["body.0", "body.1"]
        with pytest.raises(UnsupportedModelError, match="--skip boddy names no block"):
            fuse_layers(source, own(), skip=["boddy"], dry_run=True)

    def test_fusing_twice_is_fusing_once(self, source):
        first = fuse_layers(source, own())
        second = fuse_layers(first.output, own(), source.with_name("again.pdparams"))
        assert second.report.fused == ()
        assert second.report.already == ("stem", "body.0", "body.1")
        assert (
            load_checkpoint(second.output).arrays.keys()
            == load_checkpoint(first.output).arrays.keys()
        )
        with pytest.raises(NotFusibleError, match="nothing to convert"):
            fuse_layers(first.output, own(), source.with_name("third.pdparams"), strict=True)
        assert not source.with_name("third.pdparams").exists()

    def test_a_half_fused_checkpoint_is_finished(self, source):
        half = fuse_layers(source, own(), source.with_name("half.pdparams"), skip=["body.1"])
        rest = fuse_layers(half.output, own(), source.with_name("rest.pdparams"))
        whole = load_checkpoint(fuse_layers(source, own()).output).arrays
        found = load_checkpoint(rest.output).arrays
        assert found.keys() == whole.keys()
        assert all((found[key] == whole[key]).all() for key in whole)

    def test_strict_refuses_what_was_left(self, source):
        with pytest.raises(NotFusibleError, match="not everything"):
            fuse_layers(source, own(), skip=["stem"], strict=True)

    def test_a_dry_run_writes_nothing(self, source, tmp_path):
        assert fuse_layers(source, own(), dry_run=True).output is None
        assert list(tmp_path.iterdir()) == [source]

    def test_outputs_are_guarded(self, source):
        with pytest.raises(OutputError, match="is the input"):
            fuse_layers(source, own(), source)
        fuse_layers(source, own())
        with pytest.raises(OutputError, match="exists already"):
            fuse_layers(source, own())
        fuse_layers(source, own(), force=True)

    def test_a_checkpoint_of_another_network(self, source):
        with pytest.raises(CheckpointError, match="arrays are not those of a Network"):
            fuse_layers(source, own(width=12))

    def test_nan_in_the_checkpoint(self, tmp_path):
        arrays = weights()
        arrays["head.bias"][2] = np.nan
        with pytest.raises(CheckpointError, match="not finite"):
            fuse_layers(write(tmp_path, arrays), own())

    def test_float16_arrays_are_widened(self, tmp_path):
        arrays = {key: array.astype(np.float16) for key, array in weights().items()}
        result = fuse_layers(write(tmp_path, arrays), own())
        assert {a.dtype.name for a in load_checkpoint(result.output).arrays.values()} == {"float32"}
        assert "float32" in result.report.notices[0]

    def test_integers_are_not_taken_for_weights(self, tmp_path):
        arrays = weights()
        arrays["head.bias"] = arrays["head.bias"].astype(np.int32)
        with pytest.raises(CheckpointError, match=r"head\.bias is int32"):
            fuse_layers(write(tmp_path, arrays), own())

    def test_channels_that_do_not_fit(self, source):
        with pytest.raises(UnsupportedModelError, match="does not run on an image"):
            fuse_layers(source, ForeignModel(SPEC, {}, input_channels=5))

    def test_a_network_that_changes_its_mind(self, tmp_path):
        source = write(tmp_path, weights())
        model = ForeignModel("tests.exporter.test_own_networks:dropping", {})
        with pytest.raises(UnsupportedModelError, match="two answers to one image"):
            fuse_layers(source, model)

    def test_a_network_without_a_convolution(self, tmp_path):
        source = write(tmp_path, {"weight": np.ones((3, 2), np.float32), "bias": np.ones(2, "f4")})
        model = ForeignModel("paddle.nn:Linear", {"in_features": 3, "out_features": 2})
        with pytest.raises(UnsupportedModelError, match="--input-channels"):
            fuse_layers(source, model)


class TestVerify:
    def test_with_its_conversion_and_back(self, source):
        fused = fuse_layers(source, own()).output
        probing = Probing(model=own())
        for first, second in ((source, None), (source, fused), (fused, None), (fused, source)):
            result = verify(first, second, probing)
            assert result.verdict == "equivalent", result
            assert [stage.name for stage in result.stages][-2:] == ["blocks", "network"]
            assert len(result.stages[-2].blocks) == 3
            assert result.architecture == SPEC

    def test_methods_that_keep_the_branches(self, source):
        """The state dict grows by the conversion, as that of PaddleClas' RepVGG does."""
        model = ForeignModel("tests.exporter.test_own_networks:keeping", {})
        result = fuse_layers(source, model)
        assert len(load_checkpoint(result.output).arrays) > len(weights())
        assert "keep the arrays of their branches" in result.report.notices[0]
        for first, second in ((source, result.output), (result.output, source)):
            found = verify(first, second, Probing(model=model))
            assert found.verdict == "equivalent"
            assert len(found.stages[1].blocks) == 3

    @pytest.mark.parametrize(
        ("key", "stage"), [("stem.one.weight", "blocks"), ("norm.bias", "other arrays")]
    )
    def test_a_value_that_differs(self, key, stage, source):
        arrays = dict(load_checkpoint(fuse_layers(source, own()).output).arrays)
        arrays[key] = arrays[key] * np.float32(1.0001)
        result = verify(source, write(source.parent, arrays, "other.pdparams"),
                        Probing(model=own()))  # fmt: skip
        assert result.verdict == "different"
        assert [s.name for s in result.stages if s.verdict == "different"] == [stage]
        assert result.stages[-1].name != "network"  # not run when the arrays differ already

    def test_a_wrong_method_of_the_network(self, tmp_path):
        arguments = {"mistake": "identity"}
        source = write(tmp_path, weights(**arguments))
        result = verify(source, None, Probing(model=own(**arguments)))
        assert result.verdict == "different"
        assert "block 'body.0'" in result.first_difference

    def test_without_running_the_network(self, source):
        result = verify(source, None, Probing(model=own(), network=False))
        assert [stage.name for stage in result.stages] == ["blocks"]

    def test_a_probe_of_the_wrong_shape(self, source):
        with pytest.raises(CheckpointError, match=r"needed: \(N, 3, H, W\)"):
            verify(source, None, Probing(model=own(), own_input=np.ones((1, 4, 8, 8), "f4")))

    def test_a_size_that_was_asked_for_has_to_run(self, source):
        model = ForeignModel("tests.exporter.test_own_networks:even", {})
        assert verify(source, None, Probing(model=model)).verdict == "equivalent"
        with pytest.raises(UnsupportedModelError, match="only even sizes"):
            verify(source, None, Probing(model=model, sizes=[(32, 32), (33, 33)]))

    @needs_converter
    def test_an_onnx_file(self, exported):
        path, report = exported
        result = verify(path, report.output, Probing(model=own(as_dict=True)))
        assert result.verdict == "equivalent"
        other = write(path.parent, weights(seed=1, as_dict=True), "other.pdparams")
        assert verify(other, report.output, Probing(model=own(as_dict=True))).verdict == "different"
        with pytest.raises(CheckpointError, match="without running the network"):
            verify(path, report.output, Probing(model=own(as_dict=True), network=False))


def keeping():
    """Build a network whose blocks keep their branches beside the one convolution."""
    from tests.own_network import Block, build

    class Keeping(Block):
        def convert_to_deploy(self):
            wide, narrow, alpha, identity = self.wide, self.narrow, self.alpha, self.identity
            super().convert_to_deploy()
            self.wide, self.narrow, self.alpha, self.identity = wide, narrow, alpha, identity

    network = build()
    for block in (network.stem, *network.body):
        block.__class__ = Keeping
    return network


def dropping():
    """Build a network whose dropout is always on."""
    from tests.own_network import F, Network

    class Dropping(Network):
        def forward(self, pixels):
            return F.dropout(super().forward(pixels), 0.5, training=True)

    return Dropping(8, 5, False)


def even():
    """Build a network that refuses images of odd height."""
    from tests.own_network import Network

    class Even(Network):
        def forward(self, pixels):
            if pixels.shape[2] % 2:
                raise ValueError("only even sizes")
            return super().forward(pixels)

    return Even(8, 5, False)


@needs_converter
class TestExport:
    def test_one_file_of_the_converted_network(self, exported):
        _, report = exported
        assert report.architecture == SPEC
        assert report.input.name == "image"
        assert report.input.shape == ("batch", 3, *SIZE)
        assert report.ops_after["Conv"] == 3
        assert "BatchNormalization" not in report.ops_after  # it was outside the blocks
        assert (report.blocks, report.fused_blocks) == (3, 3)
        assert report.source_form == "train-time"
        assert report.worst.verdict == "equal"

    def test_the_network_as_it_is(self, source):
        report = export(source, model=own(), input_size=SIZE, fuse=False)
        assert report.input.name == "pixels"
        assert report.ops_after["Conv"] == 6
        assert report.ops_after["BatchNormalization"] == 9
        assert report.fused_blocks == 0

    def test_a_checkpoint_in_deploy_form(self, source):
        fused = fuse_layers(source, own()).output
        report = export(fused, model=own(), input_size=SIZE)
        assert report.source_form == "deploy"
        assert report.fused_blocks == 3

    @pytest.mark.parametrize("mistake", ["epsilon", "corner"])
    def test_a_wrong_method_writes_nothing(self, mistake, tmp_path):
        arguments = {"mistake": mistake, "width": 16}
        source = write(tmp_path, weights(**arguments))
        with pytest.raises(NotEquivalentError, match=r"block 'body\.0'"):
            export(source, model=own(**arguments), input_size=SIZE)
        assert list(tmp_path.iterdir()) == [source]

    def test_a_layer_that_is_called_twice(self, tmp_path):
        from tests.own_network import randomised

        layer = randomised(shared())
        source = write(tmp_path, {k: t.numpy() for k, t in layer.state_dict().items()})
        model = ForeignModel("tests.exporter.test_own_networks:shared", {})
        report = export(source, model=model, input_size=SIZE)
        assert report.ops_after["Conv"] == 2
        assert report.worst.verdict == "equal"


def shared():
    """Build a network that runs one convolution twice."""
    from tests.own_network import Block

    class Twice(Block):
        def forward(self, x):
            return super().forward(super().forward(x))

    return Twice(3, 3)


@needs_converter
def test_bench_measures_both_forms(source):
    protocol = Protocol(model=own(), rounds=1, seconds=0.01, warm_up=0.0, input_size=SIZE)
    labels = [m.label for m in benchmark([source], protocol).measurements]
    assert labels == [f"{source} (train-time form)", f"{source} (deploy form)"]
    fused = fuse_layers(source, own()).output
    assert has_branches(load_checkpoint(source), own())
    assert not has_branches(load_checkpoint(fused), own())
