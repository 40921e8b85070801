"""The command line: exit codes, what is printed where, and what a hurried user types."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint
from tests.weights import cspresnet_arrays, repvgg_arrays, write


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path, repvgg_arrays())


class TestFuse:
    def test_report(self, run, source):
        code, out, _ = run("fuse", source)
        assert code == 0
        assert "stage1.0" in out
        assert "7 blocks fused" in out
        assert "epsilon 1e-05 (PaddleClas" in out
        assert (source.parent / "ckpt.deploy.pdparams").exists()

    def test_json_is_one_object_and_nothing_else(self, run, source):
        code, out, _ = run("fuse", source, "--json", "--dry-run")
        report = json.loads(out)
        assert code == 0
        assert report["schema"] == "reparam.fuse/1"
        assert report["verdict"] == "fused"
        assert report["output"] is None
        assert [block["where"] for block in report["fused"]][:2] == ["stage0", "stage1.0"]

    def test_every_block_has_a_certificate_and_the_worst_is_shown(self, run, source):
        _, out, _ = run("fuse", source, "--dry-run")
        line = (
            r"worst block 'stage\S+': at most \S+ \* max\|x\| \+ \S+ for every input x: 0\.\d+ of"
        )
        assert re.search(line, " ".join(out.split()))
        _, out, _ = run("fuse", source, "--dry-run", "--json")
        report = json.loads(out)
        assert all(0 < block["certificate"]["roundings"] <= 1 for block in report["fused"])
        assert report["worst_certificate"] in {block["where"] for block in report["fused"]}

    def test_options(self, run, tmp_path):
        source = write(tmp_path, cspresnet_arrays())
        code, out, _ = run("fuse", source, "--fold-bn", "--skip", "stages.0.*", "--format",
                           "safetensors")  # fmt: skip
        assert code == 0
        assert "2 blocks fused" in out
        assert "BatchNorms folded into the convolutions before them" in out
        assert "left alone: stages.0.blocks.0.conv2: --skip" in out
        written = load_checkpoint(tmp_path / "ckpt.deploy.safetensors").arrays
        assert "stages.0.blocks.0.conv2.alpha" in written
        assert "stem.conv1.bn._mean" not in written
        assert run("verify", source, tmp_path / "ckpt.deploy.safetensors", "--no-network")[0] == 0

    def test_options_that_contradict_or_mean_nothing(self, run, source):
        code, _, err = run("fuse", source, "--skip", "stage9")
        assert code == 2
        assert "names no block" in err
        code, _, err = run("fuse", source, "--format", "safetensors", "-o", "x.pdparams")
        assert code == 2
        assert "contradicts" in err
        assert run("fuse", source, "--format", "onnx")[0] == 2
        code, out, _ = run("fuse", source, "--skip", "*", "--epsilon", "1e-3", "--fold-bn")
        assert code == 0
        assert "--epsilon had no effect" in out
        assert "--fold-bn had no effect" in out

    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    def test_a_dead_channel_leaves_no_subnormals_but_in_float16(self, run, tmp_path, dtype):
        arrays = {key: array.astype(dtype) for key, array in repvgg_arrays().items()}
        smallest = np.finfo(dtype).smallest_subnormal
        for key in arrays:  # what weight decay makes of a channel that nothing needs
            if key.startswith("stage0.") and "bn" in key and "_variance" not in key:
                arrays[key][3] = 40 * smallest
        source = write(tmp_path, arrays)
        code, out, _ = run("fuse", source)
        assert code == 0
        flushed = re.findall(r"(\d+) subnormal values set to zero", out)
        assert flushed == (["28"] if dtype == np.float32 else [])
        written = load_checkpoint(tmp_path / "ckpt.deploy.pdparams").arrays
        fused = np.concatenate([a.ravel() for k, a in written.items() if "rbr_reparam" in k])
        small = (fused != 0) & (np.abs(fused) < np.finfo(dtype).smallest_normal)
        assert small.any() == (dtype == np.float16)
        assert run("verify", source, tmp_path / "ckpt.deploy.pdparams", "--no-network")[0] == 0

    def test_what_is_printed_does_not_grow_with_the_network(self, run, tmp_path):
        small = write(tmp_path, cspresnet_arrays(layers=(20, 20)), "small.pdparams")
        large = write(tmp_path, cspresnet_arrays(layers=(40, 40)), "large.pdparams")
        for options in ([], ["--fold-bn"], ["--skip", "*"]):
            found = [run("fuse", p, "--dry-run", *options)[1] for p in (small, large)]
            assert len(found[0].splitlines()) == len(found[1].splitlines())

    def test_already_fused(self, run, source):
        run("fuse", source)
        deploy = source.with_name("ckpt.deploy.pdparams")
        code, out, _ = run("fuse", deploy, "-o", source.with_name("again.pdparams"))
        assert code == 0
        assert "already fused" in out
        code, _, err = run("fuse", deploy, "-o", source.with_name("third.pdparams"), "--strict")
        assert code == 1
        assert "7 blocks in deploy form already" in err
        assert not source.with_name("third.pdparams").exists()

    def test_the_only_checkpoint_of_the_folder_is_meant(self, run, source, monkeypatch):
        monkeypatch.chdir(source.parent)
        assert run("fuse")[0] == 0
        code, _, err = run("fuse")
        assert code == 2
        assert "ckpt.deploy.pdparams" in err
        assert "ckpt.pdparams" in err

    def test_nothing_is_overwritten(self, run, source):
        run("fuse", source)
        code, _, err = run("fuse", source)
        assert code == 2
        assert "--force" in err
        assert run("fuse", source, "--force")[0] == 0

    def test_an_onnx_file_that_is_not_there(self, run, source):
        code, _, err = run("fuse", source.with_suffix(".onnx"))
        assert code == 2
        assert "No such file" in err

    def test_a_folder_that_does_not_exist(self, run, source):
        code, _, err = run("fuse", source, "-o", source.parent / "none" / "x.pdparams")
        assert code == 2
        assert "no folder" in err


class TestBadInput:
    """Every command refuses what is no checkpoint, with one error and exit code 2."""

    @pytest.fixture(params=["missing", "empty", "truncated", "text", "no weights", "evil", "nan",
                            "key missing", "wrong shape"])  # fmt: skip
    def bad(self, request, tmp_path) -> Path:
        path = tmp_path / "bad.pdparams"
        arrays = repvgg_arrays()
        contents = {
            "empty": b"",
            "text": b"just some text",
            "no weights": pickle.dumps([1, 2, 3], protocol=4),
            "evil": b"\x80\x02cposix\nsystem\nX\x0b\x00\x00\x00touch PWNED\x85R.",
        }
        if request.param in contents:
            path.write_bytes(contents[request.param])
        elif request.param == "truncated":
            whole = write(tmp_path, arrays, "whole.pdparams").read_bytes()
            path.write_bytes(whole[:-100])
        elif request.param == "nan":
            arrays["linear.weight"][0, 0] = np.nan
            write(tmp_path, arrays, path.name)
        elif request.param == "key missing":
            del arrays["stage2.1.rbr_1x1.bn._variance"]
            write(tmp_path, arrays, path.name)
        elif request.param == "wrong shape":
            arrays["stage2.1.rbr_1x1.conv.weight"] = np.ones((12, 12, 3, 3), np.float32)
            write(tmp_path, arrays, path.name)
        return path

    @pytest.mark.parametrize("command", ["fuse", "verify", "export", "bench"])
    def test_refused(self, run, bad, command, monkeypatch):
        monkeypatch.chdir(bad.parent)
        before = sorted(bad.parent.iterdir())
        contents = bad.read_bytes() if bad.exists() else None
        code, out, err = run(command, bad, *(["--onnx"] if command == "export" else []))
        assert code == 2
        assert out == ""
        assert err.count("Error:") == 1
        assert sorted(bad.parent.iterdir()) == before
        if contents is not None:
            assert bad.read_bytes() == contents

    def test_json_carries_the_error(self, run, tmp_path):
        code, out, err = run("fuse", tmp_path / "none.pdparams", "--json")
        report = json.loads(out)
        assert code == 2
        assert report["verdict"] == "error"
        assert "none.pdparams" in report["error"]["what"]
        assert "Error:" in err


class TestVerify:
    def test_equivalent(self, run, source):
        run("fuse", source)
        code, out, _ = run("verify", source, source.with_name("ckpt.deploy.pdparams"),
                           "--input-size", "32,33x35")  # fmt: skip
        assert code == 0
        assert "verdict: equivalent" in out
        assert "Higham" in out  # why the bound is enough
        certificate = r"worst of 7 'stage\S+': at most \S+ \* max\|x\| \+ \S+ for every input"
        assert re.search(certificate, " ".join(out.split()))

    def test_different(self, run, source):
        run("fuse", source)
        fused = dict(load_checkpoint(source.with_name("ckpt.deploy.pdparams")).arrays)
        fused["stage3.1.rbr_reparam.bias"] = fused["stage3.1.rbr_reparam.bias"] * np.float32(1.01)
        wrong = write(source.parent, fused, "wrong.pdparams")
        code, out, _ = run("verify", source, wrong)
        assert code == 1
        assert "verdict: different" in out
        assert "first difference: block 'stage3.1': off by" in " ".join(out.split())

    def test_json(self, run, source):
        code, out, _ = run("verify", source, "--no-network", "--json")
        report = json.loads(out)
        assert (code, report["verdict"]) == (0, "equivalent")
        blocks = report["stages"][1]["blocks"]
        assert len(blocks) == 7
        assert all(0 < block["certificate"]["roundings"] <= 1 for block in blocks)

    def test_json_of_a_block_that_is_not_there(self, run, source):
        run("fuse", source)
        fused = dict(load_checkpoint(source.with_name("ckpt.deploy.pdparams")).arrays)
        del fused["stage1.0.rbr_reparam.bias"]
        code, out, _ = run("verify", source, write(source.parent, fused, "x.pdparams"), "--json")
        report = json.loads(out)
        assert (code, report["verdict"]) == (1, "different")
        assert report["stages"][1]["blocks"][1]["distance"] == "inf"

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.ones((3, 8, 8)), "(N, C, H, W)"),
            (np.array([{}], dtype=object), "cannot read"),
            (None, "cannot read"),
        ],
    )
    def test_a_probe_that_is_no_image(self, run, source, array, said):
        probe = source.with_name("probe.npy")
        if array is not None:
            np.save(probe, array, allow_pickle=True)
        code, _, err = run("verify", source, "--probe", probe)
        assert code == 2
        assert said in err

    def test_sizes_that_are_none(self, run, source):
        for size in ("0", "x", "12x", "1x2x3", "-5", "64,,64"):
            assert run("verify", source, "--input-size", size)[0] == 2


class TestInspect:
    def test_report(self, run, source):
        code, out, _ = run("inspect", source)
        assert code == 0
        assert "repvgg" in out
        assert "train-time (0 of 7 blocks are one convolution)" in out

    def test_what_is_wrong_is_shown_and_is_no_error(self, run, tmp_path):
        arrays = repvgg_arrays()
        arrays["linear.bias"][0] = np.inf
        code, out, _ = run("inspect", write(tmp_path, arrays))
        assert code == 0
        assert "not finite" in out

    def test_an_onnx_file_that_is_none(self, run, tmp_path):
        path = tmp_path / "x.onnx"
        assert run("inspect", path)[0] == 2
        path.write_bytes(b"no protobuf")
        assert run("inspect", path)[0] == 2


class TestUsage:
    @pytest.mark.parametrize("arguments", [["fus"], ["fuse", "--nope"], ["fuse", "a", "b"],
                                           ["fuse", "--epsilon", "-1"], ["bench", "--rounds", "0"],
                                           ["export", "x.pdparams", "--opset", "7"]])  # fmt: skip
    def test_wrong_usage_is_2(self, run, arguments):
        assert run(*arguments)[0] == 2

    def test_version(self, run):
        code, out, _ = run("--version")
        assert code == 0
        assert "reparam" in out

    def test_names_that_look_like_markup_are_printed_as_they_are(self, run, tmp_path):
        arrays = {"[bold]w[/bold]": np.array([np.nan], np.float32)}
        _, out, _ = run("inspect", write(tmp_path, arrays))
        assert "[bold]w[/bold]" in out


def test_from_a_checkout_without_installation(tmp_path):
    """``python cli.py`` works where only the dependencies are installed."""
    root = Path(__file__).parents[2]
    source = write(tmp_path, cspresnet_arrays())
    done = subprocess.run(
        [sys.executable, str(root / "cli.py"), "fuse", str(source)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt.deploy.pdparams").exists()
