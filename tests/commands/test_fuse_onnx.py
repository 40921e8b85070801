"""``reparam fuse`` of ONNX files: what is printed, exit codes, bad files, full disks, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.files import sha256_of
from reparam.graph import laws, pipeline
from reparam.graph.files import open_model
from reparam.graph.whole_records import UNDECIDABLE, Whole
from tests.commands.processes import MAIN, REPARAM, contents, one_error, reparam, scripted
from tests.commands.test_bad_days import limited
from tests.converter import needs_converter
from tests.graph.bad_models import BAD, FLOAT, conv, model, relu, value, weight
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts
from tests.graph.networks import OPEN, low_rank, nothing, repvgg, saved
from tests.graph.test_files_limits import long_chain
from tests.weights import repvgg_arrays, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path, repvgg())


def stem() -> Any:
    g = GraphBuilder()
    g.output(g.relu(g.bn(g.conv(g.input("x", ("n", 3, 14, 14)), 8, 3, padding=1, stride=2))))
    return g.model()


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the law of factors and shifts forget the shift."""
    right = laws.Scaling.numbers

    def wrong(self: laws.Scaling, parts: Any) -> Any:
        return right(replace(self, shift=np.zeros_like(self.shift)), parts)

    monkeypatch.setattr(laws.Scaling, "numbers", wrong)


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
        assert "equal as a whole on onnxruntime, 3 inputs" in out
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
        assert source.with_name("a.deploy.onnx").exists()

    def test_nothing_to_fuse(self, run, tmp_path):
        source = saved(tmp_path, nothing())
        code, out, _ = run("fuse", source)
        assert (code, out.splitlines()[0]) == (0, f"{source}: nothing to fuse")
        assert source.with_name("net.deploy.onnx").exists()
        code, _, err = run("fuse", source, "--strict", "--force")
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
        assert "equal as a whole on onnxruntime" in out
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
        ["--allow-macs", "2"], ["--without", "fold-scale"], ["--keep-going"], ["--bake-inputs"],
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
        spoil(monkeypatch)
        before = contents(source.parent)
        code, out, err = run("fuse", source)
        assert (code, out) == (1, "")
        assert "is not the same function after fusing" in err
        assert "--keep-going" in err
        assert contents(source.parent) == before

    def test_a_proof_that_fails_does_not_stop_the_rest(self, run, source, monkeypatch):
        spoil(monkeypatch)
        code, out, _ = run("fuse", source, "--keep-going")
        assert code == 0
        assert "left as it was, since the proof failed: " in out
        written = onnx.load(source.with_name("net.deploy.onnx"))
        assert op_counts(written) == op_counts(onnx.load(source))

    def test_a_whole_that_differs(self, run, source, monkeypatch):
        monkeypatch.setattr(
            pipeline, "compare", lambda *_: Whole("different", reason="it is off by 3")
        )
        before = contents(source.parent)
        for options in ([], ["--keep-going"]):
            code, out, err = run("fuse", source, *options)
            assert (code, out) == (1, "")
            assert "it is off by 3" in err
        assert contents(source.parent) == before


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["fuse", "inspect", "why"])
def test_bad_files_get_one_message_and_nothing_is_written(run, tmp_path, command, name):
    (tmp_path / "w.bin").write_bytes(weight().raw_data)
    path = tmp_path / "bad.onnx"
    path.write_bytes(BAD[name][0]())
    before = contents(tmp_path)
    words = ["inspect", path, "--why", "x"] if command == "why" else [command, path]
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("Error:") == 1
    assert BAD[name][1] in err
    assert contents(tmp_path) == before


def one_node(operator: str, inputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, ["y"], name="one", **attributes)


