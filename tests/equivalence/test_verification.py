"""verify, from files to the verdict."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays, load_checkpoint, save_checkpoint
from reparam.checkpoint.pipeline import fuse
from reparam.equivalence import Probing, verify
from reparam.errors import CheckpointError, MissingDependencyError, ReparamError
from reparam.exporter import export
from tests.converter import needs_converter
from tests.weights import cspresnet_arrays, repvgg_arrays, write

QUICK = Probing(network=False)
SMALL = Probing(sizes=((32, 32), (33, 35)))


def stages(result):
    return {stage.name: stage.verdict for stage in result.stages}


@pytest.mark.parametrize("make", [cspresnet_arrays, repvgg_arrays])
def test_a_checkpoint_and_its_fusion(tmp_path, make):
    source = write(tmp_path, make())
    output = fuse(source).output
    result = verify(source, output, SMALL)
    assert result.verdict == "equivalent"
    assert stages(result) == dict.fromkeys(("other arrays", "blocks", "network"), "equal")
    assert result.first_difference == ""
    assert result.original_sha256 == load_checkpoint(source).sha256
    json.dumps(result.to_json(), allow_nan=False)


def test_in_either_order(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    output = fuse(source).output
    assert verify(output, source, SMALL).verdict == "equivalent"


def test_a_checkpoint_alone_is_compared_with_its_own_fusion(tmp_path):
    result = verify(write(tmp_path, cspresnet_arrays()), probing=SMALL)
    assert result.verdict == "equivalent"
    assert "in memory" in result.candidate


def test_a_deploy_checkpoint_alone_is_compared_with_its_source(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    output = fuse(source, epsilon=1e-3).output
    result = verify(output, probing=SMALL)
    assert (result.verdict, result.epsilon) == ("equivalent", 1e-3)
    assert stages(result)["blocks"] == "equal"
    (tmp_path / "ckpt.deploy.pdparams.manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no manifest"):
        verify(output, probing=SMALL)


def test_the_first_block_that_differs_is_named(tmp_path):
    arrays = cspresnet_arrays()
    source = write(tmp_path, arrays)
    fused, report = fuse_arrays(arrays)
    for block in report.fused[1:]:
        fused[block.keys[1]] = fused[block.keys[1]] + np.float32(0.01)
    wrong = write(tmp_path, fused, "wrong.pdparams")
    result = verify(source, wrong, SMALL)
    assert result.verdict == "different"
    assert result.first_difference.startswith(f"block '{report.fused[1].where}': off by 0.01")
    assert "network" not in stages(result)  # nothing more to learn from running it


def test_half_fused_on_either_side(tmp_path):
    train, (deploy, _) = repvgg_arrays(), fuse_arrays(repvgg_arrays())
    half = {k: a for k, a in train.items() if not k.startswith("stage2.")}
    half |= {k: a for k, a in deploy.items() if k.startswith("stage2.")}
    first, second = write(tmp_path, half, "half.pdparams"), write(tmp_path, deploy, "d.pdparams")
    whole = write(tmp_path, train, "t.pdparams")
    assert verify(first, second, SMALL).verdict == "equivalent"
    assert verify(whole, first, SMALL).verdict == "equivalent"


def test_an_unknown_network_is_proved_by_its_arrays(tmp_path):
    arrays = {f"neck.{key}": array for key, array in repvgg_arrays().items()}
    source = write(tmp_path, arrays)
    result = verify(source, fuse(source).output)
    assert stages(result) == {"other arrays": "equal", "blocks": "equal", "network": "skipped"}
    assert result.verdict == "equivalent"


def test_nothing_of_paddle_is_needed_without_the_network(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    result = verify(source, fuse(source).output, QUICK)
    assert stages(result) == {"other arrays": "equal", "blocks": "equal"}


def test_two_different_trainings(tmp_path):
    first = write(tmp_path, repvgg_arrays(0), "a.pdparams")
    second = write(tmp_path, repvgg_arrays(1), "b.pdparams")
    assert verify(first, second, QUICK).verdict == "different"


def test_weights_that_are_not_finite_are_refused(tmp_path):
    arrays = repvgg_arrays()
    arrays["linear.bias"][0] = np.nan
    with pytest.raises(CheckpointError, match=r"linear\.bias"):
        verify(write(tmp_path, arrays), probing=QUICK)


def test_a_candidate_with_infinity_differs(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    fused, _ = fuse_arrays(repvgg_arrays())
    fused["linear.bias"] = np.full(5, np.inf, np.float32)
    save_checkpoint(tmp_path / "bad.pdparams", fused)
    assert verify(source, tmp_path / "bad.pdparams", QUICK).verdict == "different"


def test_own_inputs_are_probes_too(tmp_path):
    own = np.random.default_rng(0).normal(size=(2, 3, 40, 40)).astype(np.float32)
    result = verify(write(tmp_path, repvgg_arrays()), probing=Probing(own_input=own, sizes=()))
    names = {probe.probe for stage in result.stages for probe in stage.probes}
    assert names == {"own input 0", "own input 1"}


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (3, 32, 32)])
def test_own_inputs_that_do_not_fit_are_refused(tmp_path, shape):
    source = write(tmp_path, repvgg_arrays())
    with pytest.raises(CheckpointError, match="needed"):
        verify(source, probing=Probing(own_input=np.ones(shape, np.float32), sizes=()))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_short_floats_are_proved_by_their_arrays(tmp_path, dtype):
    source = write(tmp_path, {k: a.astype(dtype) for k, a in repvgg_arrays().items()})
    result = verify(source, fuse(source).output)
    assert stages(result) == {"other arrays": "equal", "blocks": "equal", "network": "skipped"}
    (blocks,) = [stage for stage in result.stages if stage.name == "blocks"]
    worst = blocks.worst_certified.certificate
    assert 0 < worst.roundings <= 1
    assert worst.dtype == np.dtype(dtype).name
    assert result.verdict == "equivalent"


def test_float64_is_run_in_float32_against_float64(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        k: a.astype(np.float64) * (1 + 1e-9 * rng.normal(size=a.shape))
        for k, a in repvgg_arrays().items()
    }
    source = write(tmp_path, arrays)
    result = verify(source, fuse(source).output, SMALL)
    assert stages(result) == dict.fromkeys(("other arrays", "blocks", "network"), "equal")
    (network,) = [stage for stage in result.stages if stage.name == "network"]
    # The truth has the weights of float64: float32 networks are off by their rounding too.
    assert all(probe.floor > 0 for probe in network.probes)


class TestFolded:
    """Pairs of convolution and BatchNorm that one file holds folded."""

    @pytest.fixture
    def files(self, tmp_path):
        source = write(tmp_path, cspresnet_arrays())
        return source, fuse(source, fold_bn=True).output

    def test_every_pair_is_compared_and_certified(self, files):
        result = verify(*files, SMALL)
        assert result.verdict == "equivalent"
        (blocks,) = [stage for stage in result.stages if stage.name == "blocks"]
        names = {key.removesuffix(".bn._mean") for key in cspresnet_arrays()}
        names = {name for name in names if f"{name}.bn._mean" in cspresnet_arrays()}
        inside = {name for name in names if name.endswith((".conv2.conv1", ".conv2.conv2"))}
        assert {block.where for block in blocks.blocks} >= names - inside
        assert f"3 blocks equal, {len(names - inside)} folded BatchNorms equal" == blocks.summary
        assert all(block.certificate.roundings <= 1 for block in blocks.blocks)
        assert stages(result)["network"] == "equal"

    def test_in_either_order_and_alone(self, files):
        source, output = files
        assert verify(output, source, QUICK).verdict == "equivalent"
        assert verify(output, probing=QUICK).verdict == "equivalent"

    def test_a_wrong_pair_is_named(self, files, tmp_path):
        source, output = files
        arrays = dict(load_checkpoint(output).arrays)
        arrays["stem.conv1.conv.bias"] = arrays["stem.conv1.conv.bias"] + np.float32(1e-3)
        wrong = write(tmp_path, arrays, "wrong.pdparams")
        result = verify(source, wrong, QUICK)
        assert result.verdict == "different"
        assert result.first_difference.startswith("block 'stem.conv1'")

    def test_a_batch_norm_that_is_gone_without_a_bias_is_missing(self, files, tmp_path):
        source, output = files
        arrays = dict(load_checkpoint(output).arrays)
        del arrays["stem.conv1.conv.bias"]
        result = verify(source, write(tmp_path, arrays, "w.pdparams"), QUICK)
        assert "stem.conv1.bn.weight" in result.first_difference

    def test_another_epsilon_is_another_function(self, files, tmp_path):
        source, _ = files
        output = fuse(source, tmp_path / "e.pdparams", fold_bn=True, epsilon=1e-3).output
        assert verify(source, output, QUICK).verdict == "different"
        assert verify(source, output, replace(QUICK, epsilon=1e-3)).verdict == "equivalent"


@needs_converter
class TestOnnx:
    """Against exported files: right, fused wrongly, unfused, with a fixed batch."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("onnx")
        source = write(folder, repvgg_arrays())
        export(source, folder / "right.onnx", input_size=(40, 48))
        export(source, folder / "batch.onnx", input_size=(40, 48), batch=3)
        export(source, folder / "unfused.onnx", input_size=(40, 48), fuse=False)
        export(source, folder / "epsilon.onnx", input_size=(40, 48), epsilon=1e-2)
        half = {"input_size": (40, 48), "precision": "float16", "external_data": True}
        export(source, folder / "half.onnx", **half)
        export(source, folder / "half-epsilon.onnx", **half, epsilon=0.1, keep_io=False)
        return folder

    @pytest.mark.parametrize("name", ["right", "batch", "half"])
    def test_the_export_is_equivalent(self, folder, name):
        result = verify(folder / "ckpt.pdparams", folder / f"{name}.onnx")
        assert stages(result) == {"fused weights": "equal", "onnxruntime": "equal"}
        assert result.verdict == "equivalent"

    def test_another_function_in_float16_is_no_float16_of_this_one(self, folder):
        result = verify(folder / "ckpt.pdparams", folder / "half-epsilon.onnx")
        assert stages(result) == {"fused weights": "skipped", "onnxruntime": "different"}

    def test_weights_that_are_gone_are_told(self, folder, tmp_path):
        (tmp_path / "half.onnx").write_bytes((folder / "half.onnx").read_bytes())
        with pytest.raises(ReparamError, match="weights are missing"):
            verify(folder / "ckpt.pdparams", tmp_path / "half.onnx")

    def test_an_unfused_file_is_equivalent_too(self, folder):
        result = verify(folder / "ckpt.pdparams", folder / "unfused.onnx")
        assert stages(result) == {"fused weights": "skipped", "onnxruntime": "equal"}
        assert result.verdict == "equivalent"

    def test_another_epsilon_is_another_function(self, folder):
        result = verify(folder / "ckpt.pdparams", folder / "epsilon.onnx")
        assert result.verdict == "different"
        assert result.stages[0].summary.startswith("not in the file, 'stage0' first")
        assert "output 0 is off by" in result.first_difference

    def test_it_cannot_be_done_without_running_it(self, folder):
        with pytest.raises(CheckpointError, match="without running"):
            verify(folder / "ckpt.pdparams", folder / "right.onnx", QUICK)

    def test_no_onnx_file(self, folder):
        with pytest.raises(CheckpointError, match="No such file"):
            verify(folder / "ckpt.pdparams", folder / "none.onnx")
        (folder / "text.onnx").write_text("text")
        with pytest.raises(ReparamError):
            verify(folder / "ckpt.pdparams", folder / "text.onnx")


def test_without_paddle_the_way_out_is_named(tmp_path, monkeypatch):
    def missing(*_):
        raise MissingDependencyError.of("paddlepaddle", "running a network", "export")

    monkeypatch.setattr("reparam.equivalence.networks.layer_of", missing)
    with pytest.raises(MissingDependencyError, match="--no-network"):
        verify(write(tmp_path, repvgg_arrays()))
