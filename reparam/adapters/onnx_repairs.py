"""What the converter writes that a graph is better, or only valid, without; put right by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.onnx_constants import constant_of, register_constant

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGERS = (6, 7)  # int32 and int64, as ONNX counts types

VECTORS = "Squeezes that could leave a Gather a single number made Reshapes"

log = logging.getLogger("reparam.adapters")


Number = int | tuple[Any, int]
"""One size, or the value and the axis that it is of."""
Sizes = Mapping[str, Sequence[int | None]]
"""Of the axes of values, by name; None where one may be any."""


def repair_graph(graph: ir.Graph, sizes: Sizes) -> dict[str, int]:
    """Repair the main graph in place; return what was done, with counts.

    Args:
        graph: its constants are initializers.
        sizes: what is known of its values.
    """
    done = {
        VECTORS: keep_vectors(graph),
        "computed sizes of a Resize made constant scales": scale_resizes(graph, sizes),
    }
    for what, count in done.items():
        if count:
            log.info("%s: %d", what, count)
    return {what: count for what, count in done.items() if count}


def keep_vectors(graph: ir.Graph) -> int:
    """Keep the one axis of a vector that a Gather reads, however short it is; return how many.

        before:  indices (K, 3) -- Gather([i], axis 1) -- (K, 1) -- Squeeze ------- (K) -- Gather
        after:   indices (K, 3) -- Gather([i], axis 1) -- (K, 1) -- Reshape([-1]) - (K) -- Gather

    Converters before paddle2onnx 2 end a detector so. A Squeeze that is not told its axes takes
    them all where K is 1, and then the Gather has no axis to read from: onnxruntime stops with
    "data tensor must have rank >= 1", at the first image with one object, or as it loads the file.

    Exact when: the Squeeze names no axes and reads one column of a matrix; for any other K than 1
    both are the same.
    """
    count = 0
    for node in graph:
        squeeze = _producer(node.inputs[0], "Squeeze") if _is(node, "Gather") else None
        if squeeze is None or squeeze.graph is not graph or not _is_bare(squeeze):
            continue
        if _is_column(squeeze.inputs[0]):
            _make_reshape(graph, squeeze)
            count += 1
    return count


def scale_resizes(graph: ir.Graph, sizes: Sizes) -> int:
    """Write the sizes of a Resize, where these are multiples of its input's, as its scales.

        before:  x (N, C, 20, 20) -- Resize(sizes: Concat(Shape(x)[:2], [40, 40])) -- y
        after:   x (N, C, 20, 20) -- Resize(scales: [1, 1, 2, 2]) ------------------- y

    Exact when: each size is that of the same axis of the input, or both are known and the ratio of
    what it becomes to what it is is a number in float32, so that both ways find the same positions.

    Returns:
        how many were rewritten; what computed their sizes is left without readers.
    """
    count = 0
    for node in graph:
        scales = _scales(node, sizes) if _is(node, "Resize") else None
        if scales is not None:
            name = f"{node.name or node.outputs[0].name}.scales"
            node.replace_input_with(2, register_constant(graph, name, scales))
            node.resize_inputs(3)
            count += 1
    return count


def _scales(resize: ir.Node, known: Sizes) -> Any:
    data = resize.inputs[0]
    if len(resize.inputs) != 4 or data is None or "axes" in resize.attributes:
        return None
    policy = resize.attributes.get("keep_aspect_ratio_policy")
    if policy is not None and policy.as_string() != "stretch":
        return None
    sizes, target = known.get(str(data.name), ()), _numbers(resize.inputs[3], known)
    if target is None or len(target) != len(sizes):
        return None
    scales = []
    for axis, (size, wanted) in enumerate(zip(sizes, target, strict=True)):
        exact = Fraction(1) if wanted == (data, axis) else _ratio(wanted, size)
        if exact is None or Fraction(float(np.float32(float(exact)))) != exact:
            return None
        scales.append(float(exact))
    return np.array(scales, np.float32)


def _ratio(wanted: Number, size: int | None) -> Fraction | None:
    whole = isinstance(wanted, int) and wanted > 0 and size
    return Fraction(wanted, size) if whole else None  # type: ignore[arg-type]


def _numbers(value: ir.Value | None, known: Sizes) -> list[Number] | None:
    """Return the numbers in a vector of sizes, each as itself or as the axis that it is of."""
    constant = None if value is None else constant_of(value)
    if constant is not None:
        return [int(number) for number in constant.reshape(-1)]
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or node.inputs[0] is None:
        return None
    if node.op_type == "Cast" and node.attributes["to"].as_int() in _INTEGERS:
        return _numbers(node.inputs[0], known)
    if node.op_type == "Shape" and not node.attributes:
        sizes = known.get(str(node.inputs[0].name), ())
        return [size or (node.inputs[0], axis) for axis, size in enumerate(sizes)]
    if node.op_type == "Slice":
        return _cut(node, known)
    parts = [_numbers(part, known) for part in node.inputs] if node.op_type == "Concat" else [None]
    return None if None in parts else [number for part in parts for number in part or ()]


def _cut(cut: ir.Node, known: Sizes) -> list[Number] | None:
    whole = _numbers(cut.inputs[0], known)
    constants = [None if value is None else constant_of(value) for value in cut.inputs[1:]]
    found = [[None] if array is None else array.tolist() for array in constants]
    if whole is None or found[2:] not in ([], [[0]], [[0], [1]]) or [None] in found:
        return None
    return whole[found[0][0] : found[1][0]]


def _is_bare(squeeze: ir.Node) -> bool:
    """Whether a Squeeze is not told which axes to take."""
    given = [value for value in squeeze.inputs[1:] if value is not None]
    return not given and "axes" not in squeeze.attributes


def _is_column(value: ir.Value | None) -> bool:
    """Whether ``value`` is one column of the boxes that a suppression chose, or of their part."""
    gather = _producer(value, "Gather")
    if gather is None or gather.inputs[0] is None:
        return False
    axis = gather.attributes.get("axis")
    at = None if axis is None else axis.as_int()
    index = None if gather.inputs[1] is None else constant_of(gather.inputs[1])
    if at in (1, -1) and index is not None and index.shape == (1,):
        return _producer(gather.inputs[0], "NonMaxSuppression") is not None
    # Rows of such a column, as a filter of the background leaves them: (1, L, 1).
    rows = _producer(gather.inputs[1], "NonZero")
    return at in (None, 0) and rows is not None and _is_column(gather.inputs[0])


def _make_reshape(graph: ir.Graph, squeeze: ir.Node) -> None:
    import onnx_ir

    output = squeeze.outputs[0]
    target = register_constant(graph, f"{output.name}.vector", np.array([-1], np.int64))
    made = onnx_ir.node("Reshape", [squeeze.inputs[0], target], name=squeeze.name)
    vector, name = made.outputs[0], output.name
    vector.shape, vector.type = output.shape, output.type
    graph.insert_before(squeeze, made)
    output.replace_all_uses_with(vector, replace_graph_outputs=True)
    graph.remove(squeeze, safe=True)
    vector.name = name


def _is(node: ir.Node, operator: str) -> bool:
    return node.op_type == operator and node.domain == ""


def _producer(value: ir.Value | None, operator: str) -> Any:
    node = None if value is None else value.producer()
    return node if node is not None and _is(node, operator) else None
