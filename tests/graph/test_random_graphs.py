"""Random graphs keep their meaning, their interface and their cost when they are fused.

REPARAM_RANDOM_GRAPHS sets another number of graphs.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reparam.graph.passes import PASSES
from reparam.graph.records import Options
from tests.graph.builder_base import op_counts
from tests.graph.fusing import defects, fused
from tests.graph.programs import Program
from tests.graph.random_graphs import programs

COUNT = int(os.environ.get("REPARAM_RANDOM_GRAPHS", "100"))
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=COUNT, deadline=None, suppress_health_check=SLOW)
@given(programs())
def test_a_fused_random_graph_is_the_same_function_and_costs_no_more(program: Program) -> None:
    g = program.build()
    before = g.model()
    untouched = before.SerializeToString(deterministic=True)
    after = fused(before)
    assert before.SerializeToString(deterministic=True) == untouched
    assert defects(g, before, after) == []
    assert op_counts(fused(after)) == op_counts(after)


@settings(max_examples=COUNT // 3, deadline=None, suppress_health_check=SLOW)
@given(
    programs(),
    st.sets(st.sampled_from([entry.name for entry in PASSES if entry.on])),
    st.sampled_from((1.0, 1.3, 10.0)),
)
def test_whatever_is_switched_off_it_is_the_same_function(
    program: Program, without: set[str], allow_macs: float
) -> None:
    g = program.build()
    before = g.model()
    options = Options(without=frozenset(without), allow_macs=allow_macs)
    found = defects(g, before, fused(before, options))
    assert [defect for defect in found if not (allow_macs > 1 and "Cost" in defect)] == []


@settings(max_examples=20, deadline=None, suppress_health_check=SLOW)
@given(programs())
def test_a_program_builds_what_it_prints(program: Program) -> None:
    from tests.graph.builder import GraphBuilder

    found: dict[str, object] = {"GraphBuilder": GraphBuilder}
    exec(repr(program), found)
    g = found["g"]
    assert isinstance(g, GraphBuilder)
    assert g.model() == program.build().model()
