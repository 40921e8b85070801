"""--model, --model-arg and -c on the command line, in a folder like those that users have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import faulty_blocks
from tests.converter import needs_converter
from tests.own_network import randomised, weights
from tests.weights import cspresnet_arrays, repvgg_arrays, write

ROOT = Path(__file__).parents[2]
OWN = ("--model", "tests.own_network:build")
SIZES = {"layers": (1, 2), "channels": (8, 16, 24)}

CONFIG = """
_BASE_: [base.yml]
YOLOv3: {backbone: CSPResNet}
CSPResNet:
  layers: [1, 2]
  channels: [8, 16, 24]
  return_idx: [1]
  use_alpha: True
"""
BASE = """
architecture: YOLOv3
norm_type: sync_bn
TrainReader: {sample_transforms: [!Decode {}, !RandomCrop {}]}
TestReader: {inputs_def: {image_shape: [3, 32, 48]}}
"""


def plain():
    """A network of a convolution and a ReLU: no block, and nothing named like one."""
    from paddle import nn

    return nn.Sequential(nn.Conv2D(3, 4, 3), nn.ReLU(), nn.Conv2D(4, 2, 1))


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "base.yml").write_text(BASE)
    path = tmp_path / "top.yml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def detector(tmp_path) -> Path:
    return write(tmp_path, cspresnet_arrays(**SIZES))


class TestOwnNetwork:
    @pytest.fixture
    def source(self, tmp_path) -> Path:
        return write(tmp_path, weights())

    def test_a_network_without_a_block_that_is_known_is_sent_to_export(self, run, tmp_path):
        layer = plain()
        arrays = {key: value.numpy() for key, value in layer.state_dict().items()}
        source = write(tmp_path, arrays)
        code, out, _ = run("fuse", source, "--model", f"{__name__}:plain")
        assert code == 0
        assert "nothing to fuse" not in out
        said = " ".join(out.split())
        assert "no block of this network is known by name: reparam export" in said
        assert f"--model {__name__}:plain --onnx fuses its graph" in said
        assert not (tmp_path / "ckpt.deploy.pdparams").exists()

    def test_fuse_and_verify(self, run, source):
        code, out, _ = run("fuse", source, *OWN)
        assert code == 0
        assert "Block.convert_to_deploy" in out
        assert "3 blocks converted by their own methods" in out
        fused = source.with_name("ckpt.deploy.pdparams")
        code, out, _ = run("verify", source, fused, *OWN, "--json")
        report = json.loads(out)
        assert code == 0
        assert report["verdict"] == "equivalent"
        assert [stage["name"] for stage in report["stages"]] == [
            "other arrays", "blocks", "network",
        ]  # fmt: skip
        code, out, _ = run("fuse", fused, *OWN, "--dry-run")
        assert code == 0
        assert "already fused" in out

    def test_json(self, run, source):
        code, out, _ = run("fuse", source, *OWN, "--json", "--dry-run", "--model-arg", "width=8")
        report = json.loads(out)
        assert code == 0
        assert report["verdict"] == "fused"
        assert report["arguments"] == {"width": 8}
        assert report["fused"][0]["check"]["verdict"] == "equal"

    def test_a_wrong_method(self, run, source, tmp_path):
        arguments = [*OWN, "--model-arg", "mistake=identity"]
        code, _, err = run("fuse", source, *arguments)
        assert code == 1
        assert "makes another function of block 'body.0'" in err
        assert "channel" in err
        assert list(tmp_path.iterdir()) == [source]
        code, out, _ = run("verify", source, *arguments)
        assert code == 1
        assert "first difference: block 'body.0'" in out

    @pytest.mark.parametrize(
        ("kind", "verdict", "told"),
        [
            ("Broadcasts", "fused", "fused by reparam instead, and proved"),
            ("DropsAttention", "only the weights are fused", "does not run 'se'"),
        ],
    )
    def test_a_wrong_method_of_a_known_block(self, kind, verdict, told, run, tmp_path):
        arguments = ["--model", "tests.faulty_blocks:build", "--model-arg", f"kind={kind}",
                     "--model-arg", "attention=true"]  # fmt: skip
        layer = randomised(faulty_blocks.build(kind, attention=True))
        source = write(tmp_path, {key: t.numpy() for key, t in layer.state_dict().items()})
        code, out, _ = run("fuse", source, *arguments, "--json", "--dry-run")
        report = json.loads(out)
        assert (code, report["verdict"]) == (0, verdict)
        assert any(told in notice for notice in report["notices"])
        code, out, _ = run("fuse", source, *arguments)
        assert code == 0
        assert f"reparam, not {kind}." in out
        assert "0 blocks converted by their own methods, 1 by reparam" in out
        code, out, _ = run("verify", source, *arguments, "--json")
        report = json.loads(out)
        assert code == (0 if verdict == "fused" else 1)
        assert any(told in notice for notice in report["notices"])

    def test_options_without_effect_are_told(self, run, source, config):
        _, _, err = run("fuse", source, *OWN, "-c", config, "--epsilon", "1e-3", "--dry-run")
        assert "note: --config has no effect: a network of your own decides it" in err
        assert "note: --epsilon has no effect: a network of your own" in err

    def test_a_size_that_does_not_run(self, run, source):
        code, _, err = run("fuse", source, *OWN, "--input-channels", 4)
        assert code == 2
        assert "does not run on an image" in err

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("tests.own_network", "no ':'"),
            ("tests.own_network:bild", "there is no 'bild'"),
            ("tests.own_networks:build", "there is no module"),
            ("tests.own_network:weights", "a value of type dict"),
        ],
    )
    def test_what_is_no_network(self, model, message, run, source):
        code, _, err = run("fuse", source, "--model", model)
        assert code == 2
        assert message in err


class TestName:
    def test_the_architecture_it_has(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        for command in (["fuse", "--dry-run"], ["verify", "--no-network"]):
            assert run(*command, source, "--model", "repvgg")[0] == 0

    @pytest.mark.parametrize("command", ["fuse", "verify", "export", "bench"])
    def test_another_architecture(self, command, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        code, _, err = run(command, source, "--model", "cspresnet_s")
        assert code == 2
        assert "the checkpoint is not a cspresnet_s" in err
        assert "a repvgg: " in err

    def test_an_unknown_name(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        code, _, err = run("fuse", source, "--model", "repvg_a0")
        assert code == 2
        assert "'repvgg_a0'" in err

    def test_a_key_that_is_left_over(self, run, tmp_path):
        """Without the option it is carried over with a notice."""
        arrays = repvgg_arrays()
        source = write(tmp_path, {**arrays, "more": arrays["linear.bias"]})
        assert run("fuse", source, "--dry-run")[0] == 0
        code, _, err = run("fuse", source, "--model", "repvgg")
        assert code == 2
        assert "1 unexpected: more" in err

    def test_input_channels_are_for_own_networks(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        assert "no effect" in run("fuse", source, "--input-channels", 3, "--dry-run")[2]


class TestConfiguration:
    @needs_converter
    def test_settings_and_size_reach_the_export(self, run, detector, config):
        code, out, _ = run("export", detector, "--onnx", "-c", config, "--json")
        report = json.loads(out)
        assert code == 0
        assert report["input"]["shape"] == ["batch", 3, 32, 48]
        assert report["settings"]["return_idx"] == [1]
        assert len(report["outputs"]) == 1
        assert "return_idx" not in report["assumed"]

    def test_settings_reach_the_network_that_verify_runs(self, run, detector, config):
        config.write_text(CONFIG.replace("return_idx: [1]", "return_idx: [0, 1]"))
        code, out, _ = run("verify", detector, "-c", config)
        assert code == 0
        assert "2 output(s) equal" in out

    def test_model_arg_wins_and_says_so(self, run, detector, config):
        code, out, err = run("verify", detector, "-c", config, "--model-arg", "return_idx=[0,1]")
        assert code == 0
        assert "2 output(s) equal" in out
        assert "--model-arg return_idx=[0, 1] wins over [1]" in err

    @pytest.mark.parametrize("command", ["fuse", "verify", "export", "bench"])
    def test_a_configuration_of_another_network(self, command, run, detector, config):
        config.write_text(CONFIG.replace("use_alpha: True", "use_alpha: False"))
        code, _, err = run(command, detector, "-c", config)
        assert code == 2
        assert "use_alpha False in the configuration, True in the checkpoint" in err
        assert list(detector.parent.glob("*.onnx")) == []

    def test_fusing_with_the_right_one(self, run, detector, config):
        assert run("fuse", detector, "-c", config)[0] == 0

    @pytest.mark.parametrize(
        ("path", "message"),
        [("none.yml", "No such file"), (".", "directory"), ("ckpt.pdparams", "is no config")],
    )
    def test_what_is_no_configuration(self, path, message, run, detector, config):
        code, _, err = run("fuse", detector, "-c", detector.parent / path)
        assert code == 2
        assert message in err or "not UTF-8" in err


SHADOWS = ("click", "rich", "numpy", "paddle", "yaml", "onnx", "safetensors", "utils", "tests")


@pytest.fixture
def project(tmp_path) -> Path:
    """A user's folder: their own cli.py, models/, and files named like packages."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    (tmp_path / "utils.py").write_text("WIDTH = 8\n")
    (tmp_path / "cli.py").write_text("raise SystemExit('this is the cli.py of the user')\n")
    models = tmp_path / "models"
    models.mkdir()
    text = (ROOT / "tests" / "own_network.py").read_text()
    text = text.replace("from reparam.adapters.paddle_models import import_paddle\n", "")
    text = text.replace("paddle = import_paddle()", "import paddle\nfrom utils import WIDTH")
    (models / "mynet.py").write_text(text + "\n\nprint('importing', WIDTH)\n")
    return write(tmp_path, weights())


@pytest.mark.parametrize(
    "start",
    [["-m", "reparam"], [str(ROOT / "cli.py")], [str(Path(sys.executable).parent / "reparam")]],
    ids=["python -m reparam", "python cli.py", "reparam"],
)
def test_a_users_own_files_are_used_and_shadow_nothing(start, project):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*arguments):
        return subprocess.run(
            [sys.executable, *start, *arguments],
            capture_output=True, text=True, cwd=project.parent, env=env,
        )  # fmt: skip

    plain = call("inspect", project.name)
    assert (plain.returncode, plain.stderr) == (0, "")
    done = call("fuse", project.name, "--model", "models.mynet:build", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fused"][0]["kind"] == "models.mynet.Block"
    assert "importing 8" in done.stderr
