"""Blocks fuse to what they should; near misses do not; both keep computing what they did."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_runtime import open_session
from tests.graph.blocks import BLOCKS
from tests.graph.builder import GraphBuilder
from tests.graph.builder_base import WEIGHTS, op_counts
from tests.graph.cases import Case
from tests.graph.fusing import defects, fused
from tests.graph.near_misses import NEAR_MISSES
from tests.graph.runtimes import departs
from tests.graph.truth import evaluate

CASES = (*BLOCKS, *NEAR_MISSES)
OPSETS = (9, 11, 13, 18, 21)


def sampled(count: int) -> list[Any]:
    """Return the numbers below ``count``; all but a tenth, drawn by a seed, are marked slow."""
    drawn = set(random.Random(20260101).sample(range(count), count // 10))
    return [n if n in drawn else pytest.param(n, marks=pytest.mark.slow) for n in range(count)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_fuses_to_what_it_should_and_no_further(case: Case) -> None:
    g = case.graph()
    before = g.model()
    assert op_counts(before) == case.before
    if case.runs and not any(map(_departs, before.graph.node)):
        check_the_float64_meaning(g, before)
    after = fused(before)
    assert op_counts(after) == case.after, case.why
    assert defects(g, before, after) == []
    assert op_counts(fused(after)) == case.after


def check_the_float64_meaning(g: GraphBuilder, model: onnx.ModelProto) -> None:
    """Compare what the tests take a graph to mean with what onnxruntime computes."""
    unit = 2.0**-11 if g.dtype == "float16" else 2.0**-24
    for probe in ("first", "second"):
        feeds = g.feeds(probe)
        found = open_session(model.SerializeToString()).run(None, feeds)
        for array, meant in zip(found, evaluate(model, feeds).values(), strict=True):
            assert array.shape == meant.value.shape
            # each operator of the runtime rounds once a tap, the largest kernel has 17 x 17
            bound = meant.roundings * 300 * unit * meant.size
            assert (np.abs(array - meant.value) <= bound).all()


def _departs(node: onnx.NodeProto) -> bool:
    """Whether this onnxruntime divides the means of ``node`` by other numbers."""
    return departs(
        node.op_type, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    )


@pytest.mark.parametrize("number", sampled(len(CASES)), ids=lambda number: CASES[number].name)
def test_the_form_of_weights_and_the_opset_change_nothing(number: int) -> None:
    case = CASES[number]
    opset, kind = OPSETS[number % len(OPSETS)], WEIGHTS[number % len(WEIGHTS)]
    g = case.graph(opset=max(opset, case.since), weights=kind, seed=1)
    before = g.model()
    after = fused(before)
    assert op_counts(after) == case.after, case.why
    assert defects(g, before, after) == []


@pytest.mark.parametrize("number", sampled(len(BLOCKS)), ids=lambda number: BLOCKS[number].name)
def test_half_the_bits_change_nothing(number: int) -> None:
    case = BLOCKS[number]
    g = case.graph(dtype="float16")
    before = g.model()
    after = fused(before)
    assert op_counts(after) == case.after
    assert defects(g, before, after) == []


def test_there_are_many_and_each_has_its_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(BLOCKS) >= 60
    assert len(NEAR_MISSES) >= 40
    assert all(case.why for case in NEAR_MISSES)


def test_every_row_of_the_catalogue_is_here() -> None:
    rows = {case.row.rstrip("bcd") for case in BLOCKS}
    assert {str(n) for n in range(1, 37)} <= rows
