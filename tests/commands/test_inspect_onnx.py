"""``reparam inspect`` of ONNX files, and ``--why``."""

from __future__ import annotations

import json

import pytest

from tests.commands.processes import contents
from tests.graph.builder import GraphBuilder
from tests.graph.networks import OPEN, nothing, repvgg, saved
from tests.weights import repvgg_arrays, write


@pytest.fixture
def source(tmp_path):
    return saved(tmp_path, repvgg(), author="someone")


class TestInspect:
    def test_what_the_file_holds_and_what_fusing_would_save(self, run, source):
        before = contents(source.parent)
        code, out, err = run("inspect", source)
        assert (code, err) == (0, "")
        for said in ("17 (IR version 8)", "x float32 (n, 8, 14, 14)", "someone", "4 Conv",
                     "reparam fuse would fuse 2 regions first", "fuse-branches",
                     "2 Conv + 3 BatchNorm + 2 Add", "125,440 -> 112,896",
                     "nodes 14 -> 4; BatchNorm 5 -> 0; Add 3 -> 0; Conv 4 -> 2"):  # fmt: skip
            assert said in out
        assert contents(source.parent) == before

    def test_nothing_to_fuse(self, run, tmp_path):
        code, out, _ = run("inspect", saved(tmp_path, nothing()))
        assert code == 0
        assert "nothing to fuse" in out.splitlines()

    def test_does_not_grow_with_the_graph(self, run, tmp_path):
        def lines(blocks: int) -> int:
            g = GraphBuilder()
            y = g.input("x", ("n", 4, 6, 6))
            for _ in range(blocks):
                y = g.relu(g.bn(g.relu(g.bn(g.conv(y, 4, 3, padding=1)))))
            g.output(y)
            return len(run("inspect", saved(tmp_path, g.model()))[1].splitlines())

        assert lines(40) == lines(12)

    def test_nodes_that_are_left_for_one_reason_are_one_line(self, run, tmp_path):
        g = GraphBuilder()
        y = g.input("x", OPEN)
        for _ in range(5):
            y = g.relu(g.bn(g.relu(y)))
        g.output(y)
        _, out, _ = run("inspect", saved(tmp_path, g.model()))
        lines = [line for line in out.splitlines() if line.startswith("left at first")]
        assert len(lines) == 1
        assert lines[0].startswith("left at first: 5 x BatchNormalization, such as ")

    def test_json(self, run, source):
        told = json.loads(run("inspect", source, "--json")[1])
        assert (told["schema"], told["verdict"]) == ("reparam.inspect/1", "onnx")
        assert told["operators"] == {"Add": 3, "BatchNormalization": 5, "Conv": 4, "Relu": 2}
        assert told["operators_if_fused"] == {"Conv": 2, "Relu": 2}
        assert [one["kind"] for one in told["unfused"]] == ["fuse-branches"] * 2
        assert told["metadata"] == {"author": "someone"}

    def test_a_prefix_is_for_checkpoints(self, run, source):
        code, _, err = run("inspect", source, "--prefix", "ema")
        assert code == 2
        assert "--prefix is for checkpoints" in err


class TestWhy:
    def test_a_node_that_would_be_fused(self, run, source):
        code, out, _ = run("inspect", source, "--why", "Add_6")
        assert code == 0
        lines = out.splitlines()
        assert lines[0] == "'Add_6' (Add) would be fused (fuse-branches):"
        assert "2 Conv + 3 BatchNorm + 2 Add from 'x' to" in lines[1]
        assert lines[1].endswith("become 3x3 Conv")
        assert lines[2] == "  MACs 125,440 -> 112,896"
        assert "a 3x3 convolution of 'x' (8 -> 8 channels, padding 1+1, 1+1) and a bias" in out

    def test_a_node_that_would_not(self, run, source):
        code, out, _ = run("inspect", source, "--why", "Relu_7")
        assert code == 0
        lines = out.splitlines()
        assert lines[0] == "'Relu_7' (Relu) stays as it is:"
        assert "Relu is not linear in one value" in lines[1]

    def test_a_name_that_is_nowhere(self, run, source):
        code, out, err = run("inspect", source, "--why", "Add6")
        assert (code, out) == (2, "")
        assert "'Add_6'" in err

    def test_json(self, run, source):
        told = json.loads(run("inspect", source, "--why", "Add_6", "--json")[1])
        assert (told["schema"], told["verdict"]) == ("reparam.inspect/1", "fused")
        assert told["region"]["after"] == {"Conv": 1}
        told = json.loads(run("inspect", source, "--why", "Relu_7", "--json")[1])
        assert (told["verdict"], told["region"]) == ("left", None)
        assert told["reasons"]

    def test_a_checkpoint_has_no_nodes(self, run, tmp_path):
        code, _, err = run("inspect", write(tmp_path, repvgg_arrays()), "--why", "stage1")
        assert code == 2
        assert "--why is for ONNX files" in err
