"""ONNX files at the limits: damaged at random, very long, very deep, large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from reparam.errors import GraphError
from reparam.graph.files import open_model, save_model
from reparam.graph.files_writing import _opening
from tests.graph.bad_models import BOOL, FLOAT, branch, good, model, relu, value

ROOT = Path(__file__).parents[2]
NODES = [10_000, pytest.param(100_000, marks=pytest.mark.slow)]


def child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"the process died: {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout


def test_damaged_files_are_opened_or_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    """REPARAM_FUZZ_FILES sets another number of files, REPARAM_FUZZ_SEED other files."""
    count = int(os.environ.get("REPARAM_FUZZ_FILES", "200"))
    seed = os.environ.get("REPARAM_FUZZ_SEED", "20260101")
    found = json.loads(child("-m", "tests.graph.fuzzing", str(tmp_path), str(count), seed))
    assert found["problems"] == []
    assert sum(found["results"].values()) == count
    assert found["results"]["refused"] > count / 4
    assert found["results"]["opened"] > count / 20


@cache
def long_chain(nodes: int) -> Any:
    made = [relu(f"v{i}", f"v{i + 1}") for i in range(nodes)]
    return model(made, inputs=[value("v0", FLOAT, [1])], outputs=[value(f"v{nodes}", FLOAT, [1])])


@pytest.mark.parametrize("nodes", NODES)
class TestLong:
    """Thousands of nodes, one after the other: more than any recursion could follow."""

    def test_are_read_and_written(self, tmp_path: Path, nodes: int) -> None:
        proto = long_chain(nodes)
        (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
        opened = open_model(tmp_path / "a.onnx")
        save_model(opened.model, tmp_path / "b.onnx")
        assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()

    def test_are_sorted(self, tmp_path: Path, nodes: int) -> None:
        proto = long_chain(nodes // 2)
        turned = onnx.ModelProto()
        turned.CopyFrom(proto)
        del turned.graph.node[:]
        turned.graph.node.extend(list(proto.graph.node)[::-1])
        (tmp_path / "a.onnx").write_bytes(turned.SerializeToString())
        opened = open_model(tmp_path / "a.onnx")
        assert [node.name for node in opened.model.graph] == [n.name for n in proto.graph.node]

    def test_have_no_end_where_they_are_a_circle(self, tmp_path: Path, nodes: int) -> None:
        proto = long_chain(nodes)
        bitten = onnx.ModelProto()
        bitten.CopyFrom(proto)
        bitten.graph.node[0].input[0] = f"v{nodes}"
        (tmp_path / "a.onnx").write_bytes(bitten.SerializeToString())
        with pytest.raises(GraphError, match=f"{nodes} nodes: node 'relu_v1'") as caught:
            open_model(tmp_path / "a.onnx")
        assert len(str(caught.value)) < 1000


def branches(depth: int) -> Any:
    """Return a model of an If in an If in an If ..."""
    inner = branch("innermost", relu("x", "t"), output="t")
    for level in range(depth):
        output = f"t{level}" if level < depth - 1 else "y"
        other = branch("else", relu("x", f"e{level}"), output=f"e{level}")
        node = helper.make_node("If", ["flag"], [output], then_branch=inner, else_branch=other)
        inner = branch(f"level_{level}", node, output=output)
    inputs = [value("x", FLOAT, ["n", 3, 16, 16]), value("flag", BOOL, [])]
    return model(inner.node, inputs=inputs)


@pytest.mark.parametrize("depth", [5, 30])
def test_branches_in_branches_are_read_and_written(tmp_path: Path, depth: int) -> None:
    (tmp_path / "a.onnx").write_bytes(branches(depth).SerializeToString())
    save_model(open_model(tmp_path / "a.onnx").model, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_a_depth_that_no_reader_follows_is_refused(tmp_path: Path) -> None:
    content = b""
    for _ in range(1000):
        for number in (6, 5, 1):  # the graph of an attribute of a node
            content = _opening(number, len(content)) + content
    (tmp_path / "a.onnx").write_bytes(_opening(7, len(content)) + content)
    with pytest.raises(GraphError, match="not an ONNX model"):
        open_model(tmp_path / "a.onnx")


def test_memory_stays_near_twice_the_file(tmp_path: Path) -> None:
    script = """
import resource, sys
from reparam.graph.files import open_model, save_model
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
folder = sys.argv[1]
open_model(folder + "/small.onnx")
before = peak()
opened = open_model(folder + "/large.onnx")
between = peak()
save_model(opened.model, folder + "/again.onnx")
print((between - before) / opened.bytes, (peak() - before) / opened.bytes)
"""
    (tmp_path / "small.onnx").write_bytes(good().SerializeToString())
    tensors = [
        numpy_helper.from_array(np.full((1024, 1024), i, np.float32), f"w{i}") for i in range(24)
    ]
    large = model([relu("x", "y")], tensors).SerializeToString()
    (tmp_path / "large.onnx").write_bytes(large)
    opening, in_all = map(float, child("-c", script, str(tmp_path)).split())
    assert opening < 2.2
    assert in_all < 2.3
    assert (tmp_path / "again.onnx").read_bytes() == large


def test_weights_outside_are_not_read_before_they_are_used(tmp_path: Path) -> None:
    script = """
import resource, sys
from reparam.graph.files import open_model
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
folder = sys.argv[1]
open_model(folder + "/small.onnx")
before = peak()
opened = open_model(folder + "/large.onnx")
print((peak() - before) / opened.bytes)
"""
    (tmp_path / "small.onnx").write_bytes(good().SerializeToString())
    tensor = numpy_helper.from_array(np.ones((1024, 1024, 16), np.float32), "w")
    (tmp_path / "tmp.onnx").write_bytes(model([relu("x", "y")], [tensor]).SerializeToString())
    save_model(open_model(tmp_path / "tmp.onnx").model, tmp_path / "large.onnx", external=True)
    assert float(child("-c", script, str(tmp_path))) < 0.1
