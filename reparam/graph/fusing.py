"""Fusing a graph in place: constants, forms, regions, proofs, and the passes around them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from reparam.errors import NotEquivalentError, NotFusibleError
from reparam.graph.analysis import analyse
from reparam.graph.constants import Constants
from reparam.graph.idioms import left_whole
from reparam.graph.laws import BorderFilling
from reparam.graph.macs import Extent, Sizes, macs_of
from reparam.graph.moves import NOT_MADE, Avoid, move
from reparam.graph.normalizing import Normalized, normalize, settle
from reparam.graph.passes import check_names
from reparam.graph.preparing import (
    declared_outputs,
    fold_again,
    prepare,
    restore_outputs,
    sweep,
    tidy,
)
from reparam.graph.proving import Proof
from reparam.graph.records import Fused, GraphReport, Left, Options, reason_of
from reparam.graph.regions import KINDS, Ends, Region, choose
from reparam.graph.rewriting import Writer
from reparam.graph.siblings import merge_siblings

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger("reparam.graph")
ROUNDS = 6
"""More than any network needed: three. A round that changes nothing is the last."""
MOVE_ROUNDS = 6
"""The same for moves, after each of which regions are looked for again."""
OLDEST_OPSET = 9


def fuse_graph(
    model: ir.Model,
    options: Options | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> GraphReport:
    """Make every region of a graph that is one operator that operator, in place.

        before:  x -+- Conv 3x3 - BatchNormalization -+
                    |- Conv 1x1 - BatchNormalization -+- Sum - Relu - y
        after:   x --- Conv 3x3 --------------------------- Relu - y

    Names, dtypes and shapes of inputs and outputs stay; subgraphs and functions are left whole.
    A region is swapped only after it was proved, on probes in float64, to be the same function.

    Args:
        model: is changed.
        options: how.
        tell: is told which step begins.
    """
    options = options or Options()
    check_names(options.without)
    graph = model.graph
    report = GraphReport(operators_of(graph))
    constants, declared = Constants(graph), declared_outputs(graph)
    if constants.opset < OLDEST_OPSET:
        report.notices.append(
            f"nothing is fused in operator set {constants.opset}: before {OLDEST_OPSET}, operators "
            "broadcast and normalise by other rules"
        )
        report.ops_after = dict(report.ops_before)
        report.macs_before = report.macs_after = macs_of(graph)
        return report
    tell("inferring shapes and evaluating constants")
    prepare(model, constants, options, report)
    normalized = _normalized(model, constants, options, report)
    report.macs_before = macs_of(graph)
    tell("fusing regions and proving each")
    whole = left_whole(graph, constants, options.without)
    avoid: set[Ends] = set()
    while _to_a_fixpoint(graph, constants, options, report, whole, avoid):
        if not fold_again(model, constants, options, report):
            break
        report.passes.pop(NOT_MADE, None)  # they are tried again, with what is known now
    if normalized is not None:
        report.notices += settle(graph, normalized)
    if options.merge_siblings and "merge-siblings" not in options.without:
        report.count("sibling convolutions merged", merge_siblings(graph, constants))
    if "dead-nodes" not in options.without:
        report.count("unused initializers removed", sweep(model))
    report.macs_after = macs_of(graph)
    restore_outputs(graph, declared)
    report.ops_after = operators_of(graph)
    return report


def _to_a_fixpoint(
    graph: ir.Graph,
    constants: Constants,
    options: Options,
    report: GraphReport,
    whole: Mapping[ir.Node, str],
    avoid: set[Ends],
) -> bool:
    """Rewrite regions and make moves until neither finds more; return whether moves did."""
    tried: Avoid = set()
    changed = False
    for _ in range(MOVE_ROUNDS):
        for _ in range(ROUNDS):
            if not _one_round(graph, constants, options, report, avoid, whole):
                break
        moved = move(graph, constants, options, report, whole, tried)
        changed |= moved
        if not tidy(graph, constants, options, report) and not moved:
            break
    return changed


def _normalized(
    model: ir.Model, constants: Constants, options: Options, report: GraphReport
) -> Normalized | None:
    if options.normalize is None or "normalize" in options.without:
        return None
    found = normalize(model, options.normalize, constants)
    if found is None:
        report.notices.append("the file takes raw pixels already")
    else:
        report.count("normalisations put at the input", 1)
    return found


def operators_of(graph: ir.Graph) -> dict[str, int]:
    """Return how many nodes of each operator the main graph has."""
    return dict(sorted(Counter(node.op_type for node in graph).items()))


def _one_round(
    graph: ir.Graph,
    constants: Constants,
    options: Options,
    report: GraphReport,
    avoid: set[Ends],
    whole: Mapping[ir.Node, str],
) -> bool:
    """Rewrite what can be; return whether another round may find more."""
    analysis = analyse(graph, constants, whole)
    kinds = [kind for kind in KINDS if kind not in options.without]
    chosen = choose(graph, analysis, allow_macs=options.allow_macs, kinds=kinds, avoid=avoid)
    sizes = Sizes()
    replaced: dict[ir.Value, ir.Value] = {}
    for region in chosen:
        source = replaced.get(region.form.source, region.form.source)
        extent = sizes.of(source, region.form.shaped.axis)
        result = _rewrite(graph, region, constants, source, extent, report)
        if result is not None:
            replaced[region.output] = result
        else:
            avoid.add((region.output, source))  # what is inside it may do
    return bool(chosen)


def _rewrite(
    graph: ir.Graph,
    region: Region,
    constants: Constants,
    source: ir.Value,
    extent: Extent | None,
    report: GraphReport,
) -> ir.Value | None:
    """Return what stands in the place of a region; None where it was left."""
    where = str(region.output.name)
    writer = Writer(region, constants, source)
    try:
        with constants.held():
            writer.write()
            proof = writer.prove()
    except NotFusibleError as error:
        writer.discard(graph)
        report.left.append(Left(where, region.kind, str(error)))
        return None
    except NotEquivalentError as error:
        writer.discard(graph)
        report.failed.append(Left(where, region.kind, str(error)))
        return None
    if not proof.holds:
        writer.discard(graph)
        asked = any(isinstance(part.law, BorderFilling) for part in region.form.behind())
        (report.left if asked else report.failed).append(Left(where, region.kind, reason_of(proof)))
        return None
    report.fused.append(_fused(region, writer, source, extent, proof))
    report.flushed += writer.flushed
    return writer.splice(graph)


def _fused(
    region: Region, writer: Writer, source: ir.Value, extent: Extent | None, proof: Proof
) -> Fused:
    geometry = region.form.shaped.geometry
    return Fused(
        where=str(region.output.name),
        source=str(source.name),
        kind=region.kind,
        before=dict(Counter(node.op_type for node in region.nodes)),
        after=dict(Counter(node.op_type for node in writer.nodes)),
        macs_before=region.before,
        macs_after=region.after,
        ratio=proof.ratio,
        kernel=geometry.kernel if geometry is not None else (),
        extent=extent,
    )
