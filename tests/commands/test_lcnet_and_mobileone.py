"""MobileOne, PP-LCNetV2 and PP-LCNetV3 through every command, with no settings given."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from reparam.checkpoint import load_checkpoint
from tests.converter import needs_converter
from tests.golden.networks.test_networks import CASES, case, placeholders
from tests.models.structures import SMALL, layout_of
from tests.weights import random_arrays, write

# Names, size of the image, convolutions in the file, and what else has to be there.
NETWORKS = {
    "mobileone": ("64", 15, {"Relu": 15}),
    "mobileone-se": ("33x47", 13 + 2 * 4, {"Sigmoid": 4}),
    "lcnetv2": ("64", 24, {"Sigmoid": 2}),
    "lcnetv2-short": ("64", 14, {"Sigmoid": 1}),
    "lcnetv3-det": ("64", 1 + 28 + 2 * 2 + 4, {"HardSwish": 24, "HardSigmoid": 2}),
    "lcnetv3-rec": ("48x64", 1 + 28 + 2 * 2, {"HardSwish": 28, "AveragePool": 1}),
}


@pytest.fixture
def told(run):
    """Return a function that runs a command with --json: (exit code, report)."""

    def call(*arguments) -> tuple[int, dict]:
        code, out, _ = run(*arguments, "--json")
        return code, json.loads(out)

    return call


# Each network by itself goes through the layers below in their tests.
TRIED = ("mobileone-se", "lcnetv2-short")


@needs_converter
@pytest.mark.parametrize(
    "name",
    [name if name in TRIED else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_every_command_needs_the_checkpoint_alone(name, told, tmp_path):
    size, convolutions, operators = NETWORKS[name]
    layout = layout_of(SMALL[name])
    source = write(tmp_path, random_arrays(layout.shapes()))
    code, report = told("fuse", source)
    assert code == 0
    assert [block["where"] for block in report["fused"]] == [b.prefix for b in layout.blocks]
    deploy = tmp_path / "ckpt.deploy.pdparams"
    assert load_checkpoint(deploy).shapes == layout.shapes(deploy=True)

    code, proof = told("verify", source, deploy, "--input-size", size)
    verdicts = {stage["name"]: stage["verdict"] for stage in proof["stages"]}
    assert (code, verdicts["blocks"]) == (0, "equal")
    assert verdicts["network"] in ("equal", "undecidable")

    code, exported = told("export", source, "--onnx", "--input-size", size)
    assert (code, exported["worst"]["verdict"]) == (0, "equal")
    ops = exported["ops_after"]
    assert (ops["Conv"], ops.get("BatchNormalization", 0)) == (convolutions, 0)
    assert operators.items() <= ops.items()
    assert told("verify", source, source.with_suffix(".onnx"))[0] == 0


@needs_converter
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lcnetv3-det", "lcnetv3-rec"])
def test_affines_that_are_in_the_convolutions_are_not_in_the_file(name, run, tmp_path):
    source = write(tmp_path, random_arrays(layout_of(SMALL[name]).shapes()))
    assert run("export", source, "--onnx", "--input-size", "64")[0] == 0
    graph = onnx.load(source.with_suffix(".onnx")).graph
    stored = {tensor.name for tensor in graph.initializer if ".lab." in tensor.name}
    assert stored
    assert all(".act.lab." in name for name in stored)


@pytest.mark.slow
@needs_converter
def test_a_whole_detector_is_told_by_its_backbone(told, tmp_path):
    """PP-OCR keeps a backbone beside its neck and head."""
    backbone = random_arrays(layout_of(SMALL["lcnetv3-det"]).shapes())
    whole = {f"backbone.{key}": value for key, value in backbone.items()}
    whole["head.binarize.conv1.weight"] = np.ones((4, 8, 3, 3), np.float32)
    source = write(tmp_path, whole)
    code, report = told("fuse", source)
    assert (code, len(report["fused"])) == (0, 28)
    code, report = told("export", source, "--onnx", "--prefix", "backbone", "--input-size", "64")
    assert (code, report["architecture"]) == (0, "pplcnetv3")


@needs_converter
def test_a_text_recogniser_is_exported_for_lines_of_text(told, tmp_path):
    source = write(tmp_path, random_arrays(layout_of(SMALL["lcnetv3-rec"]).shapes()))
    code, report = told("export", source, "--onnx", "--batch", "1")
    assert (code, report["input"]["shape"]) == (0, [1, 1, 48, 320])
    assert report["outputs"][0]["shape"] == [1, 176, 1, 40]
    stored = [tensor.name for tensor in onnx.load(source.with_suffix(".onnx")).graph.initializer]
    affines = [name for name in stored if ".lab." in name]
    assert affines, "those of activations stay"
    assert all(".act.lab." in name for name in affines), "the others are in the convolutions"


@needs_converter
def test_the_random_weights_of_a_training_checkpoint_reach_no_file(told, tmp_path):
    _, state, _, _ = case("clas_lcnetv2")
    source = write(tmp_path, state)
    code, report = told("export", source, "--onnx", "--input-size", "64")
    assert (code, report["worst"]["verdict"]) == (0, "equal")
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(source.with_suffix(".onnx")).graph.initializer
    }
    assert placeholders(state) <= set(stored)
    assert not any(np.array_equal(stored[key], state[key]) for key in placeholders(state))
    deployed = {k: v for k, v in state.items() if ".dw_conv_list." not in k}
    random = write(tmp_path, deployed, "random.pdparams")
    code, report = told("verify", source, random)
    assert (code, report["verdict"]) == (1, "different")


@needs_converter
def test_an_affine_that_paddleocr_did_not_fold_is_exported_as_it_is(told, tmp_path):
    """Its own conversion leaves the convolution beside the affine."""
    arrays = random_arrays(layout_of(SMALL["lcnetv3-rec"]).shapes(deploy=True))
    source = write(tmp_path, arrays)
    code, report = told("export", source, "--onnx", "--input-size", "48x64")
    assert (code, report["worst"]["verdict"]) == (0, "equal")
    neutral = {
        key: np.full_like(array, key.endswith("scale")) if key.endswith(AFFINE) else array
        for key, array in arrays.items()
    }
    other = write(tmp_path, neutral, "neutral.pdparams")
    assert told("verify", other, source.with_suffix(".onnx"))[0] == 1


@needs_converter
@pytest.mark.parametrize("form", ["train-time", "deploy"])
def test_a_mobileone_that_pytorch_wrote_is_the_same_network(form, told, tmp_path):
    layout = layout_of(SMALL["mobileone-se"])
    arrays = random_arrays(layout.shapes(deploy=form == "deploy"))
    names = {"_mean": "running_mean", "_variance": "running_var"}
    written = {}
    for key, array in arrays.items():
        stem, dot, leaf = key.rpartition(".")
        written[f"{stem}{dot}{names.get(leaf, leaf)}"] = np.ascontiguousarray(
            array.T if array.ndim == 2 else array
        )
        if leaf == "_mean":
            written[f"{stem}.num_batches_tracked"] = np.array(7)
    ours = write(tmp_path, arrays, "ours.pdparams")
    theirs = write(tmp_path, written, "theirs.safetensors")
    fused = tmp_path / "fused.safetensors"
    code, report = told("fuse", theirs, "-o", fused)
    assert (code, report["architecture"]) == (0, "mobileone")
    code, proof = told("verify", theirs, fused)
    assert (code, proof["stages"][-1]["name"]) == (0, "network")
    assert proof["stages"][-1]["verdict"] == "equal"
    code, exported = told("export", theirs, "--onnx", "--input-size", "64")
    assert (code, exported["worst"]["verdict"]) == (0, "equal")
    assert told("verify", ours, theirs.with_suffix(".onnx"))[0] == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_in_deploy_form_are_called_what_they_are(name, told, tmp_path):
    """Several families call their one convolution ``reparam_conv``."""
    layout = layout_of(SMALL[name])
    found = []
    for deploy in (False, True):
        arrays = random_arrays(layout.shapes(deploy=deploy))
        _, report = told("inspect", write(tmp_path, arrays, f"{deploy}.pdparams"))
        found.append([(block["where"], block["family"]) for block in report["blocks"]])
    assert found[0] == found[1]
    assert len(found[0]) == len(layout.blocks)


AFFINE = tuple(f"_conv.lab.{key}" for key in ("scale", "bias"))


@pytest.mark.parametrize("key", ["stage2.1.rbr_conv.1.bn._mean", "stage0.rbr_scale.conv.weight"])
def test_a_mobileone_that_is_not_whole_is_refused(key, run, tmp_path):
    arrays = random_arrays(layout_of(SMALL["mobileone"]).shapes())
    del arrays[key]
    code, _, err = run("fuse", write(tmp_path, arrays))
    assert code == 2
    assert key in err
    assert not (tmp_path / "ckpt.deploy.pdparams").exists()


def test_every_recorded_network_is_inspected(told, tmp_path):
    for name in CASES:
        about, state, _, _ = case(name)
        code, report = told("inspect", write(tmp_path, state, f"{name}.pdparams"))
        assert (code, report["architecture"]) == (0, about["model"])