class TestLeftAlone:
    """What is not refused, and not touched either."""

    def fused(self, run: Any, folder: Path, proto: Any) -> tuple[Any, str]:
        source = saved(folder, proto)
        before = source.read_bytes()
        code, out, err = run("fuse", source, "--force")
        assert (code, err) == (0, "")
        assert source.read_bytes() == before
        assert run("inspect", source)[0] == 0
        return onnx.load(source.with_name("net.deploy.onnx")), out

    def test_batch_norm_in_training(self, run, tmp_path):
        g = GraphBuilder()
        g.output(g.relu(g.bn(g.conv(g.input("x", OPEN), 8, 1), training=True)))
        written, _ = self.fused(run, tmp_path, g.model())
        assert op_counts(written) == {"BatchNormalization": 1, "Conv": 1, "Relu": 1}
        _, out, _ = run("inspect", tmp_path / "net.onnx")
        assert "in training mode depends on the batch" in out

    def test_shared_weights(self, run, tmp_path):
        g = GraphBuilder()
        x, w = g.input("x", OPEN), g.weight((8, 8, 1, 1))
        g.output(g.relu(g.bn(g.conv(x, weight=w))), g.sigmoid(g.conv(x, weight=w)))
        written, _ = self.fused(run, tmp_path, g.model())
        assert op_counts(written) == {"Conv": 2, "Relu": 1, "Sigmoid": 1}
        assert str(w) in {tensor.name for tensor in written.graph.initializer}

    def test_outputs_that_are_interior_values(self, run, tmp_path):
        g = GraphBuilder()
        y = g.conv(g.input("x", OPEN), 8, 3, padding=1)
        z = g.bn(y)
        g.output(y, z, g.relu(z))
        written, _ = self.fused(run, tmp_path, g.model())
        assert [value.name for value in written.graph.output] == [
            value.name for value in g.model().graph.output
        ]

    def test_unknown_domains_and_operators(self, run, tmp_path):
        node = helper.make_node("Own", ["c"], ["y"], name="own", domain="com.example")
        proto = model([conv(), node], [weight()], opsets=[helper.make_opsetid("com.example", 1)])
        written, out = self.fused(run, tmp_path, proto)
        assert op_counts(written) == {"Conv": 1, "Own": 1}
        assert "operators that ONNX does not know are left as they are: com.example::Own" in out
        assert "not compared as a whole" in out

    def test_tensors_of_no_elements_and_of_no_axes(self, run, tmp_path):
        empty = helper.make_tensor("empty", TensorProto.FLOAT, [0, 3, 16, 16], [])
        proto = model(
            [helper.make_node("Concat", ["x", "empty"], ["c"], axis=0), relu("c", "y")], [empty],
            outputs=[value("y", FLOAT, ["n", 3, 16, 16])],
        )  # fmt: skip
        self.fused(run, tmp_path, proto)
        scalar = helper.make_tensor("s", TensorProto.FLOAT, [], [2.0])
        proto = model(
            [helper.make_node("Mul", ["x", "s"], ["y"], name="m")], [scalar],
            inputs=[value("x", FLOAT, [])], outputs=[value("y", FLOAT, [])],
        )  # fmt: skip
        self.fused(run, tmp_path, proto)

    def test_a_long_chain(self, run, tmp_path):
        assert run("inspect", saved(tmp_path, long_chain(20_000)))[0] == 0
        source = saved(tmp_path, long_chain(100_000))
        start = time.process_time()
        code, out, _ = run("fuse", source, "--dry-run")
        assert time.process_time() - start < 120, "linear in the nodes it is some 20 seconds"
        assert code == 0
        assert "nodes 100,000 -> 100,000" in out


class TestBadDays:
    @pytest.mark.parametrize("force", [False, True])
    def test_a_full_disk(self, source, force):
        target = source.with_name("x.onnx")
        if force:
            target.write_bytes(b"old")
        before = contents(source.parent)
        done = reparam("fuse", source, "-o", target, *["--force"] * force, preexec_fn=limited(2000))
        one_error(done, f"cannot write '{target}'", "File too large")
        assert contents(source.parent) == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ended_while_the_whole_is_compared(self, source, number):
        """At that moment the new file is on the disk, under a name that goes with it."""
        script = (
            "import time\nfrom reparam.graph import pipeline\n"
            "def compare(*_):\n    print('here', flush=True)\n    time.sleep(60)\n"
            "pipeline.compare = compare\n"
        )
        before = contents(source.parent)
        command = [sys.executable, "-c", script + MAIN, "fuse", str(source)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "here\n"
            assert len(contents(source.parent)) > len(before)
            child.send_signal(number)
            _, err = child.communicate(timeout=60)
        assert child.returncode == 128 + number
        assert "no half-written file is left" in err
        assert "Traceback" not in err
        assert contents(source.parent) == before

    def test_killed_leaves_what_the_next_run_clears_away(self, source):
        script = (
            "import os, signal\nfrom reparam.graph import pipeline\n"
            "pipeline.compare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = scripted(script, "fuse", source)
        assert done.returncode == -signal.SIGKILL
        assert not source.with_name("net.deploy.onnx").exists()
        assert reparam("fuse", source).returncode == 0
        assert sorted(contents(source.parent)) == ["net.deploy.onnx", "net.onnx"]

    def test_onnxruntime_is_missing(self, source):
        done = scripted("import sys\nsys.modules['onnxruntime'] = None", "fuse", source)
        one_error(done, "onnxruntime", "not installed")
        assert list(contents(source.parent)) == ["net.onnx"]

    def test_onnx_ir_is_missing(self, source):
        done = scripted("import sys\nsys.modules['onnx_ir'] = None", "fuse", source)
        one_error(done, "not installed")

    def test_a_pipe_that_nobody_reads(self, source):
        with subprocess.Popen([*REPARAM, "fuse", str(source)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as child:  # fmt: skip
            assert child.stdout is not None
            child.stdout.close()
            assert child.stderr is not None
            assert "Traceback" not in child.stderr.read()
        assert source.with_name("net.deploy.onnx").exists()

    def test_a_read_only_folder(self, source, tmp_path):
        if os.geteuid() == 0:
            pytest.skip("root writes where permissions say no")
        tmp_path.chmod(0o555)
        done = reparam("fuse", source)
        tmp_path.chmod(0o755)
        one_error(done, "read-only")


def test_what_is_written_can_be_read_again(run, source):
    run("fuse", source)
    opened = open_model(source.with_name("net.deploy.onnx"))
    assert opened.notices == ()
