"""Every command on checkpoints of PyTorch: read as they are, written as .safetensors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reparam.checkpoint import load_checkpoint
from reparam.files import sha256_of
from reparam.models.spelling import torch_name
from tests.checkpoint.torch_files import FORMS, Call, Name, tensors, zipped
from tests.converter import needs_converter
from tests.weights import repvgg_arrays, write

GIVEN = ("--epsilon", "1e-5")


@needs_converter
def test_a_repvgg_that_pytorch_wrote_is_exported(run, tmp_path):
    arrays = repvgg_arrays()
    written = {
        torch_name(key): np.ascontiguousarray(array.T if array.ndim == 2 else array)
        for key, array in arrays.items()
    }
    ours = write(tmp_path, arrays, "ours.pdparams")
    theirs = write(tmp_path, written, "theirs.safetensors")
    code, out, _ = run("export", theirs, "--onnx", "--input-size", "32")
    assert code == 0
    assert "repvgg, 9,413 parameters" in out
    assert run("verify", ours, theirs.with_suffix(".onnx"), "--input-size", "32")[0] == 0


def test_what_is_not_known_in_pytorch_says_how_to_export_it(run, tmp_path):
    arrays = {"body.0.weight": np.ones((4, 3, 3, 3), np.float32)}
    arrays |= {f"body.1.{key}": np.ones(4, np.float32) for key in (
        "weight", "bias", "running_mean", "running_var")}  # fmt: skip
    source = write(tmp_path, arrays, "x.safetensors")
    code, out, err = run("export", source, "--onnx")
    assert (code, out) == (2, "")
    assert "torch.onnx.export(" in err
    assert "reparam fuse model.onnx" in err
    assert not source.with_suffix(".onnx").exists()


def torch_arrays(seed: int = 0, **settings) -> dict[str, np.ndarray]:
    """A RepVGG under the names of PyTorch, linear layer and counters and all."""
    arrays = {}
    for key, array in repvgg_arrays(seed, **settings).items():
        if key == "linear.weight":
            array = np.ascontiguousarray(array.T)
        key = key.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        arrays[key] = array
        if key.endswith(".running_var"):
            counter = key.replace("running_var", "num_batches_tracked")
            arrays[counter] = np.array(7, np.int64)
    return arrays


def wrapped(arrays: dict[str, np.ndarray]) -> dict:
    return {"state_dict": tensors({f"module.{k}": a for k, a in arrays.items()}), "epoch": 3}


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "ckpt.pth"
    path.write_bytes(zipped(wrapped(torch_arrays())))
    return path


def the_same_in_paddle(folder: Path) -> dict[str, np.ndarray]:
    """The fusion of the same network under Paddle's names, which other tests hold to the truth."""
    from reparam.checkpoint.pipeline import fuse

    return load_checkpoint(fuse(write(folder, repvgg_arrays(), "same.pdparams")).output).arrays


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "x.bin", "x.pth.tar"])
def test_fuse_writes_safetensors_beside_it(run, tmp_path, name, form):
    path = tmp_path / name
    path.write_bytes(FORMS[form](wrapped(torch_arrays())))
    before = sha256_of(path)
    code, out, _ = run("fuse", path, *GIVEN)
    assert code == 0
    assert "7 blocks fused" in out
    assert "'module.' was taken off" in out
    output = tmp_path / "x.deploy.safetensors"
    assert {p.name for p in tmp_path.iterdir()} == {
        name, output.name, f"{output.name}.manifest.json"
    }  # fmt: skip
    assert sha256_of(path) == before
    expected = the_same_in_paddle(tmp_path)
    found = load_file(output)
    assert {k for k in found if "num_batches_tracked" not in k} == set(expected)
    for key, array in expected.items():
        assert np.array_equal(found[key], array.T if key == "linear.weight" else array)
    assert load_checkpoint(output).metadata["format"] == "pt"


def test_what_was_fused_is_verified_and_inspected(run, source, tmp_path):
    output = tmp_path / "ckpt.deploy.safetensors"
    code, out, _ = run("inspect", source)
    assert code == 0
    assert "7 RepVGG" in out
    assert run("fuse", source, *GIVEN)[0] == 0
    code, out, _ = run("verify", source, output, *GIVEN, "--no-network")
    assert code == 0
    assert "7 blocks equal" in out
    code, out, _ = run("verify", output, "--json", "--no-network")
    assert code == 0
    assert json.loads(out)["verdict"] == "equivalent"
    code, out, _ = run("verify", source, output, "--epsilon", "1e-3", "--no-network")
    assert code == 1
    assert "7 of 7 blocks differ" in out


