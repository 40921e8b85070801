"""``reparam fuse`` of ONNX files: what is printed, options, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.files import sha256_of
from reparam.graph import pipeline
from reparam.graph.files import open_model
from reparam.graph.whole_records import UNDECIDABLE, Whole
from tests.commands.processes import contents
from tests.converter import needs_converter
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts
from tests.graph.networks import OPEN, forget_shifts, low_rank, nothing, repvgg, saved
from tests.weights import repvgg_arrays, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path, repvgg())


def stem() -> Any:
    g = GraphBuilder()
    g.output(g.relu(g.bn(g.conv(g.input("x", ("n", 3, 14, 14)), 8, 3, padding=1, stride=2))))
    return g.model()


class TestReport:
    def test_a_network(self, run, source):
        code, out, err = run("fuse", source)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == f"{source}: 2 regions fused"
        assert "2 Conv + 3 BatchNorm + 2 Add" in out
        assert "3x3 Conv" in out
        assert "125,440 -> 112,896" in out
        assert "nodes 14 -> 4; BatchNorm 5 -> 0; Add 3 -> 0; Conv 4 -> 2" in lines
        assert "MACs for one image 188,160 -> 169,344" in lines
        assert "proved in float64: 2 regions, the worst at 0." in out
        assert "equal as a whole in float64, 3 inputs" in out
        assert lines[-1] == f"wrote {source.with_name('net.deploy.onnx')}"

    def test_of_open_sizes(self, run, tmp_path):
        _, out, _ = run("fuse", saved(tmp_path, repvgg(OPEN)))
        assert "640 -> 576 x H x W" in out
        assert "MACs for one image 960 x H x W -> 864 x H x W" in out

    def test_does_not_grow_with_the_graph(self, run, tmp_path):
        def lines(blocks: int) -> int:
            g = GraphBuilder()
            y = g.input("x", ("n", 4, 6, 6))
            for _ in range(blocks):
                y = g.relu(g.bn(g.conv(y, 4, 3, padding=1)))
            g.output(y)
            return len(run("fuse", saved(tmp_path, g.model()), "--force")[1].splitlines())

        assert lines(40) == lines(12)

    def test_twice(self, run, source):
        run("fuse", source, "-o", source.with_name("a.onnx"))
        code, out, _ = run("fuse", source.with_name("a.onnx"))
        assert code == 0
        assert out.splitlines()[0].endswith("a.onnx: already fused")
        assert "nodes 4 -> 4" in out
        assert "nothing was written" in out
        assert sorted(contents(source.parent)) == ["a.onnx", "net.onnx"]

    def test_nothing_to_fuse(self, run, tmp_path):
        source = saved(tmp_path, nothing())
        code, out, _ = run("fuse", source)
        assert (code, out.splitlines()[0]) == (0, f"{source}: nothing to fuse")
        assert sorted(contents(source.parent)) == ["net.onnx"]
        code, _, err = run("fuse", source, "--strict", "-o", tmp_path / "a.onnx")
        assert code == 1
        assert "nothing to fuse" in err

    def test_a_dry_run(self, run, source):
        before = contents(source.parent)
        code, out, _ = run("fuse", source, "--dry-run")
        assert code == 0
        assert "dry run: nothing was written" in out
        assert contents(source.parent) == before

    def test_what_cannot_be_decided(self, run, source, monkeypatch):
        monkeypatch.setattr(pipeline, "compare", lambda *_: Whole(UNDECIDABLE, reason="chaos"))
        code, out, _ = run("fuse", source)
        assert code == 0
        assert "undecidable: chaos; what each region was proved stands" in out

    def test_json(self, run, source):
        code, out, err = run("fuse", source, "--json")
        assert (code, err) == (0, "")
        told = json.loads(out)
        assert (told["schema"], told["verdict"]) == ("reparam.fuse/1", "fused")
        assert [one["after"] for one in told["regions"]] == [{"Conv": 1}] * 2
        assert told["regions"][0]["macs_before_in_total"] == 125_440
        assert told["operators_after"] == {"Conv": 2, "Relu": 2}
        assert told["macs_before"]["text"] == "188,160"
        assert told["whole"]["verdict"] == "equal"
        assert 0 < told["worst_region"]["ratio"] < 1
        assert told["output"] == str(source.with_name("net.deploy.onnx"))

    def test_json_lists_every_region(self, run, tmp_path):
        g = GraphBuilder()
        y = g.input("x", ("n", 4, 6, 6))
        for _ in range(12):
            y = g.relu(g.bn(g.conv(y, 4, 3, padding=1)))
        g.output(y)
        told = json.loads(run("fuse", saved(tmp_path, g.model()), "--json")[1])
        assert len(told["regions"]) == 12


class TestOptions:
    def test_more_macs(self, run, tmp_path):
        source = saved(tmp_path, low_rank())
        code, out, _ = run("fuse", source, "--allow-macs", "5")
        assert code == 0
        assert "1 region fused" in out
        assert "MACs for one image 19,584 -> 82,944" in out
        assert run("fuse", source, "--allow-macs", "0.5", "--force")[0] == 2

    def test_a_pass_that_is_off(self, run, source):
        code, out, _ = run("fuse", source, "--without", "fuse-branches")
        assert code == 0
        assert "fuse-branches" not in out
        code, _, err = run("fuse", source, "--without", "nothing", "--force")
        assert code == 2
        assert "fold-batchnorm" in err

    def test_raw_pixels(self, run, tmp_path):
        source = saved(tmp_path, stem())
        code, out, _ = run("fuse", source, "--fold-normalize", "imagenet")
        assert code == 0
        assert "equal as a whole in float64" in out
        assert "at the input 'x'" in out, "the mean cannot go through the zeros at the border"
        written = tmp_path / "net.deploy.onnx"
        counts = op_counts(onnx.load(written))
        assert (counts["Conv"], counts["Sub"]) == (1, 1)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 14, 14)).astype(np.float32)
        mean, std = (np.array(v).reshape(3, 1, 1) for v in
                     ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))  # fmt: skip
        seen = ((pixels / 255 - mean) / std).astype(np.float32)
        (expected,) = run_onnx(open_session(source), seen)
        (found,) = run_onnx(open_session(written), pixels)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()

    def test_raw_pixels_of_what(self, run, source):
        for spec, said in (("nothing", "is no normalisation"), ("1,2,3,4,5,6", "3 of them")):
            before = contents(source.parent)
            code, _, err = run("fuse", source, "--fold-normalize", spec)
            assert code == 2
            assert said in err
            assert contents(source.parent) == before

    def test_siblings(self, run, tmp_path):
        g = GraphBuilder()
        x = g.input("x", OPEN)
        g.output(g.relu(g.conv(x, 4, 1)), g.sigmoid(g.conv(x, 12, 1)))
        source = saved(tmp_path, g.model())
        assert run("fuse", source)[0] == 0
        code, out, _ = run("fuse", source, "--merge-siblings", "--force")
        assert code == 0
        assert "Conv 2 -> 1; Split 0 -> 1" in out

    def test_weights_that_are_inputs(self, run, tmp_path):
        source = saved(tmp_path, repvgg(weights="overridable"))
        code, out, _ = run("fuse", source)
        assert code == 0
        assert "nothing to fuse" in out
        assert out.count("are not taken for constants") == 1
        assert "--bake-inputs" in out
        code, out, _ = run("fuse", source, "--bake-inputs", "--force")
        assert code == 0
        assert "2 regions fused" in out

    @pytest.mark.parametrize("options", [
        ["--epsilon", "1e-5"], ["--family", "repvgg"], ["--fold-bn"], ["--prefix", "ema"],
        ["--input-size", "32"], ["--model-arg", "a=1"], ["--input-channels", "3"],
    ])  # fmt: skip
    def test_of_checkpoints_have_no_effect_and_that_is_said(self, run, source, options):
        code, _, err = run("fuse", source, *options)
        assert code == 0
        assert f"note: {options[0]} has no effect: it is for checkpoints" in err
        told = json.loads(run("fuse", source, *options, "--force", "--json")[1])
        assert any(options[0] in notice for notice in told["notices"])

    @pytest.mark.parametrize("options", [["--skip", "x"], ["--format", "pdparams"]])
    def test_of_checkpoints_that_cannot_be_ignored_are_refused(self, run, source, options):
        before = contents(source.parent)
        code, _, err = run("fuse", source, *options)
        assert code == 2
        assert options[0] in err
        assert contents(source.parent) == before

    @pytest.mark.parametrize("options", [
        ["--allow-macs", "2"], ["--without", "fold-scale"], ["--bake-inputs"],
        ["--fold-normalize", "imagenet"], ["--merge-siblings"],
    ])  # fmt: skip
    def test_of_graphs_have_no_effect_on_checkpoints(self, run, tmp_path, options):
        code, _, err = run("fuse", write(tmp_path, repvgg_arrays()), *options)
        assert code == 0
        assert f"note: {options[0]} has no effect: it is for ONNX files" in err


@needs_converter
class TestStaticPrograms:
    """A program for Paddle Inference is converted, and then fused like any ONNX file."""

    def test_become_onnx_files_that_are_fused(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        exported = ["export", source, "--no-fuse", "--paddle", "--onnx", "--input-size", "32"]
        assert run(*exported)[0] == 0
        program = source.with_suffix(".json")
        before = contents(tmp_path)
        code, out, _ = run("fuse", program, "--json")
        assert code == 0
        told = json.loads(out)
        assert told["whole"]["verdict"] == "equal"
        after = told["operators_after"]
        assert (after["Conv"], after["Gemm"]) == (7, 1)
        assert not {"BatchNormalization", "Add", "MatMul"} & set(after)
        written = tmp_path / "ckpt.deploy.onnx"
        said = {entry.key: entry.value for entry in onnx.load(written).metadata_props}
        assert said["reparam.source_sha256"] == sha256_of(program)
        assert said["reparam.parameters_sha256"] == sha256_of(source.with_suffix(".pdiparams"))
        after = contents(tmp_path)
        after.pop(written.name)
        assert after == before

    def test_without_parameters_are_refused(self, run, tmp_path):
        source = write(tmp_path, repvgg_arrays())
        assert run("export", source, "--paddle", "--input-size", "32")[0] == 0
        source.with_suffix(".pdiparams").unlink()
        code, _, err = run("fuse", source.with_suffix(".json"))
        assert code == 2
        assert "no parameters for" in err

    def test_that_are_none(self, run, tmp_path):
        path = tmp_path / "x.json"
        path.write_text("{}")
        code, _, err = run("fuse", path)
        assert code == 2
        assert "is no static program" in err


class TestNo:
    """Exit code 1: the answer is no, and nothing is written."""

    def test_a_proof_that_fails(self, run, source, monkeypatch):
        forget_shifts(monkeypatch)
        before = contents(source.parent)
        code, out, err = run("fuse", source, "--strict")
        assert (code, out) == (1, "")
        assert "is not the same function after fusing" in err
        assert "this is a fault of reparam" in err
        assert contents(source.parent) == before

    def test_a_proof_that_fails_does_not_stop_the_rest(self, run, source, monkeypatch):
        forget_shifts(monkeypatch)
        before = contents(source.parent)
        for options in ([], ["--keep-going", "--force"]):  # which is accepted and does nothing
            code, out, _ = run("fuse", source, *options)
            assert code == 0
            (said,) = re.findall(r"left as it was, since its proof failed: (\S+): off by", out)
            assert said.startswith("v")
            assert "this is a fault of reparam" in " ".join(out.split())
        assert "--keep-going" not in run("fuse", "--help")[1]
        assert contents(source.parent) == before

    def test_a_whole_that_differs(self, run, source, monkeypatch):
        monkeypatch.setattr(
            pipeline, "compare", lambda *_: Whole("different", reason="it is off by 3")
        )
        before = contents(source.parent)
        code, out, err = run("fuse", source)
        assert (code, out) == (1, "")
        assert "it is off by 3" in err
        assert contents(source.parent) == before


def test_what_is_written_can_be_read_again(run, source):
    run("fuse", source)
    opened = open_model(source.with_name("net.deploy.onnx"))
    assert opened.notices == ()
