"""Blocks fuse to what they should; near misses do not; both keep computing what they did."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_runtime import open_session
from tests.graph.blocks import BLOCKS
from tests.graph.builder_base import op_counts
from tests.graph.cases import Case
from tests.graph.near_misses import NEAR_MISSES
from tests.graph.truth import evaluate

CASES = (*BLOCKS, *NEAR_MISSES)
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
def test_the_graph_is_the_one_that_is_meant(case: Case) -> None:
    assert op_counts(case.graph().model()) == case.before


@pytest.mark.parametrize("case", [c for c in CASES if c.runs], ids=lambda case: case.name)
def test_the_float64_meaning_is_that_of_onnxruntime(case: Case) -> None:
    g = case.graph()
    model = g.model()
    unit = 2.0**-11 if g.dtype == "float16" else 2.0**-24
    for probe in ("first", "second"):
        feeds = g.feeds(probe)
        found = open_session(model.SerializeToString()).run(None, feeds)
        for array, meant in zip(found, evaluate(model, feeds).values(), strict=True):
            assert array.shape == meant.value.shape
            # each operator of the runtime rounds once a tap, the largest kernel has 17 x 17
            bound = meant.roundings * 300 * unit * meant.size
            assert (np.abs(array - meant.value) <= bound).all()


def test_names_are_told_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(BLOCKS) >= 60
    assert len(NEAR_MISSES) >= 40


def test_every_row_of_the_catalogue_is_here() -> None:
    rows = {case.row for case in CASES}
    missing = {str(n) for n in range(1, 37)} - {row.rstrip("bcd") for row in rows}
    assert not missing
    assert all(isinstance(case.graph().model(), onnx.ModelProto) for case in CASES[:1])
