"""Moves: exact changes that bring together what the walk alone does not see as one region.

In this order, each a pass that can be switched off:

    hoist       a factor and a shift that stand behind a Reshape, Concat, Split, pooling ... go up
                into the weights that make the value
    sink        those with several readers, or behind which such nodes stand, go down into the
                weights of all readers at once
    straighten  two nodes in a row that lay the same elements out anew, as a factor between them
                leaves behind, become one or none
    regroup     in a sum of several, values made of one source come together

Factors go up before they go down, since one node takes what goes up and several what goes down.
Every move is proved before it is made, like a region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from reparam.errors import NotEquivalentError, NotFusibleError
from reparam.graph.analysis import Analysis, analyse
from reparam.graph.constants import Constants
from reparam.graph.moves_affine import Run, Site, hoisted, sunk
from reparam.graph.moves_layout import straighten
from reparam.graph.moves_plan import Change, Plan
from reparam.graph.moves_regroup import Order, Sum, Terms, groups, sums
from reparam.graph.records import Fused, GraphReport, Left, Options, reason_of
from reparam.graph.regions import KINDS

if TYPE_CHECKING:
    import onnx_ir as ir


HOIST, SINK, STRAIGHTEN, REGROUP = "hoist", "sink", "straighten", "regroup"
MOVES = (HOIST, SINK, STRAIGHTEN, REGROUP)
"""Names of the passes, in their order."""

Avoid = set[tuple["ir.Node", "str | Terms"]]
"""Moves that are not tried again: the node that they begin at, and the pass or the terms."""

_Look = Callable[[Run, Site], "list[Change] | None"]

NOT_MADE = "moves not made, for want of a proof"


def move(
    graph: ir.Graph,
    constants: Constants,
    options: Options,
    report: GraphReport,
    frozen: Mapping[ir.Node, str],
    avoid: Avoid,
) -> bool:
    """Make every move that saves something; return whether there was one."""
    moved = False
    for name, look in _LOOKS.items():
        if name not in options.without:
            moved |= _all_runs(graph, constants, report, frozen, avoid, (name, look))
    if STRAIGHTEN not in options.without:
        gone = straighten(graph, constants)
        report.count("nodes gone that lay out anew", gone)
        moved |= bool(gone)
    if REGROUP not in options.without:
        analysis = analyse(graph, constants, frozen)
        for sum_ in sums(graph, analysis):
            moved |= _regrouped(graph, sum_, analysis, options, report, avoid)
    return moved


def _regrouped(
    graph: ir.Graph,
    sum_: Sum,
    analysis: Analysis,
    options: Options,
    report: GraphReport,
    avoid: Avoid,
) -> bool:
    """Bring terms of one source together, if they then are a region; return whether they were."""
    kinds = [kind for kind in KINDS if kind not in options.without]
    for terms in groups(sum_, analysis):
        if (sum_.root, terms) in avoid:
            continue
        avoid.add((sum_.root, terms))
        order = Order(graph, analysis.constants, sum_, terms)
        if not order.makes_a_region(analysis, options.allow_macs, kinds):
            order.discard(analysis)
            continue
        try:
            proof = order.prove()
        except NotFusibleError:
            report.count(NOT_MADE, 1)
            order.discard(analysis)
            continue
        if not proof.holds:
            report.failed.append(Left(str(sum_.output.name), REGROUP, reason_of(proof)))
            order.discard(analysis)
            continue
        order.splice()
        report.count("sums regrouped", 1)
        return True
    return False


def _all_runs(
    graph: ir.Graph,
    constants: Constants,
    report: GraphReport,
    frozen: Mapping[ir.Node, str],
    avoid: Avoid,
    what: tuple[str, _Look],
) -> bool:
    name, _ = what
    nodes = list(graph)
    # what a move changed is met again, one step further: down for what sinks, up for the other
    places = {node: index for index, node in enumerate(nodes)}
    site = Site(constants, places, frozen)
    after: dict[ir.Node, list[ir.Node]] = {}
    moved = False
    for place in reversed(nodes) if name == HOIST else nodes:
        node = _now(place, after)
        if node is None or (node, name) in avoid:
            continue
        plan = _plan(graph, site, node, what)
        if plan is None:
            continue
        if not _made(plan, str(node.outputs[0].name), report):
            avoid.add((node, name))
            continue
        moved = True
        for old, new in zip(plan.old, plan.new, strict=True):
            after[old] = new
            places.update(dict.fromkeys(new, places[old]))
    return moved


def _now(node: ir.Node, after: dict[ir.Node, list[ir.Node]]) -> ir.Node | None:
    """Return the first of what stands in the place of a node."""
    found: ir.Node | None = node
    while found is not None and found in after:
        found = next(iter(after[found]), None)
    return found


def _plan(graph: ir.Graph, site: Site, node: ir.Node, what: tuple[str, _Look]) -> Plan | None:
    """Return how the run that begins at a node moves; None where it stays."""
    name, look = what
    run = site.run_at(node)
    if run is None:
        return None
    try:
        changes = look(run, site)
    except NotFusibleError:
        return None
    plan = None if changes is None else Plan(graph, site.constants, changes, name)
    return plan if plan is not None and plan.is_provable() else None


def _made(plan: Plan, where: str, report: GraphReport) -> bool:
    """Write, prove and splice a plan; return whether all went well."""
    try:
        plan.write()
        proof = plan.prove()
    except NotFusibleError:
        plan.discard()
        report.count(NOT_MADE, 1)  # nothing is lost: the factor stays where it was
        return False
    except NotEquivalentError as error:
        plan.discard()
        report.failed.append(Left(where, plan.kind, str(error)))
        return False
    if not proof.holds:
        plan.discard()
        report.failed.append(Left(where, plan.kind, reason_of(proof)))
        return False
    before, after = plan.counts()
    macs = plan.macs()
    source = str(plan.sources()[0].name)
    report.fused.append(
        Fused(where, source, plan.kind, before, after, macs, macs, ratio=proof.ratio)
    )
    report.flushed += plan.flushed
    plan.splice()
    return True


_LOOKS: dict[str, _Look] = {HOIST: hoisted, SINK: sunk}
