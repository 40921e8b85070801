"""Every command on files that hold more, or something else, than a flat state dict."""

from __future__ import annotations

import json
import os
import pickle
import socket
import stat

import ml_dtypes
import numpy as np
import pytest

from tests.converter import needs_converter
from tests.weights import cspresnet_arrays, repvgg_arrays, write

COMMANDS = ("inspect", "fuse", "verify", "export", "bench")
QAT = {"stage0.rbr_reparam.weight_quanter._scale": np.ones(1, np.float32)}


def dump(path, value):
    path.write_bytes(pickle.dumps(value, protocol=4))
    return path


def options(command: str) -> list[str]:
    return ["--onnx"] if command == "export" else []


def refused(run, command: str, path, *said: str) -> None:
    code, out, err = run(command, path, *options(command))
    assert code == 2
    assert out == ""
    assert err.count("Error:") == 1
    for part in said:
        assert part in err


@pytest.mark.parametrize("command", COMMANDS)
class TestNoRegularFile:
    @pytest.mark.parametrize("url", ["https://host.example/x.pdparams", "s3://bucket/x.pdparams"])
    def test_a_url(self, run, command, url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(socket, "socket", None)  # nothing may even try
        refused(
            run, command, url, f"'{url}' is a URL", "never downloads", "download the file first"
        )
        assert not list(tmp_path.iterdir())

    def test_a_folder(self, run, command, tmp_path):
        if command == "fuse":
            pytest.skip("it fuses every file in a folder: tests/commands/test_fuse_several.py")
        write(tmp_path, repvgg_arrays(), "inside.pdparams")
        if command == "fuse":  # to which a folder is what is in it
            assert run("fuse", tmp_path)[0] == 0
            return
        refused(run, command, tmp_path, "a directory", "inside.pdparams")
        refused(run, command, f"{tmp_path}/", "a directory")

    def test_a_pipe_nobody_writes_to(self, run, command, tmp_path):
        os.mkfifo(tmp_path / "x.pdparams")
        refused(run, command, tmp_path / "x.pdparams", "a pipe")

    def test_a_device(self, run, command):
        refused(run, command, "/dev/zero", "a device")

    def test_a_socket(self, run, command, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # a path of a socket has to be short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x.pdparams")
            refused(run, command, "x.pdparams", "x.pdparams")

    def test_a_link_to_nothing(self, run, command, tmp_path):
        (tmp_path / "x.pdparams").symlink_to(tmp_path / "none")
        refused(run, command, tmp_path / "x.pdparams", "No such file")

    def test_an_unreadable_file(self, run, command, tmp_path):
        path = write(tmp_path, repvgg_arrays())
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user reads every file, whatever its mode")
        refused(run, command, path, "Permission denied")
        path.chmod(stat.S_IRUSR)


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_quantisation_aware_training_is_refused_with_the_reason(run, command, tmp_path):
    path = write(tmp_path, {**repvgg_arrays(deploy=True), **QAT})
    refused(run, command, path, "quantisation-aware training (QAT)", "any fusion changes", "try:")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_optimizer_file_is_refused_naming_the_weights_beside_it(run, command, tmp_path):
    write(tmp_path, repvgg_arrays(), "x.pdparams")
    path = dump(
        tmp_path / "x.pdopt", {"w_moment1_0": np.ones(3), "LR_Scheduler": {"last_epoch": 1}}
    )
    refused(run, command, path, "state of an optimizer", "x.pdparams")


@pytest.mark.parametrize("command", COMMANDS)
def test_several_sets_of_weights_are_refused_naming_them(run, command, tmp_path):
    path = dump(tmp_path / "x.pdparams", {"a": repvgg_arrays(0), "b": repvgg_arrays(1)})
    refused(run, command, path, "'a', 'b'", "--prefix a")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_prefix_that_names_nothing_is_refused(run, command, tmp_path):
    path = write(tmp_path, repvgg_arrays())
    code, _, err = run(command, path, *options(command), "--prefix", "backbone")
    assert code == 2
    assert "nothing in the file stands under 'backbone'" in err


class TestInspect:
    def test_qat_is_told_and_is_no_error(self, run, tmp_path):
        path = write(tmp_path, {**repvgg_arrays(deploy=True), **QAT})
        code, out, _ = run("inspect", path)
        assert code == 0
        assert "quantisation-aware training (QAT)" in out
        assert "7 of 7 blocks" in out
        code, out, _ = run("inspect", path, "--json")
        assert json.loads(out)["layout"]["kind"] == "quantisation-aware training"

    def test_the_layout_is_shown(self, run, tmp_path):
        module = {f"module.{key}": array for key, array in repvgg_arrays().items()}
        path = dump(tmp_path / "x.pdparams", {"model": module, "ema": module, "epoch": 3})
        code, out, _ = run("inspect", path)
        text = " ".join(out.split())
        assert code == 0
        assert "averaged weights" in text
        assert "the weights stand under 'ema'" in text
        assert "'module.' was taken off" in text
        assert "--prefix chooses another: 'model'" in text
        assert "left out: 'epoch'" in text
        layout = json.loads(run("inspect", path, "--json")[1])["layout"]
        assert (layout["part"], layout["prefix"], layout["choices"]) == (
            "ema",
            "module.",
            ["model"],
        )

    def test_the_dtype_is_named(self, run, tmp_path):
        arrays = {k: a.astype(ml_dtypes.bfloat16) for k, a in repvgg_arrays().items()}
        assert f"{len(arrays)} bfloat16" in run("inspect", write(tmp_path, arrays))[1]


def test_from_a_trainer_to_a_proof(run, tmp_path):
    """The whole way of a nested, wrapped, half-precision detector with an average."""
    backbone = {f"module.backbone.{k}": a.astype(np.float16) for k, a in cspresnet_arrays().items()}
    neck = {"module.neck.conv.weight": np.ones((2, 2, 1, 1), np.float16)}
    value = {"model": {**backbone, **neck}, "epoch": np.int64(3), "optimizer": {"lr": 0.1}}
    path = dump(tmp_path / "x.pdparams", value)
    code, out, _ = run("fuse", path, "--prefix", "backbone")
    assert code == 0
    assert "cspresnet" in out
    assert "'module.backbone.' was taken off" in " ".join(out.split())
    deploy = tmp_path / "x.deploy.pdparams"
    for arguments in ([path, deploy, "--prefix", "backbone"], [deploy], [path]):
        code, out, _ = run("verify", *arguments, "--no-network")
        assert code == 0
        assert "verdict: equivalent" in out
    code, out, _ = run("verify", path, deploy, "--no-network")
    assert code == 1  # the whole detector is not its backbone


@needs_converter
def test_bfloat16_behind_a_prefix_is_exported(run, tmp_path):
    arrays = {f"module.{k}": a.astype(ml_dtypes.bfloat16) for k, a in cspresnet_arrays().items()}
    path = write(tmp_path, arrays)
    code, out, _ = run("export", path, "--onnx", "--input-size", "64")
    assert code == 0
    assert "weights of bfloat16 are float32 in the file" in " ".join(out.split())
    assert "'module.' was taken off" in " ".join(out.split())
    code, out, _ = run("verify", path, path.with_suffix(".onnx"), "--input-size", "64")
    assert code == 0
    assert "verdict: equivalent" in out


def test_a_pdema_alone_in_the_folder_is_the_only_checkpoint(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, repvgg_arrays(1), "x.pdema")
    assert "x.pdema" in run("inspect")[1]
    write(tmp_path, repvgg_arrays(0), "x.pdparams")
    _, out, _ = run("inspect")
    assert "x.pdparams" in out
    assert "'x.pdema' stands beside it" in out
    code, out, _ = run("fuse", "x.pdema")
    assert code == 0
    assert (tmp_path / "x.pdema.deploy.pdparams").exists()
