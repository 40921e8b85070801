"""A graph made ready: constants in one place, shapes known, nothing that nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.graph.constants import Constants
from reparam.graph.folding import fold_constants

if TYPE_CHECKING:
    import onnx_ir as ir

    from reparam.graph.fusing import GraphReport, Options


_MADE_UP = "unk__"


def prepare(model: ir.Model, constants: Constants, options: Options, report: GraphReport) -> None:
    """Lift constants to initializers, take out what nothing reads, and infer shapes."""
    passes = import_onnx_ir().passes.common
    graph = model.graph
    before = sum(node.op_type == "Constant" for node in graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    after = sum(node.op_type == "Constant" for node in graph)
    report.count("Constant nodes made initializers", before - after)
    sweep(model)
    _infer(model)
    while folded := fold_constants(graph, constants):  # a shape that is known makes others known
        report.count("nodes computed from constants", folded)
        _infer(model)


def _infer(model: ir.Model) -> None:
    """Infer shapes; initializers stay in their order, so that an unchanged graph stays as it is."""
    passes: Any = import_onnx_ir().passes.common
    initializers = model.graph.initializers
    order = {name: index for index, name in enumerate(initializers)}
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    values = sorted(initializers.items(), key=lambda item: order[item[0]])
    initializers.clear()
    initializers.update(values)


def sweep(model: ir.Model) -> int:
    """Take out nodes and initializers that nothing reads; return how many initializers."""
    passes: Any = import_onnx_ir().passes.common
    before = len(model.graph.initializers)
    for node in reversed(model.graph):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            _let_go(node)
            model.graph.remove(node, safe=True)
    passes.RemoveUnusedNodesPass()(model)
    return before - len(model.graph.initializers)


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


def declared_shapes(graph: ir.Graph) -> list[ir.Shape | None]:
    """Return the shapes of a graph's outputs, as its file declares them."""
    return [None if value.shape is None else value.shape.copy() for value in graph.outputs]


def restore_shapes(graph: ir.Graph, declared: list[ir.Shape | None]) -> None:
    """Give the outputs the shapes they were declared with, and unname what inference named.

    Inference names the open sizes it cannot compute ``unk__0`` and so on. onnxruntime infers once
    more and makes up the same names for other sizes; where both meet, it takes two sizes for one
    and fails.
    """
    ir = import_onnx_ir()
    for value, shape in zip(graph.outputs, declared, strict=True):
        value.shape = shape
    for node in graph:
        for value in node.outputs:
            if value.shape is None or value.is_graph_output():
                continue
            named = [getattr(size, "value", size) for size in value.shape]
            if any(str(name).startswith(_MADE_UP) for name in named):
                value.shape = ir.Shape(
                    None if str(name).startswith(_MADE_UP) else name for name in named
                )
