"""Why a node would be fused, or not: each reason from a graph that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reparam.errors import EXIT_UNUSABLE, GraphError
from reparam.graph.explaining import Explanation, explain
from tests.graph.bad_models import branch, relu, with_if
from tests.graph.builder import GraphBuilder
from tests.graph.networks import OPEN, low_rank, repvgg, saved

Build = Callable[[GraphBuilder], Any]


def why(folder: Path, build: Build, name: str, **options: Any) -> Explanation:
    g = GraphBuilder(**options)
    build(g)
    return explain(saved(folder, g.model()), name)


def said(folder: Path, build: Build, name: str, **options: Any) -> str:
    found = why(folder, build, name, **options)
    assert (found.verdict, found.region) == ("left", None)
    assert found.reasons
    return "\n".join(found.reasons)


def different_strides(g: GraphBuilder) -> None:
    x = g.input("x", ("n", 8, 1, 1))
    g.output(g.relu(g.add(g.conv(x, 8, 1, stride=2), g.conv(x, 8, 1))))


def residual(g: GraphBuilder) -> None:
    x = g.input("x", OPEN)
    g.output(g.relu(g.add(g.relu(g.conv(x, 8, 1)), x)))


def read_twice(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", OPEN), 8, 3, padding=1)
    g.output(g.add(g.relu(y), g.bn(y)))


def interior_output(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", OPEN), 8, 3, padding=1)
    g.output(y, g.bn(y))


def two_factors(g: GraphBuilder) -> None:
    x = g.input("x", OPEN)
    g.output(g.mul(g.relu(x), g.sigmoid(x)))


def border(g: GraphBuilder) -> None:
    x = g.input("x", OPEN)
    g.output(g.conv(g.bn(g.relu(x)), 8, 3, padding=1))


class TestFused:
    def test_a_node_of_a_region(self, tmp_path: Path) -> None:
        found = explain(saved(tmp_path, repvgg(OPEN)), "Add_6")
        assert (found.verdict, found.operator, found.reasons) == ("fused", "Add", ())
        assert found.region is not None
        assert found.region.before == {"Conv": 2, "BatchNormalization": 3, "Add": 2}
        assert found.region.after == {"Conv": 1}
        assert any(
            "a 3x3 convolution of 'x' (8 -> 8 channels, padding 1+1, 1+1) and a bias" in form
            for forms in found.inputs.values()
            for form in forms
        )

    def test_is_the_same_by_the_name_of_its_value(self, tmp_path: Path) -> None:
        path = saved(tmp_path, repvgg())
        by_node = explain(path, "Add_6")
        assert explain(path, next(iter(by_node.outputs))) == by_node

    def test_json(self, tmp_path: Path) -> None:
        told = json.loads(json.dumps(explain(saved(tmp_path, repvgg(OPEN)), "Add_6").to_json()))
        assert told["region"]["extent"] == ["H", "W"]
        assert told["verdict"] == "fused"

    def test_a_node_that_only_a_move_brings_into_a_region(self, tmp_path: Path) -> None:
        """The factor stands behind a Reshape, and is hoisted above it, into the convolution."""

        def build(g: GraphBuilder) -> None:
            y = g.conv(g.input("x", ("n", 8, 14, 14)), 8, 3, padding=1)
            pooled = g.reshape(y, (-1, 8, 196))
            g.output(g.relu(g.mul(pooled, g.scalar(0.5))))

        found = why(tmp_path, build, "Mul_2")
        assert (found.verdict, found.region) == ("fused", None)
        assert all(reason.startswith("at first: ") for reason in found.reasons)


class TestLeft:
    @pytest.mark.parametrize(("build", "name", "reason"), [
        (different_strides, "Add_2", "from 'x': "),
        (different_strides, "Add_2", "stride"),
        (residual, "Add_2", "no form of a common source: 'v3' is of 'v3'; 'x' is of 'x'"),
        (residual, "Relu_1", "Relu is not linear in one value"),
        (residual, "Conv_0", "'v2' is read by Relu 'Relu_1'"),
        (residual, "Conv_0", "'x' is an input of the graph"),
        (read_twice, "BatchNormalization_2", "'v2' is read by Relu 'Relu_1'"),
        (interior_output, "BatchNormalization_1", "'v2' is an output of the graph"),
        (two_factors, "Mul_2", "Mul of two values, neither a constant, is not linear"),
        (border, "Conv_2", "padding"),
    ])  # fmt: skip
    def test_for_this_reason(self, tmp_path: Path, build: Build, name: str, reason: str) -> None:
        assert reason in said(tmp_path, build, name)

    def test_since_runtimes_know_it_as_a_part_of_one_operator(self, tmp_path: Path) -> None:
        def build(g: GraphBuilder) -> None:
            g.output(g.conv(g.gelu(g.conv(g.input("x", OPEN), 8, 1)), 8, 1))

        assert "runtimes know as one operator" in said(tmp_path, build, "Add_3")

    def test_since_it_would_cost_more(self, tmp_path: Path) -> None:
        found = explain(saved(tmp_path, low_rank()), "Conv_1")
        assert any("4.24 times the MACs (136 -> 576 at each position)" in r for r in found.reasons)

    def test_since_it_is_a_constant(self, tmp_path: Path) -> None:
        g = GraphBuilder(weights="constant")
        g.output(g.conv(g.input("x", OPEN), 8, 1))
        assert "becomes an initializer" in "".join(
            explain(saved(tmp_path, g.model()), g.nodes[0].name).reasons
        )

    def test_since_nothing_reads_it(self, tmp_path: Path) -> None:
        def build(g: GraphBuilder) -> None:
            x = g.input("x", OPEN)
            g.output(g.relu(x))
            g.sigmoid(x)

        assert "nothing reads" in said(tmp_path, build, "Sigmoid_1")

    def test_since_it_is_inside_a_subgraph(self, tmp_path: Path) -> None:
        path = saved(tmp_path, with_if(branch("then", relu("c", "t"), output="t")))
        assert explain(path, "relu_t").reasons == (
            "it is inside a subgraph or a function: those are left whole",
        )

    def test_since_no_node_makes_it(self, tmp_path: Path) -> None:
        path = saved(tmp_path, repvgg())
        assert "an input" in explain(path, "x").reasons[0]
        assert "an initializer" in explain(path, "v1").reasons[0]

    def test_since_the_operators_are_old(self, tmp_path: Path) -> None:
        g = GraphBuilder(opset=9)
        g.output(g.conv(g.input("x", OPEN), 8, 1))
        model = g.model()
        model.opset_import[0].version = 8
        assert "operator set is 8" in explain(saved(tmp_path, model), "Conv_0").reasons[0]


class TestNames:
    def refused(self, path: Path, name: str) -> str:
        with pytest.raises(GraphError) as caught:
            explain(path, name)
        assert caught.value.exit_code == EXIT_UNUSABLE
        return str(caught.value)

    def test_a_part_that_only_one_has(self, tmp_path: Path) -> None:
        path = saved(tmp_path, repvgg())
        assert explain(path, "dd_6").name == "Add_6"

    def test_a_part_that_several_have(self, tmp_path: Path) -> None:
        message = self.refused(saved(tmp_path, repvgg()), "Conv")
        assert "several nodes have 'Conv' in their names" in message
        assert "'Conv_0', 'Conv_2'" in message

    def test_one_that_is_nowhere(self, tmp_path: Path) -> None:
        message = self.refused(saved(tmp_path, repvgg()), "Add6")
        assert "no node or value is called 'Add6'" in message
        assert "'Add_6'" in message

    def test_one_of_several_nodes(self, tmp_path: Path) -> None:
        model = repvgg()
        for node in model.graph.node:
            node.name = "same"
        path = saved(tmp_path, model)
        assert "name the value that it makes" in self.refused(path, "same")
        value = model.graph.node[-1].output[0]
        assert explain(path, value).operator == "Relu"

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        assert "several" in self.refused(saved(tmp_path, repvgg()), "")
