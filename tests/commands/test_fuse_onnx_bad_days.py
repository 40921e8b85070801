"""``reparam fuse`` and ``inspect`` of ONNX files that are bad or odd, and on bad days."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.commands.processes import MAIN, REPARAM, contents, one_error, reparam, scripted
from tests.commands.test_bad_days import limited
from tests.graph.bad_models import BAD, FLOAT, conv, model, relu, value, weight
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts
from tests.graph.networks import OPEN, repvgg, saved
from tests.graph.test_files_limits import long_chain


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path, repvgg())


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
        target = folder / "fused.onnx"
        code, out, err = run("fuse", source, "-o", target, "--force")
        assert (code, err) == (0, "")
        assert source.read_bytes() == before
        assert run("inspect", source)[0] == 0
        return onnx.load(target), out

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

    @pytest.mark.parametrize("nodes", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
    def test_a_long_chain(self, run, tmp_path, nodes):
        """Longer than any recursion could follow; its speed is of benchmarks.graph_speed."""
        source = saved(tmp_path, long_chain(nodes))
        assert run("inspect", source)[0] == 0
        code, out, _ = run("fuse", source, "--dry-run")
        assert code == 0
        assert f"nodes {nodes:,} -> {nodes:,}" in out


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
            "import signal, time\nfrom reparam.graph import pipeline\n"
            # a process that a shell started in the background is born deaf to it
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
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
