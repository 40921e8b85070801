"""What fusing an ONNX file would save, told without reading a weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from reparam.errors import EXIT_UNUSABLE, GraphError
from reparam.graph import inspecting
from reparam.graph.inspecting import inspect_onnx
from reparam.graph.pipeline import fuse_onnx
from tests.graph.bad_models import BAD
from tests.graph.blocks import BLOCKS
from tests.graph.builder import GraphBuilder
from tests.graph.cases import Case
from tests.graph.networks import OPEN, low_rank, nothing, repvgg, saved


def reasons(g: GraphBuilder, folder: Path) -> list[str]:
    found = inspect_onnx(saved(folder, g.model())).refused
    return [f"{one.operator}: {one.reason}" for one in found]


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    path = saved(tmp_path, repvgg(OPEN), author="someone")
    about = inspect_onnx(path).about
    assert about["inputs"] == [{"name": "x", "shape": ["n", 8, "h", "w"], "dtype": "float32"}]
    assert about["operators"] == {"Add": 3, "BatchNormalization": 5, "Conv": 4, "Relu": 2}
    assert (about["opset"], about["metadata"]) == (17, {"author": "someone"})
    assert (about["file_bytes"], about["data_bytes"]) == (path.stat().st_size, 0)
    model = onnx.load(path)
    assert about["parameters"] == sum(
        onnx.numpy_helper.to_array(tensor).size for tensor in model.graph.initializer
    )


class TestUnfused:
    def test_is_what_fusing_fuses(self, tmp_path: Path) -> None:
        path = saved(tmp_path, repvgg())
        found = inspect_onnx(path)
        report = fuse_onnx(path).report
        assert {one.where for one in found.unfused} == {one.where for one in report.fused}
        assert found.operators_after == report.ops_after
        keys = ("before", "after", "macs_before", "macs_after", "kernel", "extent")
        told = {one.where: [getattr(one, key) for key in keys] for one in found.unfused}
        done = {one.where: [getattr(one, key) for key in keys] for one in report.fused}
        assert told == done

    def test_nodes_that_go_before_any_region_are_counted(self, tmp_path: Path) -> None:
        path = saved(tmp_path, repvgg(weights="identity"))
        found = inspect_onnx(path)
        assert found.about["operators"]["Identity"] > 0
        assert found.operators_after == fuse_onnx(path, dry_run=True).report.ops_after

    def test_none_where_nothing_is_to_be_fused(self, tmp_path: Path) -> None:
        assert inspect_onnx(saved(tmp_path, nothing())).unfused == ()
        assert inspect_onnx(saved(tmp_path, low_rank())).unfused == ()
        fused = fuse_onnx(saved(tmp_path, repvgg())).output
        assert fused is not None
        assert inspect_onnx(fused).unfused == ()

    def test_those_that_save_most_come_first(self, tmp_path: Path) -> None:
        gains = [
            sum(one.before.values()) - sum(one.after.values())
            for one in inspect_onnx(saved(tmp_path, repvgg())).unfused
        ]
        assert gains == sorted(gains, reverse=True)
        assert len(gains) == 2

    def test_json_has_all_of_it(self, tmp_path: Path) -> None:
        told = json.loads(json.dumps(inspect_onnx(saved(tmp_path, repvgg(OPEN))).to_json()))
        assert told["operators_if_fused"] == {"Conv": 2, "Relu": 2}
        assert told["unfused"][0]["extent"] == ["H", "W"]

    @pytest.mark.parametrize("case", BLOCKS[::6], ids=lambda case: case.name)
    def test_of_each_block_foresees_what_is_written(self, tmp_path: Path, case: Case) -> None:
        """A first round may not be all, but what it foresees is what becomes of it."""
        path = saved(tmp_path, case.graph().model())
        found = inspect_onnx(path)
        fused = {(one.where, one.source): one for one in fuse_onnx(path, dry_run=True).report.fused}
        for one in found.unfused:
            done = fused.get((one.where, one.source))
            if done is not None and done.before == one.before:
                assert done.after == one.after

    def test_no_heavy_weight_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = saved(tmp_path, repvgg())
        read: list[int] = []
        exact = inspecting.Constants.exact

        def watched(self: Any, value: Any) -> Any:
            read.append(int(value.const_value.size))
            return exact(self, value)

        monkeypatch.setattr(inspecting.Constants, "exact", watched)
        assert inspect_onnx(path).unfused
        assert max(read) <= 16, "only vectors of one number a channel"


class TestRefused:
    def test_two_convolutions_of_different_strides(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        x = g.input("x", ("n", 8, 1, 1))
        g.output(g.add(g.conv(x, 8, 1, stride=2), g.conv(x, 8, 1)))
        (reason,) = reasons(g, tmp_path)
        assert reason.startswith("Add: from 'x':")
        assert "stride" in reason

    def test_a_batch_norm_with_nothing_linear_before_it(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        g.output(g.relu(g.bn(g.relu(g.input("x", OPEN)))))
        (reason,) = reasons(g, tmp_path)
        assert reason.startswith("BatchNormalization:")
        assert "is made by Relu 'Relu_0', which is not linear" in reason

    def test_a_batch_norm_in_training(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        g.output(g.bn(g.conv(g.input("x", OPEN), 8, 1), training=True))
        (reason,) = reasons(g, tmp_path)
        assert reason == (
            "BatchNormalization: BatchNormalization in training mode depends on the batch"
        )

    def test_sums_of_no_interest_are_not_listed(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        x = g.input("x", OPEN)
        g.output(g.relu(g.add(g.relu(g.conv(x, 8, 1)), x)))
        assert reasons(g, tmp_path) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(BAD[name][0]())
    with pytest.raises(GraphError) as caught:
        inspect_onnx(path)
    assert caught.value.exit_code == EXIT_UNUSABLE


def test_old_operators_are_left(tmp_path: Path) -> None:
    g = GraphBuilder(opset=9)
    g.output(g.relu(g.bn(g.conv(g.input("x", OPEN), 8, 1))))
    model = g.model()
    model.opset_import[0].version = 8
    assert inspect_onnx(saved(tmp_path, model)).unfused == ()