def test_a_deploy_form_of_pytorch_goes_back_into_safetensors(run, tmp_path):
    path = tmp_path / "x.deploy.pth"
    path.write_bytes(zipped(wrapped(torch_arrays(deploy=True, groups={}))))
    code, out, _ = run("inspect", path)
    assert "7 of 7 blocks are one convolution" in out
    assert re.search(r"^architecture +repvgg$", out, re.MULTILINE)
    code, out, _ = run("fuse", path)
    assert (code, "already fused" in out) == (0, True)
    assert run("unfuse", path, *GIVEN)[0] == 0
    found = load_file(tmp_path / "x.train.safetensors")
    assert "stage0.rbr_dense.bn.running_mean" in found
    assert run("verify", tmp_path / "x.train.safetensors", path, *GIVEN, "--no-network")[0] == 0


@pytest.mark.parametrize("how", [["--format", "pdparams"], ["-o", "ckpt.deploy.pdparams"]])
def test_a_pdparams_with_the_names_of_pytorch_is_legal_and_said(
    run, source, tmp_path, how, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("fuse", "ckpt.pth", *GIVEN, *how)
    assert code == 0
    assert "Paddle calls running_mean _mean" in " ".join(out.split())
    assert run("verify", "ckpt.pth", "ckpt.deploy.pdparams", *GIVEN, "--no-network")[0] == 0
    code, out, _ = run("fuse", "ckpt.pth", *GIVEN, "--json", "--dry-run", *how, "--force")
    assert any("Paddle calls" in notice for notice in json.loads(out)["notices"])


def test_safetensors_with_the_names_of_pytorch(run, tmp_path):
    save_file(torch_arrays(), tmp_path / "x.safetensors", metadata={"format": "pt"})
    code, out, _ = run("fuse", tmp_path / "x.safetensors", *GIVEN)
    assert code == 0
    assert "Paddle calls" not in out
    pair = tmp_path / "x.safetensors", tmp_path / "x.deploy.safetensors"
    assert run("verify", *pair, *GIVEN, "--no-network")[0] == 0
    assert "linear.weight" in load_file(pair[1])
    code, out, _ = run("fuse", pair[0], *GIVEN, "--format", "pdparams")
    assert "Paddle calls" in out


@pytest.mark.parametrize("name", ["y.pth", "y.pt", "y.pth.tar", "y.ckpt", "y.bin"])
def test_no_pickle_of_pytorch_is_written(run, source, tmp_path, name):
    code, _, err = run("fuse", source, *GIVEN, "-o", tmp_path / name)
    assert code == 2
    assert "writes none" in err
    assert ".safetensors" in err
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt.pth"]


def test_the_only_checkpoint_in_the_folder(run, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.bin").write_bytes(b"anything")
    assert run("fuse", *GIVEN)[0] == 0
    for name in ("ckpt.deploy.safetensors", "ckpt.deploy.safetensors.manifest.json", "ckpt.pth"):
        (tmp_path / name).unlink()
    shutil.copy(write(tmp_path, torch_arrays(), "z.safetensors"), "data.bin")
    (tmp_path / "z.safetensors").unlink()
    assert run("inspect")[0] == 0


def test_weights_that_change_while_they_are_copied_write_nothing(run, tmp_path):
    contents = zipped(wrapped(torch_arrays()))
    raw = torch_arrays()["stage1.0.rbr_dense.conv.weight"].tobytes()
    assert contents.count(raw) == 1
    path = tmp_path / "x.pth"
    path.write_bytes(contents.replace(raw, raw[4:8] + raw[4:]))
    for kind in ("pdparams", "safetensors"):
        code, _, err = run("fuse", path, *GIVEN, "--format", kind)
        assert code == 2
        assert "check sum" in err
    for command in ("inspect", "verify"):
        assert run(command, path, *(GIVEN if command == "verify" else ()))[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("command", ["inspect", "fuse", "verify", "export", "bench"])
def test_a_network_saved_as_a_whole_says_how_to_go_on(run, tmp_path, command):
    path = tmp_path / "best.pt"
    path.write_bytes(zipped({"model": Call(Name("ultralytics.nn.tasks", "DetectionModel"))}))
    code, out, err = run(command, path, *(["--onnx"] if command == "export" else []))
    assert code == 2
    assert out == ""
    assert "nothing of it was run" in err
    assert "torch.save(model.state_dict()" in err
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]
