"""Every pass by name: what it changes, what it leaves, and that it can be switched off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from reparam.adapters.onnx_runtime import open_session
from reparam.errors import GraphError
from reparam.graph.fusing import fuse_graph
from reparam.graph.passes import NAMES, PASSES
from reparam.graph.records import GraphReport, Options
from reparam.graph.regions import KINDS
from tests.graph.builder_base import op_counts
from tests.graph.plain import Plain


def fused(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, GraphReport]:
    changed = ir.serde.deserialize_model(model)
    report = fuse_graph(changed, Options(**options))
    made: onnx.ModelProto = ir.serde.serialize_model(changed)
    onnx.checker.check_model(made, full_check=True)
    return made, report


def same(before: onnx.ModelProto, after: onnx.ModelProto, *shape: int) -> bool:
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    pair = [open_session(m.SerializeToString()).run(None, feeds) for m in (before, after)]
    return all(
        a.shape == b.shape and np.allclose(a, b, atol=1e-5) for a, b in zip(*pair, strict=True)
    )


@dataclass(frozen=True)
class Case:
    """A graph on which a pass does something: a Relu is before and after."""

    name: str
    build: Callable[[Plain, str], str]
    after: dict[str, int]
    opset: int = 17


def _ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def _axes(*axes: int) -> Any:
    return np.array(axes, np.int64)


SHAPE = (2, 3, 4, 5)
CHANGED = [
    Case("constants", lambda g, x: g.node("Max", x, g.node("Neg", _ones(3, 1, 1))), {"Max": 1}),
    Case("identities", lambda g, x: g.node("Identity", x), {}),
    Case("identities", lambda g, x: g.node("Dropout", x), {}),
    Case("identities", lambda g, x: g.node("Mul", _ones(3, 1, 1), x), {}),
    Case("identities", lambda g, x: g.node("Div", x, _ones()), {}),
    Case("identities", lambda g, x: g.node("Add", x, 0 * _ones(1, 1)), {}),
    Case("identities", lambda g, x: g.node("Sub", x, 0 * _ones(1)), {}),
    Case("identities", lambda g, x: g.node("Cast", x, to=TensorProto.FLOAT), {}),
    Case("identities", lambda g, x: g.node("Transpose", x, perm=[0, 1, 2, 3]), {}),
    Case("identities", lambda g, x: g.node("Reshape", x, _axes(0, 3, -1, 5)), {}),
    Case("identities", lambda g, x: g.node("Concat", x, axis=1), {}),
    Case("identities", lambda g, x: g.node("Sum", x), {}),
    Case("global-pool", lambda g, x: g.node("ReduceMean", x, axes=[2, 3]),
         {"GlobalAveragePool": 1}),
    Case("global-pool", lambda g, x: g.node("ReduceMean", x, axes=[-1, -2], keepdims=1),
         {"GlobalAveragePool": 1}, 9),
    Case("global-pool", lambda g, x: g.node("ReduceMean", x, _axes(3, 2)),
         {"GlobalAveragePool": 1}, 18),
    Case("global-pool", lambda g, x: g.node("ReduceMean", x, _axes(2, -1), noop_with_empty_axes=1),
         {"GlobalAveragePool": 1}, 18),
]  # fmt: skip


def _model(case: Case) -> onnx.ModelProto:
    g = Plain(case.opset)
    x = g.node("Relu", g.input("x", ("n", *SHAPE[1:])))
    return g.model(g.node("Sigmoid", case.build(g, x)))


@pytest.mark.parametrize("case", CHANGED, ids=lambda case: case.name)
def test_what_a_pass_changes(case: Case) -> None:
    before = _model(case)
    after, _ = fused(before)
    assert op_counts(after) == {**case.after, "Relu": 1, "Sigmoid": 1}
    assert same(before, after, *SHAPE)
    again, _ = fused(after)
    assert op_counts(again) == op_counts(after)


@pytest.mark.parametrize("case", CHANGED, ids=lambda case: case.name)
def test_what_a_pass_changes_stays_when_it_is_off(case: Case) -> None:
    before = _model(case)
    off = {case.name, *KINDS, "hoist", "sink", "straighten", "regroup"}
    after, _ = fused(before, without=frozenset(off))
    assert op_counts(after) == op_counts(before)


LEFT: list[tuple[Callable[[Plain, str], str], int]] = [
    (lambda g, x: g.node("Mul", np.full((3, 1, 1), 1 + 2**-20, np.float32), x), 17),
    (lambda g, x: g.node("Add", x, np.full((), 1e-30, np.float32)), 17),
    (lambda g, x: g.node("Mul", x, _ones(1, 1, 1, 1, 1)), 17),  # makes an axis more
    (lambda g, x: g.node("Mul", x, _ones(2, 1, 1, 1)), 17),  # a batch of one becomes two
    (lambda g, x: g.node("Sub", 0 * _ones(1), x), 17),
    (lambda g, x: g.node("Cast", x, to=TensorProto.DOUBLE), 17),
    (lambda g, x: g.node("Transpose", x, perm=[0, 1, 3, 2]), 17),
    (lambda g, x: g.node("Reshape", x, _axes(0, 3, -1, 4)), 17),
    (lambda g, x: g.node("Dropout", x, np.float32(0.5), np.array(True)), 17),
    (lambda g, x: g.node("ReduceMean", x, axes=[2, 3], keepdims=0), 17),
    (lambda g, x: g.node("ReduceMean", x, axes=[3]), 17),
    (lambda g, x: g.node("ReduceMean", x, axes=[1, 2, 3]), 17),
    (lambda g, x: g.node("ReduceMean", x), 17),
    (lambda g, x: g.node("ReduceMean", x, noop_with_empty_axes=1), 18),
    (lambda g, x: g.node("ReduceMax", x, axes=[2, 3]), 17),
]


@pytest.mark.parametrize("number", range(len(LEFT)))
def test_what_is_nearly_nothing_stays(number: int) -> None:
    build, opset = LEFT[number]
    g = Plain(opset)
    x = g.node("Relu", g.input("x", ("n", *SHAPE[1:])))
    y = build(g, x)
    if g.nodes[-1].op_type == "Cast":
        y = g.node("Cast", y, to=TensorProto.FLOAT)
    before = g.model(g.node("Sigmoid", y))
    off = frozenset({*KINDS, "hoist", "sink", "straighten", "regroup"})
    after, _ = fused(before, without=off)
    assert op_counts(after) == op_counts(before)


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_a_mean_over_all_positions_of_any_rank(rank: int) -> None:
    g = Plain()
    g.input("x", ("n", 3, *range(3, rank + 1)))
    before = g.model(g.node("ReduceMean", "x", axes=list(range(2, rank))))
    after, _ = fused(before)
    assert op_counts(after) == {"GlobalAveragePool": 1}
    assert same(before, after, 2, 3, *range(3, rank + 1))


@pytest.mark.parametrize("op", ["Identity", "Dropout"])
def test_an_input_that_is_an_output_keeps_its_node(op: str) -> None:
    g = Plain()
    before = g.model(g.node(op, g.input("x", (3,))))
    after, _ = fused(before)
    assert sum(op_counts(after).values()) == 1
    assert [value.name for value in after.graph.output] == ["v0"]


def test_two_outputs_that_are_one_value_keep_their_names() -> None:
    g = Plain()
    y = g.node("Relu", g.input("x", (3,)))
    before = g.model(y, g.node("Identity", y), g.node("Sigmoid", g.node("Identity", y)))
    after, _ = fused(before)
    assert [value.name for value in after.graph.output] == ["v0", "v1", "v3"]
    assert op_counts(after) == {"Identity": 1, "Relu": 1, "Sigmoid": 1}
    assert same(before, after, 3)


def test_dead_nodes_go_and_stay_when_that_is_off() -> None:
    g = Plain()
    y = g.node("Relu", g.input("x", (3,)))
    g.node("Sigmoid", y)
    g.weight(5)
    before = g.model(y)
    after, _ = fused(before)
    assert op_counts(after) == {"Relu": 1}
    assert not after.graph.initializer
    kept, _ = fused(before, without=frozenset({"dead-nodes"}))
    assert op_counts(kept) == op_counts(before)


def test_a_name_that_no_pass_has_is_refused_with_the_list() -> None:
    g = Plain()
    model = g.model(g.node("Relu", g.input("x", (3,))))
    with pytest.raises(GraphError) as caught:
        fused(model, without=frozenset({"fold-batch-norm"}))
    assert "'fold-batch-norm'" in str(caught.value)
    assert all(name in caught.value.hint for name in NAMES)


def test_names_are_unique_and_have_the_kinds_of_regions_in_their_order() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert tuple(name for name in NAMES if name in KINDS) == KINDS
    assert all(one.does and one.place for one in PASSES)
    assert [one.name for one in PASSES if not one.on] == ["normalize", "merge-siblings"]


def test_a_weight_that_was_computed_has_a_name_of_its_own() -> None:
    g = Plain()
    g.input("x", (1, 3, 4, 4))
    weight = g.weight(3, 3, 1, 1)
    y = g.node("Conv", "x", weight)
    y = g.node("BatchNormalization", y, _ones(3) * 2, _ones(3), _ones(3), _ones(3) * 3)
    before = g.model(g.node("Relu", y))
    after, _ = fused(before)
    assert op_counts(after) == {"Conv": 1, "Relu": 1}
    assert weight not in [tensor.name for tensor in after.graph.initializer]
    assert same(before, after, 1, 3, 4, 4)


def test_a_weight_that_others_read_keeps_its_numbers() -> None:
    g = Plain()
    g.input("x", (1, 3, 4, 4))
    weight = g.weight(3, 3, 1, 1)
    y = g.node("Mul", g.node("Conv", "x", weight), _ones(3, 1, 1) * 2)
    before = g.model(g.node("Relu", y), g.node("Max", "x", weight))
    after, _ = fused(before)
    assert op_counts(after) == {"Conv": 1, "Max": 1, "Relu": 1}
    assert sorted(t.name for t in after.graph.initializer) == ["v1.weight", weight]
    assert same(before, after, 1, 3, 4, 4)
