"""Convolutions of one value become one, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from reparam.adapters.onnx_runtime import open_session
from reparam.graph.fusing import fuse_graph
from reparam.graph.records import Options
from tests.graph.builder import GraphBuilder, Value
from tests.graph.builder_base import op_counts
from tests.graph.fusing import interface

Make = Callable[[GraphBuilder, Value], Value]


def merged(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    changed = ir.serde.deserialize_model(model)
    fuse_graph(changed, Options(**{"merge_siblings": True, **options}))
    made: onnx.ModelProto = ir.serde.serialize_model(changed)
    onnx.checker.check_model(made, full_check=True)
    assert interface(made) == interface(model)
    return made


def two(first: Make, second: Make, opset: int = 17) -> onnx.ModelProto:
    g = GraphBuilder(opset=opset)
    x = g.input("x", (None, 4, 8, 8))
    g.output(g.relu(first(g, x)), second(g, x))
    return g.model()


@pytest.mark.parametrize("opset", [9, 12, 13, 18, 21])
@pytest.mark.parametrize("kernel", [1, 3])
def test_siblings_become_one_with_a_split(opset: int, kernel: int) -> None:
    before = two(
        lambda g, x: g.conv(x, 3, kernel, padding=kernel // 2, stride=2),
        lambda g, x: g.conv(x, 5, kernel, padding=kernel // 2, stride=2, bias=True),
        opset,
    )
    after = merged(before)
    assert op_counts(after) == {"Conv": 1, "Relu": 1, "Split": 1}
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)}
    pair = [open_session(m.SerializeToString()).run(None, feeds) for m in (before, after)]
    for a, b in zip(*pair, strict=True):
        assert np.abs(a - b).max() <= 1e-5


APART: list[tuple[Make, Make]] = [
    (lambda g, x: g.conv(x, 3, 1), lambda g, x: g.conv(x, 3, 3, padding=1)),
    (lambda g, x: g.conv(x, 3, 1), lambda g, x: g.conv(x, 3, 1, stride=2)),
    (lambda g, x: g.conv(x, 3, 3, padding=1), lambda g, x: g.conv(x, 3, 3)),
    (lambda g, x: g.conv(x, 3, 3, padding=2), lambda g, x: g.conv(x, 3, 3, dilation=2, padding=2)),
    (lambda g, x: g.conv(x, 4, 1, groups=2), lambda g, x: g.conv(x, 4, 1, groups=2)),
    (lambda g, x: g.conv(x, 3, 1), lambda g, x: g.conv(g.max_pool(x, 2), 3, 1)),
    (lambda g, x: g.conv(x, 3, weight=g.weight((3, 4, 1, 1), "fed")), lambda g, x: g.conv(x, 3, 1)),
]


@pytest.mark.parametrize("number", range(len(APART)))
def test_what_is_no_sibling_stays(number: int) -> None:
    after = merged(two(*APART[number]))
    assert op_counts(after)["Conv"] == 2
    assert "Split" not in op_counts(after)


@pytest.mark.parametrize(
    "options", [{"merge_siblings": False}, {"without": frozenset({"merge-siblings"})}]
)
def test_it_is_off_unless_asked_for_and_can_be_switched_off(options: dict[str, Any]) -> None:
    before = two(lambda g, x: g.conv(x, 3, 1), lambda g, x: g.conv(x, 5, 1))
    assert op_counts(merged(before, **options)) == op_counts(before)


def test_branches_that_fuse_are_no_siblings() -> None:
    g = GraphBuilder()
    x = g.input("x", (None, 4, 8, 8))
    g.output(g.relu(g.add(g.conv(x, 5, 1), g.conv(x, 5, 1))))
    assert op_counts(merged(g.model())) == {"Conv": 1, "Relu": 1}
