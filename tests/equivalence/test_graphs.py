"""Two ONNX files: equal on samples, different, or nothing that could be compared."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from reparam import fuse
from reparam.equivalence import Probing, verify
from reparam.equivalence.verification import verify_here
from reparam.errors import EXIT_NO, EXIT_UNUSABLE, CheckpointError, GraphError
from tests.commands.conftest import run  # noqa: F401 - a fixture
from tests.graph.networks import OPEN, repvgg, saved
from tests.graph.whole_models import Written


@pytest.fixture
def files(tmp_path):
    source = saved(tmp_path, repvgg())
    return source, fuse(source).output


def wrong(path):
    """Make a copy whose first kernel is off by a thousandth in one element."""
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0, 0, 0] += 1e-3 * np.abs(array).max()
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, path.with_name("wrong.onnx"))
    return path.with_name("wrong.onnx")


def two_inputs(path, scale=2.0):
    graph = Written(inputs={"row": ("int64", ("batch",)), "x": ("float32", ("batch", 3))})
    table = graph.constant("table", np.arange(12.0).reshape(4, 3))
    graph.node("Gather", [table, "row"], "g", axis=0)
    graph.node("Mul", ["x", graph.constant("scale", np.float32(scale))], "m")
    graph.node("Add", ["g", "m"], "y")
    graph.outputs["y"] = ("float32", ("batch", 3))
    return graph.save(path)


def test_a_fused_file_is_equal_on_samples(files):
    found = verify(*files)
    assert found.verdict == "equal on samples"  # no proof, and not called one
    (stage,) = found.stages
    (probe,) = stage.probes
    assert stage.verdict == probe.verdict == "equal"
    assert 0 < probe.distance <= probe.bound
    assert found.original_sha256 != found.candidate_sha256


def test_another_function_is_different(files):
    found = verify_here(files[0], wrong(files[1]))
    assert found.verdict == "different"
    (stage,) = found.stages
    assert f"off by {stage.worst_probe.distance:.3g}" in stage.summary  # of one and the same probe
    assert "graphs: output" in found.first_difference


def test_probes_of_any_dtype_and_rank(tmp_path):
    one, other = two_inputs(tmp_path / "a.onnx"), two_inputs(tmp_path / "b.onnx")
    given = {"row": np.array([3, 1, 2]), "x": np.ones((3, 3))}
    found = verify_here(one, other, Probing(own_feeds=given))
    assert found.verdict == "equal on samples"
    assert "on 4 inputs" in found.stages[0].summary
    worse = two_inputs(tmp_path / "c.onnx", 2.001)
    given["x"] *= 1e4  # where the difference is largest
    found = verify_here(one, worse, Probing(own_feeds=given))
    assert found.verdict == "different"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": np.ones((2, 3))}, "'row' int64"),
        ({"": np.ones((2, 3))}, "one array"),
        ({"row": np.ones(2), "x": np.ones((2, 3))}, "float64 (2,)"),
        ({"row": np.ones(2, int), "x": np.ones((2, 4))}, "float64 (2, 4)"),
        ({"row": np.array([9]), "x": np.ones((1, 3))}, "indices"),
    ],
)
def test_probes_that_do_not_fit(tmp_path, given, said):
    path = two_inputs(tmp_path / "a.onnx")
    with pytest.raises(GraphError) as caught:
        verify_here(path, path, Probing(own_feeds=given))
    assert said in caught.value.found


def test_what_cannot_be_run_is_nothing_to_compare(tmp_path):
    graph = Written(inputs={"x": ("float32", OPEN)}, domains={"com.example": 1})
    graph.node("Strange", ["x"], "y", domain="com.example")
    graph.outputs["y"] = ("float32", OPEN)
    path = graph.save(tmp_path / "a.onnx")
    found = verify_here(path, path)
    assert found.verdict == "nothing to compare"
    assert "Strange" in found.stages[0].summary


@pytest.mark.parametrize("candidate", [None, "x.pdparams"])
def test_an_original_that_is_a_graph_needs_another_graph(files, candidate):
    with pytest.raises(CheckpointError, match="cannot compare"):
        verify(files[0], candidate)


def test_the_command(run, files, tmp_path):  # noqa: F811
    np.savez(tmp_path / "probe.npz", x=np.zeros((1, 8, 14, 14), np.float32))
    code, out, err = run("verify", *files, "--probe", tmp_path / "probe.npz", "--epsilon", "1e-5")
    assert code == 0
    assert "verdict: equal on samples" in out
    assert "--epsilon has no effect" in err
    code, out, _ = run("verify", files[0], wrong(files[1]), "--json")
    assert code == EXIT_NO
    assert json.loads(out)["verdict"] == "different"
    (tmp_path / "probe.npz").write_bytes(b"PK\x03\x04 no zip")
    code, _, err = run("verify", *files, "--probe", tmp_path / "probe.npz")
    assert code == EXIT_UNUSABLE
    assert "cannot read the probe" in err
