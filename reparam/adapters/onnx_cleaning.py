"""What paddle2onnx leaves lying about in a graph, taken out; the function stays the same.

    before:  Constant, Identity, Conv -> Add(Reshape(bias)), computed shapes, unused initializers
    after:   initializers, Conv with its bias, Reshape to a constant

Names, dtypes and shapes of the graph's inputs and outputs stay, except that open axes and outputs
get the names that are asked for. Nothing in the file is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_axes import BATCH, name_open_axes
from reparam.adapters.onnx_bias import fold_biases
from reparam.adapters.onnx_model import import_onnx, op_counts, parse_model, refuse_external
from reparam.adapters.onnx_neutral import bypass_neutral
from reparam.adapters.onnx_repairs import Sizes, repair_graph
from reparam.adapters.onnx_shapes import inferred_sizes, simplify_reshapes
from reparam.errors import ExportError, MissingDependencyError

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Cleaned:
    """A cleaned model and what was done to it.

    Attributes:
        proto: the ``onnx.ModelProto``.
        before: nodes of each operator in the model as it came.
        after: the same in this one.
        repairs: what was done, in words, with counts.
    """

    proto: Any
    before: dict[str, int]
    after: dict[str, int]
    repairs: dict[str, int] = field(default_factory=dict)

    @property
    def model(self) -> bytes:
        """The bytes of the file; protobuf allows 2 GB of them."""
        return bytes(self.proto.SerializeToString())


def clean_model(
    model: Any,
    *,
    axes: Mapping[int, str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Cleaned:
    """Return the model without what the converter left lying about.

    Identity nodes are bypassed, Constant nodes become initializers, a per-channel Add after a
    Conv becomes its bias, a factor of 1 or a shift of 0 after it goes, a Reshape that copies axes
    gets a constant target, and what nothing reads goes. An Identity stays where it connects an
    input, an initializer or another output with an output, since ONNX has no other way to say it.

    Args:
        model: the bytes of the file, or what parsing made of them; it is not changed.
        axes: names of the open axes of inputs, by position; the first is ``batch`` if None.
        outputs: new names of the outputs, in order.

    Raises:
        ExportError: these bytes are not a valid model, or not a whole one; or the new names of
            outputs are not one for each, or are those of inputs or weights.
    """
    proto = parse_model(model)
    refuse_external(proto)
    _check_structure(proto)
    before = op_counts(proto)
    ir = import_onnx_ir()
    graph_model = ir.serde.deserialize_model(proto)
    resized = any(node.op_type == "Resize" for node in proto.graph.node)
    repairs = _simplify(graph_model, inferred_sizes(proto) if resized else {})
    if outputs is not None:
        rename_outputs(graph_model.graph, outputs)
    proto = ir.serde.serialize_model(graph_model)
    name_open_axes(proto, {0: BATCH} if axes is None else axes)
    return Cleaned(proto, before, op_counts(proto), repairs)


def import_onnx_ir() -> Any:
    """Return the ``onnx_ir`` module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx_ir
        import onnx_ir.passes.common
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx_ir":
            raise
        raise MissingDependencyError.of("onnx-ir", "cleaning an ONNX file", "export") from error
    # It tells every pass at level INFO, and importing paddle lets all of INFO through. To set a
    # level empties a cache of all loggers, and this is called for every tensor.
    log = logging.getLogger("onnx_ir")
    if log.level != logging.WARNING:
        log.setLevel(logging.WARNING)
    return onnx_ir


def _check_structure(proto: Any) -> None:
    onnx = import_onnx()
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            "the ONNX model is not valid", found=str(error).strip().splitlines()[0]
        ) from error


def _simplify(model: ir.Model, sizes: Sizes) -> dict[str, int]:
    """Clean a model in place; return how much of what was done."""
    passes = import_onnx_ir().passes.common
    graph = model.graph
    constants = sum(node.op_type == "Constant" for node in graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = constants - sum(node.op_type == "Constant" for node in graph)
    bypassed = _bypass_identities(graph)
    repaired = repair_graph(graph, sizes)
    folded = fold_biases(graph)
    neutral = bypass_neutral(graph)  # after: a shift that is left stays by the name it has
    reshapes = simplify_reshapes(graph)
    initializers = len(graph.initializers)
    passes.RemoveUnusedNodesPass()(model)
    unused = initializers - len(graph.initializers)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.NameFixPass()(model)
    done = {
        "Constant nodes made initializers": lifted,
        "Identity nodes bypassed": bypassed,
        "Add nodes made a bias of their Conv": folded,
        "factors of 1 and shifts of 0 bypassed": neutral,
        "computed Reshape targets made constants": reshapes,
        "unused initializers removed": unused,
        **repaired,
    }
    return {what: count for what, count in done.items() if count}


def _bypass_identities(graph: ir.Graph) -> int:
    """Bypass the Identity nodes of the main graph, and return how many.

    The pass of onnx-ir would give a value that is two outputs one name, and take out of a branch
    of an If the node that it needs to return a value from outside.
    """
    count = 0
    for node in list(graph):
        if node.op_type != "Identity" or node.domain != "":
            continue
        source, target = node.inputs[0], node.outputs[0]
        if source is None or not _may_stand_for(source, target):
            continue
        name, is_output = target.name, target.is_graph_output()
        if is_output:
            source.shape, source.type = target.shape, target.type
        target.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if is_output:
            source.name = name
        count += 1
    return count


def _may_stand_for(source: ir.Value, target: ir.Value) -> bool:
    if not target.is_graph_output():
        return True
    return source.producer() is not None and not source.is_graph_output()


def renamed_outputs(proto: Any, names: Sequence[str]) -> Any:
    """Return a copy of a model whose outputs have new names, in order.

    Raises:
        ExportError: as :func:`rename_outputs`.
    """
    ir = import_onnx_ir()
    model = ir.serde.deserialize_model(proto)
    rename_outputs(model.graph, names)
    return ir.serde.serialize_model(model)


def rename_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the outputs of a graph new names, in order.

    Raises:
        ExportError: there are not as many names as outputs, or one is that of an input or weight.
    """
    if len(names) != len(graph.outputs):
        raise ExportError(
            "the names are not those of the outputs",
            found=f"{len(names)} names; needed: {len(graph.outputs)}, in place of "
            + ", ".join(str(value.name) for value in graph.outputs),
        )
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    for name in names:
        if name in taken:
            raise ExportError(
                f"an output cannot be named '{name}'", found="an input or a weight of that name"
            )
    inside = [value for node in graph for value in node.outputs]
    used = {value.name for value in inside} | taken | set(names)
    for value in inside:
        if value.name in names and not value.is_graph_output():
            value.name = _unused(f"{value.name}.inside", used)
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _unused(base: str, used: set[str | None]) -> str:
    name, number = base, 0
    while name in used:
        number += 1
        name = f"{base}.{number}"
    used.add(name)
    return name
