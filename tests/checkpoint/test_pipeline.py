"""From file to file: what is written, what is left alone, the manifest, and inspection."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from reparam.checkpoint import fuse_arrays, load_checkpoint, save_checkpoint
from reparam.checkpoint.inspection import inspect
from reparam.checkpoint.manifest import manifest_path, source_of
from reparam.checkpoint.pipeline import fuse
from reparam.checkpoint.unfusing.pipeline import unfuse
from reparam.errors import CheckpointError, NotFusibleError, OutputError
from tests.weights import cspresnet_arrays, repvgg_arrays, write


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_default_output_stands_beside(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    before = source.read_bytes()
    result = fuse(source)
    assert result.output == tmp_path / "ckpt.deploy.pdparams"
    assert names_in(tmp_path) == [
        "ckpt.deploy.pdparams",
        "ckpt.deploy.pdparams.manifest.json",
        "ckpt.pdparams",
    ]
    assert source.read_bytes() == before
    found = load_checkpoint(result.output)
    assert found.sha256 == result.sha256
    assert {k: a.shape for k, a in found.arrays.items()} == {
        k: a.shape for k, a in repvgg_arrays(deploy=True).items()
    }


def test_the_ending_of_the_output_chooses_the_format(tmp_path):
    source = write(tmp_path, cspresnet_arrays())
    result = fuse(source, tmp_path / "out.safetensors")
    assert load_checkpoint(result.output).format == "safetensors"
    with pytest.raises(CheckpointError, match="ending"):
        fuse(source, tmp_path / "out.bin")


def test_the_manifest_names_the_source(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    (tmp_path / "sub").mkdir()
    result = fuse(source, tmp_path / "sub" / "x.pdparams", epsilon=1e-3)
    note = json.loads(manifest_path(result.output).read_text())
    assert note["source_sha256"] == load_checkpoint(source).sha256
    assert len(note["report"]["fused"]) == 7
    found, epsilon, _ = source_of(load_checkpoint(result.output))
    assert found.resolve() == source.resolve()
    assert epsilon == 1e-3


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda source, output: manifest_path(output).unlink(), "no manifest"),
        (lambda source, output: manifest_path(output).write_text("[]"), "not a manifest"),
        (lambda source, output: manifest_path(output).write_text("[" * 100_000), "not a manifest"),
        (lambda source, output: _pipe(manifest_path(output)), "not a manifest"),
        (lambda source, output: source.unlink(), "not there"),
        (lambda source, output: save_checkpoint(source, repvgg_arrays(1), force=True), "changed"),
        (lambda source, output: save_checkpoint(output, repvgg_arrays(2), force=True), "another"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, spoil, said):
    source = write(tmp_path, repvgg_arrays())
    output = fuse(source).output
    spoil(source, output)
    with pytest.raises(CheckpointError, match=said):
        source_of(load_checkpoint(output))


def test_a_dry_run_writes_nothing(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    result = fuse(source, dry_run=True)
    assert result.output is None
    assert len(result.report.fused) == 7
    assert names_in(tmp_path) == ["ckpt.pdparams"]


def test_already_fused_is_not_written(tmp_path):
    source = write(tmp_path, repvgg_arrays(deploy=True))
    result = fuse(source)
    assert (result.output, result.sha256, result.report.fused) == (None, "", ())
    assert names_in(tmp_path) == ["ckpt.pdparams"]
    with pytest.raises(NotFusibleError, match="7 blocks in deploy form already"):
        fuse(source, tmp_path / "other.pdparams", strict=True)
    assert not (tmp_path / "other.pdparams").exists()


def test_nothing_to_fuse(tmp_path):
    source = write(tmp_path, {"w": np.ones(3, np.float32)})
    assert fuse(source).output is None
    with pytest.raises(NotFusibleError, match="no block of a known family"):
        fuse(source, strict=True, dry_run=True)


def test_outputs_are_refused_before_anything_is_read(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    with pytest.raises(OutputError, match="is the input"):
        fuse(source, source, force=True)
    with pytest.raises(OutputError, match="no folder"):
        fuse(source, tmp_path / "none" / "x.pdparams")
    fuse(source)
    with pytest.raises(OutputError, match="exists already"):
        fuse(source)
    fuse(source, force=True)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({**repvgg_arrays(), "linear.bias": np.full(5, np.inf, np.float32)}, "not finite"),
        ({k: a for k, a in repvgg_arrays().items() if k != "linear.bias"}, "linear.bias"),
    ],
)
def test_a_refusal_leaves_nothing(tmp_path, arrays, said):
    source = write(tmp_path, arrays)
    with pytest.raises(CheckpointError, match=said):
        fuse(source)
    assert names_in(tmp_path) == ["ckpt.pdparams"]


class TestFormat:
    @pytest.mark.parametrize(
        ("output", "kind", "expected"),
        [
            (None, "safetensors", "ckpt.deploy.safetensors"),
            (None, "pdparams", "ckpt.deploy.pdparams"),
            ("out.safetensors", "safetensors", "out.safetensors"),
            ("out", "safetensors", "out.safetensors"),
            ("out.v2", "pdparams", "out.v2.pdparams"),
        ],
    )
    def test_it_completes_a_name(self, tmp_path, output, kind, expected):
        source = write(tmp_path, repvgg_arrays())
        result = fuse(source, None if output is None else tmp_path / output, format=kind)
        assert result.output == tmp_path / expected
        assert load_checkpoint(result.output).format == kind

    def test_it_may_not_contradict_the_name(self, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        with pytest.raises(CheckpointError, match="contradicts"):
            fuse(source, tmp_path / "out.pdparams", format="safetensors")
        assert names_in(tmp_path) == ["ckpt.pdparams"]


def test_strict_is_about_what_was_not_asked_to_stay(tmp_path):
    source = write(tmp_path, repvgg_arrays())
    assert fuse(source, strict=True, skip=["stage0"], dry_run=True).report.left
    with pytest.raises(NotFusibleError, match="nothing to fuse"):
        fuse(source, strict=True, skip=["*"], dry_run=True)


@pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
def test_the_file_is_what_its_hash_says_and_what_fusing_in_memory_gives(tmp_path, ending):
    source = write(tmp_path, cspresnet_arrays())
    result = fuse(source, tmp_path / f"x.{ending}", fold_bn=True)
    contents = result.output.read_bytes()
    assert hashlib.sha256(contents).hexdigest() == result.sha256
    assert hashlib.sha256(source.read_bytes()).hexdigest() == result.source_sha256
    fused, report = fuse_arrays(cspresnet_arrays(), fold_bn=True)
    found = load_checkpoint(result.output).arrays
    assert {k: a.tobytes() for k, a in found.items()} == {k: a.tobytes() for k, a in fused.items()}
    assert report == result.report
    note = json.loads(manifest_path(result.output).read_text())
    assert note["report"]["fused"][0]["certificate"]["roundings"] <= 1
    assert note["report"]["worst_certificate"] == report.worst.where


def test_an_error_in_the_middle_of_writing_leaves_nothing(tmp_path):
    arrays = repvgg_arrays()
    arrays["stage4.0.rbr_dense.conv.weight"][0, 0, 0, 0] = np.inf  # the last block
    with pytest.raises(CheckpointError, match="not finite"):
        fuse(write(tmp_path, arrays))
    assert names_in(tmp_path) == ["ckpt.pdparams"]


class TestInspect:
    def test_train_time_form(self, tmp_path):
        found = inspect(write(tmp_path, cspresnet_arrays()))
        assert found.architecture == "cspresnet"
        assert found.form == "train-time"
        assert [block.where for block in found.blocks] == [
            "stages.0.blocks.0.conv2",
            "stages.1.blocks.0.conv2",
            "stages.1.blocks.1.conv2",
        ]
        assert found.fused == 0
        assert found.settings["channels"] == [8, 16, 24]
        assert "epsilon" in found.assumed
        statistics = ("_mean", "_variance")
        learned = [a.size for k, a in cspresnet_arrays().items() if not k.endswith(statistics)]
        assert found.parameters == sum(learned)

    def test_deploy_and_mixed_form(self, tmp_path):
        assert inspect(write(tmp_path, repvgg_arrays(deploy=True), "a.pdparams")).fused == 7
        train, deploy = repvgg_arrays(), repvgg_arrays(deploy=True)
        half = {k: a for k, a in train.items() if not k.startswith("stage1.0.")}
        half |= {k: a for k, a in deploy.items() if k.startswith("stage1.0.")}
        found = inspect(write(tmp_path, half, "b.pdparams"))
        assert (found.form, found.fused, len(found.blocks)) == ("mixed", 1, 7)

    def test_what_is_wrong_is_listed(self, tmp_path):
        arrays = repvgg_arrays()
        del arrays["linear.bias"]
        arrays["extra"] = np.array([np.nan], np.float32)
        arrays["stage0.rbr_dense.bn._mean"][:] = 0
        arrays["stage0.rbr_dense.bn._variance"][:] = 1
        arrays["stage1.0.rbr_1x1.bn.bias"] = np.ones(3, np.float32)
        found = inspect(write(tmp_path, arrays))
        assert found.missing == ("linear.bias",)
        assert found.unexpected == ("extra",)
        assert found.not_finite == ("extra",)
        assert found.untrained == ("stage0.rbr_dense.bn",)
        assert found.mismatched == ("'stage1.0.rbr_1x1.bn.bias' has the shape (3,); needed: (8,)",)

    def test_unknown(self, tmp_path):
        found = inspect(write(tmp_path, {"w": np.ones(3, np.float32)}))
        assert found.architecture is None
        assert found.form == "no known block"


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)  # opening it would wait for a writer


@pytest.mark.parametrize("made", [fuse, unfuse])
@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_has_no_name_to_make_another_of(made, folder):
    with pytest.raises(CheckpointError, match="a directory; needed: a file"):
        made(folder)
