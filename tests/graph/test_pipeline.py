"""From an ONNX file to a fused one: what is written, when nothing is, and what it says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

import reparam
from reparam import graph
from reparam.errors import (
    EXIT_NO,
    EXIT_UNUSABLE,
    GraphError,
    NotEquivalentError,
    NotFusibleError,
    OutputError,
)
from reparam.graph import fusing, pipeline
from reparam.graph.passes import NAMES
from reparam.graph.pipeline import fuse_onnx
from reparam.graph.whole_records import UNDECIDABLE, Whole
from reparam.version import tool_version
from tests.commands.processes import contents
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import op_counts
from tests.graph.networks import CLOSED, OPEN, forget_shifts, low_rank, nothing, repvgg, saved


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_graph(first: Any, second: Any) -> bool:
    """Whether two graphs have the same nodes, weights, inputs and outputs."""
    fields = ("node", "initializer", "input", "output")
    return all(list(getattr(first.graph, f)) == list(getattr(second.graph, f)) for f in fields)


class TestWritten:
    def test_a_network_beside_its_source(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg(), author="someone")
        before = source.read_bytes()
        result = fuse_onnx(source)
        assert result.output == tmp_path / "net.deploy.onnx"
        assert op_counts(onnx.load(result.output)) == {"Conv": 2, "Relu": 2}
        assert source.read_bytes() == before
        assert (result.source_sha256, result.sha256) == (sha256(source), sha256(result.output))
        assert (result.verdict, result.whole.verdict, result.data) == ("fused", "equal", None)
        assert metadata(result.output) == {
            "author": "someone",
            "reparam.version": tool_version(),
            "reparam.source_sha256": sha256(source),
            "reparam.fused_from_sha256": sha256(source),
            "reparam.fused_regions": "2",
        }
        assert sorted(contents(tmp_path)) == ["net.deploy.onnx", "net.onnx"]

    def test_the_source_of_an_exported_file_stays_its_checkpoint(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg(), **{"reparam.source_sha256": "of a checkpoint"})
        said = metadata(fuse_onnx(source).output)  # type: ignore[arg-type]
        assert said["reparam.source_sha256"] == "of a checkpoint"
        assert said["reparam.fused_from_sha256"] == sha256(source)

    def test_fusing_twice_is_fusing_once(self, tmp_path: Path) -> None:
        once = fuse_onnx(saved(tmp_path, repvgg()), tmp_path / "a.onnx")
        twice = fuse_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx")
        assert (once.verdict, twice.verdict) == ("fused", "already fused")
        assert twice.report.ops_before == twice.report.ops_after == once.report.ops_after
        assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()
        assert twice.sha256 == sha256(tmp_path / "b.onnx")

    def test_nothing_to_fuse_is_not_written(self, tmp_path: Path) -> None:
        source = saved(tmp_path, nothing())
        result = fuse_onnx(source)
        assert (result.verdict, result.output, result.sha256) == ("nothing to fuse", None, "")
        assert sorted(contents(tmp_path)) == [source.name]

    def test_nothing_to_fuse_with_weights_outside_is_written_with_them(
        self, tmp_path: Path
    ) -> None:
        source = tmp_path / "net.onnx"
        onnx.save(nothing(), source, save_as_external_data=True, location="net.bin",
                  size_threshold=0)  # fmt: skip
        result = fuse_onnx(source, tmp_path / "out.onnx")
        assert result.data == tmp_path / "out.onnx.data"
        (tmp_path / "net.bin").unlink()
        ours, theirs = onnx.load(tmp_path / "out.onnx").graph, nothing().graph
        assert list(ours.node) == list(theirs.node)
        for mine, other in zip(ours.initializer, theirs.initializer, strict=True):
            assert np.array_equal(to_array(mine), to_array(other))

    def test_baking_is_a_change(self, tmp_path: Path) -> None:
        source = saved(tmp_path, nothing(weights="overridable"))
        assert fuse_onnx(source, bake_inputs=True).output is not None

    def test_a_graph_that_has_other_nodes_but_no_region_is_simplified(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        g.output(g.sigmoid(g.identity(g.relu(g.input("x", OPEN)))))
        result = fuse_onnx(saved(tmp_path, g.model()))
        assert result.verdict == "simplified"
        assert result.report.ops_after == {"Relu": 1, "Sigmoid": 1}

    def test_the_same_file_gives_the_same_bytes(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg())
        first, second = (fuse_onnx(source, tmp_path / name) for name in ("a.onnx", "b.onnx"))
        assert first.sha256 == second.sha256

    def test_weights_that_were_outside_stay_outside(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        source = tmp_path / "in" / "net.onnx"
        onnx.save(repvgg(), source, save_as_external_data=True, location="net.bin",
                  size_threshold=0)  # fmt: skip
        before = contents(tmp_path)
        result = fuse_onnx(source, tmp_path / "out.onnx")
        assert result.data == tmp_path / "out.onnx.data"
        assert result.whole.verdict == "equal"
        assert {name: contents(tmp_path)[name] for name in before} == before

    def test_weights_that_are_inputs_are_constants_only_when_asked(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg(weights="overridable"))
        left = fuse_onnx(source, tmp_path / "left.onnx")
        assert left.verdict == "nothing to fuse"
        assert any("are inputs too" in notice for notice in left.notices)
        baked = fuse_onnx(source, tmp_path / "baked.onnx", bake_inputs=True)
        assert baked.report.ops_after == {"Conv": 2, "Relu": 2}
        assert [value.name for value in onnx.load(tmp_path / "baked.onnx").graph.input] == ["x"]

    def test_more_macs_only_when_allowed(self, tmp_path: Path) -> None:
        source = saved(tmp_path, low_rank())
        assert fuse_onnx(source, tmp_path / "a.onnx").verdict == "nothing to fuse"
        found = fuse_onnx(source, tmp_path / "b.onnx", allow_macs=5).report
        assert found.ops_after == {"Conv": 1, "Relu": 1}
        assert str(found.macs_after) == f"{8 * 8 * 9 * 144:,}"
        assert str(found.macs_before) == f"{(8 * 9 + 64) * 144:,}"

    def test_a_pass_that_is_switched_off(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg())
        found = fuse_onnx(source, without=["fuse-branches"]).report
        assert "fuse-branches" not in {one.kind for one in found.fused}
        assert found.ops_after["Add"] == 3

    def test_what_is_told_on_the_way(self, tmp_path: Path) -> None:
        told: list[str] = []
        fuse_onnx(saved(tmp_path, repvgg()), tell=told.append)
        steps = ["reading", "inferring", "fusing", "writing", "comparing"]
        assert [line.split()[0] for line in told] == steps


class TestNothingIsWritten:
    def refused(self, kind: type[reparam.ReparamError], source: Path, *given: Any, **options: Any):
        before = contents(source.parent)
        with pytest.raises(kind) as caught:
            fuse_onnx(source, *given, **options)
        assert contents(source.parent) == before
        return caught.value

    def test_in_a_dry_run(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg())
        result = fuse_onnx(source, dry_run=True)
        assert result.report.ops_after == {"Conv": 2, "Relu": 2}
        assert (result.output, result.sha256, result.whole.verdict) == (None, "", "not run")
        assert list(contents(tmp_path)) == ["net.onnx"]

    def test_over_the_source(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg())
        (tmp_path / "link.onnx").symlink_to(source)
        for target in (source, tmp_path / "link.onnx", tmp_path / "." / "net.onnx"):
            error = self.refused(OutputError, source, target, force=True)
            assert "is the input" in error.what

    def test_over_the_weights_of_the_source(self, tmp_path: Path) -> None:
        source = tmp_path / "net.onnx"
        onnx.save(repvgg(), source, save_as_external_data=True, location="out.onnx.data",
                  size_threshold=0)  # fmt: skip
        error = self.refused(OutputError, source, tmp_path / "out.onnx", force=True)
        assert "has weights of the input" in error.what

    def test_over_another_file(self, tmp_path: Path) -> None:
        source = saved(tmp_path, repvgg())
        (tmp_path / "net.deploy.onnx").write_text("old")
        assert "--force" in self.refused(OutputError, source).hint
        fuse_onnx(source, force=True)
        onnx.checker.check_model(tmp_path / "net.deploy.onnx")

    def test_under_a_name_of_a_checkpoint(self, tmp_path: Path) -> None:
        error = self.refused(OutputError, saved(tmp_path, repvgg()), tmp_path / "x.pdparams")
        assert "does not end in .onnx" in error.found

    def test_where_a_proof_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = saved(tmp_path, repvgg())
        forget_shifts(monkeypatch)
        error = self.refused(NotEquivalentError, source, strict=True)
        assert error.exit_code == EXIT_NO
        assert "is allowed, on the probe" in error.found

    def test_but_what_was_proved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = saved(tmp_path, repvgg())
        forget_shifts(monkeypatch)
        result = fuse_onnx(source)
        assert result.report.failed
        assert not result.report.fused
        assert result.output is None
        assert result.report.ops_before == result.report.ops_after

    def test_where_the_whole_is_another_function(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(model: Any, options: Any, _: Any) -> Any:
            report = fusing.fuse_graph(model, options)
            node = next(node for node in model.graph if node.op_type == "Relu")
            node.op_type = "Abs"  # after every proof, as if it had been put in a wrong place
            return report

        monkeypatch.setattr(pipeline, "fuse_graph", wrong)
        error = self.refused(NotEquivalentError, saved(tmp_path, repvgg()))
        assert error.exit_code == EXIT_NO
        assert "is off by" in error.found

    def test_where_the_source_changed_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = saved(tmp_path, repvgg())
        other = repvgg(seed=1).SerializeToString()

        def change(*_: Any) -> Whole:
            source.write_bytes(other)
            return Whole("equal")

        monkeypatch.setattr(pipeline, "compare", change)
        with pytest.raises(GraphError, match="changed while"):
            fuse_onnx(source)
        assert list(contents(tmp_path)) == ["net.onnx"]

    def test_when_strict_and_nothing_is_to_be_fused(self, tmp_path: Path) -> None:
        error = self.refused(NotFusibleError, saved(tmp_path, nothing()), strict=True)
        assert error.exit_code == EXIT_NO
        assert fuse_onnx(saved(tmp_path, repvgg(), "b.onnx"), strict=True).verdict == "fused"

    def test_without_a_pass_that_there_is_not(self, tmp_path: Path) -> None:
        error = self.refused(GraphError, saved(tmp_path, repvgg()), without=["fold-nothing"])
        assert error.exit_code == EXIT_UNUSABLE
        assert all(name in error.hint for name in NAMES)


def test_what_cannot_be_decided_is_written_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "compare", lambda *_: Whole(UNDECIDABLE, reason="chaos"))
    result = fuse_onnx(saved(tmp_path, repvgg()))
    assert result.output is not None
    assert result.output.exists()
    assert (result.verdict, result.whole.reason) == ("fused", "chaos")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights(tmp_path: Path, dtype: str) -> None:
    result = fuse_onnx(saved(tmp_path, repvgg(dtype=dtype)))
    assert result.report.ops_after == {"Conv": 2, "Relu": 2}
    assert result.whole.verdict in ("equal", "undecidable")


def test_float16_keeps_weights_that_it_holds_as_subnormals(tmp_path: Path) -> None:
    g = GraphBuilder(dtype="float16")
    factor = 2.0**-14  # exact in float16, and most products with a weight are below 6.1e-5
    g.output(g.mul(g.conv(g.input("x", CLOSED), 8, 3, padding=1), g.scalar(factor)))
    model = g.model()
    weight = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer
                  if len(t.dims) == 4)  # fmt: skip
    result = fuse_onnx(saved(tmp_path, model))
    assert result.report.flushed == 0
    (conv,) = onnx.load(result.output).graph.node
    made = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(result.output).graph.initializer
    }
    expected = (weight.astype(np.float64) * factor).astype(np.float16)
    assert np.count_nonzero(np.abs(expected) < 2.0**-14) > expected.size // 2
    np.testing.assert_array_equal(made[conv.input[1]], expected)


class TestMacs:
    """For one image; told in H and W where those are open."""

    def test_in_total(self, tmp_path: Path) -> None:
        report = fuse_onnx(saved(tmp_path, repvgg(CLOSED)), dry_run=True).report
        assert str(report.macs_before) == f"{14 * 14 * 8 * 8 * 10 + 49 * 8 * 16 * 10:,}"
        assert str(report.macs_after) == f"{14 * 14 * 8 * 8 * 9 + 49 * 8 * 16 * 9:,}"

    def test_in_h_and_w(self, tmp_path: Path) -> None:
        report = fuse_onnx(saved(tmp_path, repvgg(OPEN)), dry_run=True).report
        assert str(report.macs_before) == f"{640 + 1280 // 4:,} x H x W"
        assert str(report.macs_after) == f"{576 + 1152 // 4:,} x H x W"
        extents = [[str(axis) for axis in one.extent or ()] for one in report.fused]
        assert extents == [["H", "W"], ["H", "W"]]

    def test_after_strides_pooling_and_a_gate(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        y = g.conv(g.input("x", ("n", 3, "h", 32)), 8, 3, padding=1, stride=2)
        y = g.squeeze_excite(g.max_pool(g.relu(y), 2, stride=2))
        g.output(g.bn(g.conv(y, 4, 1)))
        report = fuse_onnx(saved(tmp_path, g.model()), dry_run=True).report
        gate = 8 * 2 * 2
        expected = 3 * 8 * 9 * 16 / 2 + 8 * 4 * 8 / 4
        assert str(report.macs_after) == f"{expected:,.0f} x H + {gate}"
        assert [str(axis) for axis in report.fused[0].extent or ()] == ["H/4", "8"]

    def test_of_matrix_products(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        g.output(g.relu(g.matmul(g.input("x", ("n", 7, 8)), 16)), g.gemm(g.input("r", ("n", 5)), 3))
        report = fuse_onnx(saved(tmp_path, g.model()), dry_run=True).report
        assert str(report.macs_before) == f"{7 * 8 * 16 + 15:,}"

    def test_of_a_node_of_unknown_size_are_not_counted(self, tmp_path: Path) -> None:
        g = GraphBuilder()
        x = g.input("x", (None, 8, None))
        g.output(g.relu(g.matmul(g.reshape(x, (2, -1, 8)), 4)))
        report = fuse_onnx(saved(tmp_path, g.model()), dry_run=True).report
        assert (str(report.macs_before), report.macs_before.unknown) == ("0", 1)


class TestApi:
    def test_names_of_the_package(self) -> None:
        for name in graph.__all__:
            assert getattr(graph, name) is not None
        with pytest.raises(AttributeError, match="nothing_like_that"):
            _ = graph.nothing_like_that

    def test_the_ending_decides(self, tmp_path: Path) -> None:
        result = reparam.fuse(saved(tmp_path, repvgg()), tmp_path / "a.onnx", force=True)
        assert result.report.ops_after == {"Conv": 2, "Relu": 2}

    @pytest.mark.parametrize(("name", "options", "said"), [
        ("x.onnx", {"epsilon": 1e-5}, "'epsilon' is not an option of an ONNX file"),
        ("x.pdparams", {"allow_macs": 2}, "'allow_macs' is not an option of a checkpoint"),
        ("x.onnx", {"nothing": 1}, "unexpected keyword argument 'nothing'"),
    ])  # fmt: skip
    def test_options_of_the_other_kind_are_refused(
        self, name: str, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(TypeError, match=said):
            reparam.fuse(name, **options)
