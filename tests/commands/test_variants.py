"""Variants through every command: squeeze-excite with groups, and settings no file tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from reparam.__main__ import main
from reparam.checkpoint import load_checkpoint
from tests.converter import needs_converter
from tests.weights import cspresnet_arrays, repvgg_arrays, write

SQUEEZE = {"num_blocks": (1, 2, 2, 1), "widths": (32, 16, 48, 64), "groups": {3: 4}}


@pytest.fixture
def run(capsys):
    """Return a function that runs the command line with --json: (exit code, what it printed)."""

    def call(*arguments) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as caught:
            main([*(str(argument) for argument in arguments), "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(caught.value.code or 0), json.loads(out) if out else {"error": err}

    return call


@pytest.fixture
def squeeze(tmp_path) -> Path:
    return write(tmp_path, repvgg_arrays(**SQUEEZE, use_se=True))


def of_gates(arrays) -> set[str]:
    return {name for name in arrays if ".se." in name}


@needs_converter
def test_squeeze_excite_goes_through_every_command(run, squeeze):
    folder = squeeze.parent
    before = load_checkpoint(squeeze).arrays
    assert len(of_gates(before)) == 4 * 7
    code, told = run("inspect", squeeze)
    assert (code, told["settings"]["use_se"]) == (0, True)
    assert told["settings"]["override_groups_map"] == {"3": 4}

    code, report = run("fuse", squeeze)
    after = load_checkpoint(folder / "ckpt.deploy.pdparams").arrays
    assert (code, len(report["fused"])) == (0, 7)
    assert of_gates(after) == of_gates(before)
    for name in of_gates(after):
        np.testing.assert_array_equal(after[name], before[name])

    code, proof = run("verify", squeeze, folder / "ckpt.deploy.pdparams")
    verdicts = {stage["name"]: stage["verdict"] for stage in proof["stages"]}
    assert code == 0
    assert verdicts == dict.fromkeys(("other arrays", "blocks", "network"), "equal")

    code, exported = run("export", squeeze, "--onnx", "--input-size", 64)
    model = onnx.load(folder / "ckpt.onnx")
    nodes = [node.op_type for node in model.graph.node]
    assert (code, exported["worst"]["verdict"]) == (0, "equal")
    assert (nodes.count("Conv"), nodes.count("Sigmoid")) == (7 + 14, 7)
    stored = {tensor.name for tensor in model.graph.initializer}
    assert of_gates(stored) == of_gates(before)


@needs_converter
def test_a_file_without_the_squeeze_excite_is_another_function(run, squeeze):
    """What some converters write of such a network: the fused convolutions are all right."""
    arrays = load_checkpoint(squeeze).arrays
    gates = of_gates(arrays)
    plain = {name: array for name, array in arrays.items() if name not in gates}
    blind = write(squeeze.parent, plain, "blind.pdparams")
    assert run("export", blind, "--onnx", "--input-size", 64)[0] == 0
    code, proof = run("verify", squeeze, blind.with_suffix(".onnx"))
    verdicts = {stage["name"]: stage["verdict"] for stage in proof["stages"]}
    assert code == 1
    assert verdicts == {"fused weights": "equal", "onnxruntime": "different"}
    code, proof = run("verify", squeeze, blind)
    assert code == 1
    assert "28 missing" in proof["stages"][0]["summary"]


@needs_converter
def test_squeeze_excite_that_the_file_has_cannot_be_switched_off(run, squeeze):
    code, said = run("export", squeeze, "--onnx", "--model-arg", "use_se=False")
    assert code == 2
    assert "28 unexpected: stage0.se.down.weight" in said["error"]["found"]
    assert not squeeze.with_suffix(".onnx").exists()


@pytest.mark.parametrize("command", [pytest.param("export", marks=needs_converter), "verify"])
def test_nor_can_alpha(run, tmp_path, command):
    source = write(tmp_path, cspresnet_arrays())
    code, said = run(command, source, "--model-arg", "use_alpha=False")
    assert code == 2
    assert "3 unexpected: stages.0.blocks.0.conv2.alpha" in said["error"]["found"]


def test_squeeze_excite_that_is_not_whole_is_refused(run, squeeze):
    arrays = load_checkpoint(squeeze).arrays
    short = {name: array for name, array in arrays.items() if not name.endswith("se.up.bias")}
    code, said = run("fuse", write(squeeze.parent, short, "short.pdparams"))
    assert code == 2
    assert "stage0.se.up.bias" in said["error"]["found"]


@needs_converter
def test_what_no_checkpoint_tells_is_named_and_can_be_given(run, tmp_path):
    source = write(tmp_path, cspresnet_arrays())
    code, told = run("inspect", source)
    assumed = {"act": "swish", "return_idx": [1], "trt": False, "epsilon": 1e-5}
    assert (code, told["assumed"]) == (0, assumed)
    options = ("--model-arg", "trt=True", "--model-arg", "return_idx=[0,1]")
    code, report = run("export", source, "--onnx", "--input-size", 64, *options)
    assert (code, report["worst"]["verdict"]) == (0, "equal")
    assert report["assumed"] == {"act": "swish", "epsilon": 1e-5}
    assert len(report["outputs"]) == 2
    ops = report["ops_after"]
    assert (ops["Sigmoid"], ops["Mul"]) == (ops["Conv"] - 2, ops["Conv"])
    code, _ = run("verify", source, source.with_suffix(".onnx"), *options[2:])
    assert code == 0
