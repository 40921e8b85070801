"""``reparam unfuse``: from file to file, what is said, and what is left after a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from reparam import create_model, fuse, load_checkpoint, save_checkpoint, unfuse
from reparam.checkpoint.manifest import manifest_path
from reparam.checkpoint.unfusing.pipeline import train_path
from reparam.errors import NotFusibleError
from reparam.example import example_checkpoints, example_images
from tests.weights import cspresnet_arrays, repvgg_arrays, write

SPOILED = ("truncated", "empty", "text", "nan", "missing", "key", "wide")
DEPLOY, TRAIN = "ckpt.deploy.pdparams", "ckpt.train.pdparams"


@pytest.fixture
def deploy(tmp_path) -> Path:
    """A fused checkpoint that came alone: no manifest, no original."""
    return write(tmp_path, repvgg_arrays(deploy=True), DEPLOY)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestReport:
    def test_report(self, run, deploy):
        code, out, _ = run("unfuse", deploy)
        said = " ".join(out.split())
        assert code == 0
        assert "7 blocks unfused, 7 of them to the last bit" in said
        assert "equivalent in function, not the original weights" in said
        assert "keep the BatchNorms in evaluation mode" in said
        assert "epsilon 1e-05 (PaddleClas" in said
        assert "worst block 'stage" in said
        assert "rbr_dense.conv" in said
        assert names_in(deploy.parent) == [DEPLOY, TRAIN, f"{TRAIN}.manifest.json"]

    def test_json(self, run, deploy):
        code, out, _ = run("unfuse", deploy, "--json")
        report = json.loads(out)
        assert code == 0
        assert (report["schema"], report["command"]) == ("reparam.unfuse/1", "unfuse")
        assert report["verdict"] == "unfused"
        assert report["output"] == str(deploy.with_name(TRAIN))
        assert report["meaning"].startswith("equivalent in function, not the original weights")
        block = report["unfused"][0]
        assert block["carrier"] == "stage0.rbr_dense.conv.weight"
        assert block["same"] is True
        assert 0 < block["certificate"]["roundings"] <= 1
        found = load_checkpoint(deploy.with_name(TRAIN))
        assert found.sha256 == report["sha256"]
        assert set(found.arrays) == set(repvgg_arrays())

    def test_a_dry_run_writes_nothing(self, run, deploy):
        code, out, _ = run("unfuse", deploy, "--dry-run", "--json")
        report = json.loads(out)
        assert code == 0
        assert report["output"] is None
        assert len(report["unfused"]) == 7
        assert names_in(deploy.parent) == [DEPLOY]
        assert "nothing was written" in run("unfuse", deploy, "--dry-run")[1]

    def test_what_is_printed_does_not_grow_with_the_network(self, run, tmp_path):
        printed = []
        for count in (9, 12):
            arrays = repvgg_arrays(num_blocks=(count,) * 4, groups={}, deploy=True)
            source = write(tmp_path, arrays, f"{count}.pdparams")
            printed.append(run("unfuse", source, "--dry-run", "--skip", "stage1.*")[1])
        assert len(printed[0].splitlines()) == len(printed[1].splitlines())

    def test_verify_accepts_it_in_both_directions(self, run, deploy):
        assert run("unfuse", deploy)[0] == 0
        train = deploy.with_name(TRAIN)
        for pair in ((deploy, train), (train, deploy), (train,)):
            code, out, _ = run("verify", *pair, "--input-size", 32)
            assert code == 0, out
            assert "verdict: equivalent" in out
        arrays = dict(load_checkpoint(train).arrays)
        key = "stage0.rbr_1x1.conv.weight"
        arrays[key] = arrays[key] + np.float32(1e-3)
        save_checkpoint(train, arrays, force=True)
        assert run("verify", deploy, train, "--no-network")[0] == 1

    def test_the_manifest_names_the_source(self, run, deploy):
        run("unfuse", deploy)
        note = json.loads(manifest_path(deploy.with_name(TRAIN)).read_text())
        assert note["source"] == DEPLOY
        assert note["source_sha256"] == load_checkpoint(deploy).sha256
        assert note["report"]["meaning"]
        assert len(note["report"]["unfused"]) == 7


class TestWhatDecides:
    def test_the_source_of_the_fusion_if_it_is_still_there(self, run, tmp_path):
        source = write(tmp_path, cspresnet_arrays())
        fuse(source, epsilon=1e-4, fold_bn=True)
        code, out, _ = run("unfuse", tmp_path / DEPLOY, "--json")
        report = json.loads(out)
        assert code == 0
        assert report["original"] == str(source)
        assert any("the original weights are in" in notice for notice in report["notices"])
        assert report["epsilon"] == 1e-4
        assert report["epsilons"][0]["source"] == "the manifest of the fusion"
        assert not report["missing"]
        assert not report["unexpected"]
        assert set(load_checkpoint(tmp_path / TRAIN).arrays) == set(cspresnet_arrays())
        code, _, err = run("unfuse", tmp_path / DEPLOY, "--with", "alpha", "--dry-run")
        assert code == 2
        assert "which the manifest names, decides it" in err

    def test_without_the_source_the_architecture_does(self, run, tmp_path):
        source = write(tmp_path, cspresnet_arrays())
        fuse(source)
        source.unlink()
        code, out, _ = run("unfuse", tmp_path / DEPLOY)
        assert code == 0
        assert "--with alpha adds it" in " ".join(out.split())
        assert not any("alpha" in key for key in load_checkpoint(tmp_path / TRAIN).arrays)

    def test_like(self, run, tmp_path):
        head = {"neck.weight": np.ones((2, 2), np.float32)}
        deploy = {f"body.{k}": a for k, a in cspresnet_arrays(deploy=True).items()} | head
        fresh = {f"body.{k}": 0 * a + 1 for k, a in cspresnet_arrays(7).items()} | head
        source = write(tmp_path, deploy, DEPLOY)
        code, _, err = run("unfuse", source)
        assert code == 2
        assert "--like FILE" in " ".join(err.split())
        like = write(tmp_path, fresh, "fresh.pdparams")
        code, out, _ = run("unfuse", source, "--like", like, "--strict")
        assert code == 0, out
        back = load_checkpoint(tmp_path / TRAIN).arrays
        assert {k: a.shape for k, a in back.items()} == {k: a.shape for k, a in fresh.items()} | {}
        assert run("verify", tmp_path / TRAIN, source, "--no-network")[0] == 0

    def test_family_and_parts(self, run, tmp_path):
        arrays = {f"body.{k}": a for k, a in repvgg_arrays(deploy=True).items()}
        source = write(tmp_path, arrays | {"neck.bias": np.ones(2, np.float32)}, DEPLOY)
        code, _, err = run("unfuse", source)
        assert code == 2
        assert "does not tell what block 'body.stage0' was" in err
        code, _, err = run("unfuse", source, "--family", "RepVGG")
        assert code == 2
        assert "block 'body.stage1.0': 'rbr_identity'" in err
        named = [f"body.stage{name}:rbr_identity" for name in ("2.1", "3.1")]
        parts = [word for name in named for word in ("--with", name)]
        parts += ["--without", "rbr_identity"]
        assert run("unfuse", source, "--family", "RepVGG", *parts)[0] == 0
        back = load_checkpoint(tmp_path / TRAIN).arrays
        assert set(back) == {f"body.{key}" for key in repvgg_arrays()} | {"neck.bias"}

    def test_strict(self, run, tmp_path, deploy):
        like = write(tmp_path, repvgg_arrays() | {"aux": np.ones(2, np.float32)}, "like.pdparams")
        code, out, _ = run("unfuse", deploy, "--like", like, "--dry-run")
        assert code == 0
        assert "the train-time network has besides: 'aux'" in " ".join(out.split())
        before = names_in(tmp_path)
        code, _, err = run("unfuse", deploy, "--like", like, "--strict")
        assert code == 1
        assert "missing: 'aux'" in err
        assert run("unfuse", deploy, "--skip", "stage0", "--strict", "--dry-run")[0] == 0
        assert names_in(tmp_path) == before

    def test_train_time_form_already(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        code, out, _ = run("unfuse", source)
        assert code == 0
        assert "already train-time" in out
        assert names_in(tmp_path) == [source.name]
        code, _, err = run("unfuse", source, "-o", tmp_path / "other.pdparams", "--strict")
        assert code == 1
        assert "7 blocks in train-time form already" in err
        with pytest.raises(NotFusibleError):
            unfuse(source, tmp_path / "other.pdparams", strict=True)
        assert not (tmp_path / "other.pdparams").exists()


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "kind", "expected"),
        [
            ("x.deploy.pdparams", None, "x.train.pdparams"),
            ("x.pdparams", None, "x.train.pdparams"),
            ("x.deploy.safetensors", None, "x.train.safetensors"),
            ("x.deploy.pdparams", "safetensors", "x.train.safetensors"),
            ("x.pdema", None, "x.pdema.train.pdparams"),
            ("x.deploy.deploy.pdparams", None, "x.deploy.train.pdparams"),
            ("net.pth", None, "net.train.safetensors"),
        ],
    )
    def test_the_default_name(self, name, kind, expected):
        assert train_path(Path("folder") / name, kind) == Path("folder") / expected

    def test_nothing_is_overwritten(self, run, deploy):
        assert run("unfuse", deploy)[0] == 0
        code, _, err = run("unfuse", deploy)
        assert code == 2
        assert "--force" in err
        assert run("unfuse", deploy, "--force")[0] == 0
        code, _, err = run("unfuse", deploy, "-o", deploy, "--force")
        assert code == 2
        assert "is the input" in err

    def test_another_format(self, run, deploy):
        assert run("unfuse", deploy, "--format", "safetensors")[0] == 0
        found = load_checkpoint(deploy.with_name("ckpt.train.safetensors"))
        assert found.format == "safetensors"
        assert run("unfuse", deploy, "--format", "safetensors", "-o", "x.pdparams")[0] == 2

    def test_the_table_of_names(self, tmp_path):
        arrays = repvgg_arrays(deploy=True)
        table = {key: f"conv2d_{n}.w_0" for n, key in enumerate(arrays)}
        save_checkpoint(tmp_path / DEPLOY, arrays, names=table)
        names = load_checkpoint(unfuse(tmp_path / DEPLOY).output).names
        assert names["stage0.rbr_dense.conv.weight"] == table["stage0.rbr_reparam.weight"]
        assert names["linear.weight"] == table["linear.weight"]
        assert not any("reparam" in key for key in names)
        like = {key: f"{key}_0" for key in repvgg_arrays()}
        save_checkpoint(tmp_path / "like.pdparams", repvgg_arrays(1), names=like)
        output = unfuse(tmp_path / DEPLOY, like=tmp_path / "like.pdparams", force=True).output
        assert load_checkpoint(output).names == like

    @pytest.mark.parametrize(
        "spoil", ["truncated", "empty", "text", "nan", "missing", "key", "wide"]
    )
    def test_bad_input_leaves_nothing(self, run, deploy, spoil):
        arrays = repvgg_arrays(deploy=True)
        if spoil == "truncated":
            deploy.write_bytes(deploy.read_bytes()[:-200])
        elif spoil in ("empty", "text"):
            deploy.write_bytes(b"" if spoil == "empty" else b"just text")
        elif spoil == "missing":
            deploy.unlink()
        else:
            if spoil == "nan":  # in the last array: blocks are written by then
                arrays["linear.bias"][0] = np.nan
            elif spoil == "key":
                del arrays["stage2.1.rbr_reparam.bias"]
            else:
                arrays["stage2.1.rbr_reparam.weight"] = np.ones((12, 12, 2, 2), np.float32)
            save_checkpoint(deploy, arrays, force=True)
        before = names_in(deploy.parent)
        code, out, err = run("unfuse", deploy)
        assert (code, out) == (2, "")
        assert err.count("Error:") == 1
        assert names_in(deploy.parent) == before

    def test_bad_options_leave_nothing(self, run, deploy):
        before = names_in(deploy.parent)
        for words, said in (
            (["--family", "RepVG"], "near: 'RepVGG'"),
            (["--skip", "stage9"], "names no block"),
            (["--with", "stage0:alhpa"], "has no effect"),
            (["--branches", "3"], "no block that counts its branches"),
            (["--like", deploy.with_name("none.pdparams")], "cannot read"),
            (["--epsilon", "0.7"], "0.5 or less"),
            (["-o", deploy.parent / "none" / "x.pdparams"], "no folder"),
            (["-o", deploy.with_name("x.txt")], "says no format"),
        ):
            code, _, err = run("unfuse", deploy, *words)
            assert code == 2
            assert said in " ".join(err.split())
            assert names_in(deploy.parent) == before
        code, _, err = run("unfuse", deploy.with_suffix(".onnx"))
        assert code == 2
        assert "an ONNX file" in err


class TestNetworks:
    """What is written loads into the network it is for, computes the same, and can learn."""

    @pytest.mark.parametrize("name", sorted(example_checkpoints()))
    def test_the_trained_examples(self, tmp_path, name):
        source = tmp_path / f"{name}.pdparams"
        source.write_bytes(example_checkpoints()[name].read_bytes())
        train = unfuse(fuse(source).output).output
        original, back = (
            {key: paddle.to_tensor(array) for key, array in load_checkpoint(path).arrays.items()}
            for path in (source, train)
        )
        outputs = []
        for state in (original, back):
            network = self.network(name, source)
            assert network.set_state_dict(state) == ([], [])
            network.eval()
            images, _ = example_images()
            outputs.append(network(paddle.to_tensor(images[:20])).numpy())
        scale = np.abs(outputs[0]).max()
        assert np.abs(outputs[1] - outputs[0]).max() <= 1e-5 * scale
        assert (outputs[1].argmax(1) == outputs[0].argmax(1)).all()

    def network(self, name, source):
        from reparam import recognise

        known = recognise(load_checkpoint(source).shapes)
        return create_model(known.name, **known.settings)

    def test_every_branch_gets_a_gradient(self, deploy):
        arrays = load_checkpoint(unfuse(deploy).output).arrays
        network = create_model(
            "repvgg", num_blocks=[1, 2, 2, 1], class_num=5,
            width_multiplier=[8 / 64, 12 / 128, 16 / 256, 20 / 512], override_groups_map={3: 2},
        )  # fmt: skip
        state = {key: paddle.to_tensor(array) for key, array in arrays.items()}
        assert network.set_state_dict(state) == ([], [])
        network.eval()  # BatchNorms frozen, as the report asks for
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 64)))
        network(x.astype("float32")).square().sum().backward()
        for key, parameter in network.named_parameters():
            if key.endswith(("conv.weight", "rbr_identity.weight")):
                assert parameter.grad.abs().max() > 0, key
