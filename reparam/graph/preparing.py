"""A graph made ready: constants in one place, shapes known, nothing that nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.adapters.onnx_repairs import VECTORS, keep_vectors
from reparam.graph.constants import Constants
from reparam.graph.folding import Folder, lift_constants
from reparam.graph.global_pool import pool_globally
from reparam.graph.identities import bypass_identities
from reparam.graph.inferring import infer_shapes
from reparam.graph.sizes import MADE_UP, fold_sizes

if TYPE_CHECKING:
    import onnx_ir as ir

    from reparam.graph.records import GraphReport, Options

_FIRST_WITH_HIDDEN = 4
"""The first IR version in which an initializer need not be an input of the graph too."""


def prepare(model: ir.Model, constants: Constants, options: Options, report: GraphReport) -> None:
    """Do the passes that come before the regions, and infer shapes."""
    graph, without = model.graph, options.without
    if "dead-nodes" not in without:
        sweep(model)
    if "constants" in without:
        infer_shapes(model)
    else:
        _fold(model, constants, report)
    tidy(graph, constants, options, report)
    report.count(VECTORS, keep_vectors(graph))
    if "global-pool" not in without:
        report.count("means over all positions made one", pool_globally(graph, constants))
    if "dead-nodes" not in without:
        sweep(model)  # what computed a shape that is known reads values, too


def fold_again(
    model: ir.Model, constants: Constants, options: Options, report: GraphReport
) -> bool:
    """Evaluate what moves have made known; return whether there was any."""
    if "constants" in options.without:
        return False
    before = dict(report.passes)
    _fold(model, constants, report)
    return report.passes != before


def tidy(graph: ir.Graph, constants: Constants, options: Options, report: GraphReport) -> bool:
    """Take out what changes nothing; return whether there was any."""
    if "identities" in options.without:
        return False
    count = bypass_identities(graph, constants)
    report.count("nodes that change nothing bypassed", count)
    return count > 0


def _fold(model: ir.Model, constants: Constants, report: GraphReport) -> None:
    """Evaluate constant-only nodes and computed shapes to a fixpoint, with inferred shapes."""
    graph = model.graph
    lifted = lift_constants(graph)
    report.count("Constant nodes made initializers", lifted)
    infer_shapes(model)
    folder = Folder(graph, constants)
    while True:  # every round but the last takes nodes out
        sizes, nodes = fold_sizes(graph, constants), folder.fold()
        report.count("computed shapes made constants", sizes)
        report.count("constant-only nodes evaluated", nodes)
        if not sizes + nodes:
            break
        infer_shapes(model)
    if graph.initializers:
        model.ir_version = max(model.ir_version, _FIRST_WITH_HIDDEN)


def sweep(model: ir.Model) -> int:
    """Take out nodes and initializers that nothing reads; return how many initializers."""
    graph, initializers = model.graph, model.graph.initializers
    before = len(initializers)
    plain = not model.functions
    for node in reversed(graph):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            _let_go(node)
            graph.remove(node, safe=True)
        else:
            plain = plain and _is_plain(node)
    if not plain:
        passes: Any = import_onnx_ir().passes.common
        passes.RemoveUnusedNodesPass()(model)
    for value in list(initializers.values()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del initializers[value.name or ""]
    return before - len(initializers)


def _is_plain(node: ir.Node) -> bool:
    """Whether onnx-ir's pass, which looks its schema up, would change nothing of a node that is
    read: it has no subgraph, no other output, and no optional input that is left out."""
    if len(node.outputs) != 1 or (node.inputs and node.inputs[-1] is None):
        return False
    return not node.attributes or not any(
        name == "training_mode" or attribute.type.name in ("GRAPH", "GRAPHS")
        for name, attribute in node.attributes.items()
    )


def _let_go(node: ir.Node) -> None:
    """Take the readers inside a node's subgraphs off the values outside, which they would keep."""
    ir = import_onnx_ir()
    for attribute in node.attributes.values():
        if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        one = attribute.type == ir.AttributeType.GRAPH
        for graph in [attribute.as_graph()] if one else attribute.as_graphs():
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)


def declared_outputs(graph: ir.Graph) -> list[tuple[ir.TypeProtocol | None, ir.Shape | None]]:
    """Return the types and shapes of a graph's outputs, as its file declares them."""
    return [(v.type, None if v.shape is None else v.shape.copy()) for v in graph.outputs]


def restore_outputs(
    graph: ir.Graph, declared: list[tuple[ir.TypeProtocol | None, ir.Shape | None]]
) -> None:
    """Give the outputs what they were declared with, and unname what inference named.

    Inference names the open sizes it cannot compute ``unk__0`` and so on. onnxruntime infers once
    more and makes up the same names for other sizes; where both meet, it takes two sizes for one
    and fails.
    """
    ir = import_onnx_ir()
    for value, (kind, shape) in zip(graph.outputs, declared, strict=True):
        value.type, value.shape = kind, shape
    for node in graph:
        for value in node.outputs:
            if value.shape is None or value.is_graph_output():
                continue
            named = [getattr(size, "value", size) for size in value.shape]
            if any(str(name).startswith(MADE_UP) for name in named):
                value.shape = ir.Shape(
                    None if str(name).startswith(MADE_UP) else name for name in named
                )
