"""A graph made ready: constants in one place, shapes known, nothing that nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.graph.constants import Constants

if TYPE_CHECKING:
    import onnx_ir as ir

    from reparam.graph.fusing import GraphReport, Options


def prepare(model: ir.Model, constants: Constants, options: Options, report: GraphReport) -> None:
    """Lift constants to initializers, take out what nothing reads, and infer shapes."""
    passes = import_onnx_ir().passes.common
    graph = model.graph
    before = sum(node.op_type == "Constant" for node in graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    after = sum(node.op_type == "Constant" for node in graph)
    report.count("Constant nodes made initializers", before - after)
    sweep(model)
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def sweep(model: ir.Model) -> int:
    """Take out nodes and initializers that nothing reads; return how many initializers."""
    passes: Any = import_onnx_ir().passes.common
    before = len(model.graph.initializers)
    passes.RemoveUnusedNodesPass()(model)
    return before - len(model.graph.initializers)
