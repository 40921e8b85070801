"""What the benchmarks of graphs measure is what they say: no time is taken here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.graph_chains import CHAINS, write_blocks, write_chain
from benchmarks.graph_peers import distance, line, ops_of, table, verdict
from benchmarks.graph_speed import growth, ratios
from benchmarks.graph_ways import Failed, nodes_of, take
from reparam.adapters.onnx_runtime import open_session, run_onnx


@pytest.mark.parametrize("kind", CHAINS)
def test_a_chain_is_valid_runs_and_has_the_nodes_it_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    said = write_chain(kind, 60, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert 60 <= said < 70
    assert said == len(model.graph.node)
    assert nodes_of(path) == sum(node.op_type != "Constant" for node in model.graph.node)
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    (found,) = run_onnx(open_session(path), images)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0


def test_every_value_of_an_escaping_chain_is_read_by_an_activation(tmp_path: Path) -> None:
    write_chain("escaping", 30, tmp_path / "x.onnx")
    nodes = onnx.load(tmp_path / "x.onnx").graph.node
    read = {node.input[0] for node in nodes if node.op_type == "Relu"}
    assert {node.output[0] for node in nodes if node.op_type == "Mul"} <= read


def test_blocks_come_to_the_size_asked_for(tmp_path: Path) -> None:
    write_blocks(2.0, 64, tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").stat().st_size == pytest.approx(2 * 2**20, rel=0.1)


@pytest.mark.parametrize(
    ("ours", "outputs", "said"),
    [
        (7, "equal", "as few"),
        (6, "equal", "fewer"),
        (8, "equal", "more"),
        (6, "different", "different"),
    ],
)
def test_a_result_is_judged_by_its_outputs_and_by_what_is_counted(
    ours: int, outputs: str, said: str
) -> None:
    nodes = {"own": Counter(Conv=4, Add=3), "ours": Counter(Conv=ours, Relu=9)}
    assert verdict(nodes, outputs) == said


def test_a_file_of_another_function_is_different_from_the_truth(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.onnx" for name in ("right", "wrong")]
    write_chain("blocks", 16, files[0])
    model = onnx.load(files[0])
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    wrong = onnx.numpy_helper.from_array(weight * 1.01, model.graph.initializer[0].name)
    model.graph.initializer[0].CopyFrom(wrong)
    onnx.save(model, files[1])
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    (truth,) = run_onnx(open_session(files[0]), images)
    np.savez(tmp_path / "x.npz", images=images, truth_0=truth)
    found = [distance(tmp_path / "x.npz", files[0], file)["verdict"] for file in files]
    assert found == ["equal", "different"]


def test_constants_are_no_nodes(tmp_path: Path) -> None:
    write_chain("affine", 10, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    weight = model.graph.initializer.pop(0)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=weight))
    onnx.save(model, tmp_path / "y.onnx")
    assert ops_of(tmp_path / "y.onnx") == ops_of(tmp_path / "x.onnx")
    assert nodes_of(tmp_path / "y.onnx") == nodes_of(tmp_path / "x.onnx") == 10


def test_the_table_has_as_many_cells_in_every_line() -> None:
    numbers = {"before": 144, "own": 22, "ours": 22}
    good = {"network": "a", "form": "train", "verdict": "as few", "counted": numbers,
            "all": numbers, "outputs": {"ours": {"verdict": "equal", "of_bound": 0.2}},
            "seconds": 1.0, "tools": {"onnxslim": "100 (125)"}}  # fmt: skip
    bad = {"network": "b", "form": "train", "verdict": "not exported", "why": "no timm"}
    assert len(line(good, ["onnxslim"])) == len(line(bad, ["onnxslim"])) == 9
    assert {text.count("|") for text in table([good, bad]).splitlines()} == {10}


def test_growth_of_what_is_quadratic_is_two() -> None:
    few, many = (
        {
            "file": {"nodes": float(nodes)},
            "linear": {"cpu": nodes * 1e-3},
            "quadratic": {"cpu": nodes**2 * 1e-6},
        }
        for nodes in (1_000, 10_000)
    )
    assert growth(few, many) == {"linear": 1.0, "quadratic": 2.0}


def test_ratios_are_to_the_floor_and_memory_is_to_the_file() -> None:
    sample = {"seconds": 1.0, "cpu": 1.0, "process_seconds": 2.0, "process_cpu": 2.0,
              "peak_mib": 150.0}  # fmt: skip
    median = {
        "imports": {**sample, "peak_mib": 50.0},
        "floor": sample,
        "ours": {**sample, "seconds": 2.5, "peak_mib": 350.0},
    }
    found = ratios(median, file_mib=100.0, nodes=500)
    assert found["seconds, ours / floor"] == 2.5
    assert found["memory, ours / file"] == 3.5
    assert found["memory less imports, ours / file"] == 3.0
    assert found["seconds a 1,000 nodes, ours"] == 5.0


def test_the_floor_keeps_the_file_as_it_is(tmp_path: Path) -> None:
    write_chain("blocks", 16, tmp_path / "x.onnx")
    used = take("floor", tmp_path / "x.onnx", tmp_path / "y.onnx")
    assert used["peak_mib"] > 0
    before, after = (onnx.load(tmp_path / name).graph for name in ("x.onnx", "y.onnx"))
    assert list(after.node) == list(before.node)


def test_a_way_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"floor ended with 1: .*No such file"):
        take("floor", tmp_path / "none.onnx", tmp_path / "y.onnx")
