"""What an ONNX graph means in float64, in plain NumPy, and how far a right rewrite may be off.

Independent of the product: tests compare a graph before and after fusing by this file, and this
file with onnxruntime. Every value is carried with the magnitude that its rounding errors are
relative to, and with the number of roundings on the longest path to it:

    |after - before| <= roundings * u * magnitude + roundings * tiny * (1 + max|x|) * taps

u and tiny are of the dtype that weights are stored in. The magnitude is the graph evaluated with
absolute values; behind what is not linear it grows by the function's Lipschitz constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from reparam.conv.bounds import SMALLEST_NORMAL, UNIT_ROUNDOFF

Array = np.ndarray
Attributes = dict[str, Any]


class Quantity(NamedTuple):
    """A value, what its rounding errors are relative to, and how many there may be.

    ``roundings`` is 0 for what is computed from constants alone.
    """

    value: Array
    size: Array
    roundings: int = 0


def constant(value: Any) -> Quantity:
    array = np.asarray(value)
    if array.dtype.kind not in "iub":
        array = array.astype(np.float64)
    return Quantity(array, np.abs(array) if array.dtype.kind == "f" else array)


def array_of(tensor: onnx.TensorProto) -> Array:
    """Return the numbers of a tensor; onnx 1.17 gives those of bfloat16 as their bits."""
    if tensor.data_type == onnx.TensorProto.BFLOAT16 and tensor.raw_data:
        import ml_dtypes

        flat = np.frombuffer(tensor.raw_data, ml_dtypes.bfloat16)
        return flat.reshape(tuple(tensor.dims)).astype(np.float64)
    return numpy_helper.to_array(tensor)


def evaluate(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    watch: Callable[[Any, list[Any], list[Quantity]], None] | None = None,
) -> dict[str, Quantity]:
    """Return every output of the model by name; ``watch`` sees each node with its values."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    known = {name: fed(array) for name, array in feeds.items()}
    return run_graph(model.graph, known, opset, watch)


def fed(array: Array) -> Quantity:
    given = constant(array)
    return given._replace(roundings=1)


def run_graph(
    graph: onnx.GraphProto, outer: Mapping[str, Quantity], opset: int, watch: Any = None
) -> dict[str, Quantity]:
    known = {tensor.name: constant(array_of(tensor)) for tensor in graph.initializer}
    known = {**known, **outer}
    for node in graph.node:
        given = [known[name] if name else None for name in node.input]
        results = run_node(node, given, opset, known)
        known.update(zip(node.output, results, strict=False))
        if watch is not None:
            watch(node, given, results)
    return {value.name: known[value.name] for value in graph.output}


def run_node(
    node: onnx.NodeProto, given: list[Any], opset: int, known: Mapping[str, Quantity]
) -> list[Quantity]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "If":
        branch = "then_branch" if bool(given[0].value.item()) else "else_branch"
        return list(run_graph(attributes[branch], known, opset).values())
    from tests.graph.truth_operators import OPERATORS

    found = OPERATORS[node.op_type](attributes, given, opset)
    results = found if isinstance(found, list) else [found]
    counts = [part.roundings for part in given if part is not None]
    if not any(counts):
        return [result._replace(roundings=0) for result in results]
    multiplied = node.op_type in ("Mul", "MatMul", "Div", "Gemm")
    count = 1 + (sum(counts) if multiplied else max(counts))
    return [result._replace(roundings=count) for result in results]


def excess(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Mapping[str, Array],
    dtype: str = "float32",
) -> float:
    """Return how many times the bound the worst output is off; at most 1 for a right rewrite.

    Other names or shapes of outputs are wrong without measure, and so is NaN.
    """
    return off_by(evaluate(before, feeds), evaluate(after, feeds), feeds, dtype)


def off_by(
    expected: Mapping[str, Quantity],
    found: Mapping[str, Quantity],
    feeds: Mapping[str, Array],
    dtype: str,
) -> float:
    """Return :func:`excess` of outputs that are evaluated already."""
    if list(expected) != list(found):
        return np.inf
    return max(
        (_excess(expected[name], found[name], feeds, dtype) for name in expected), default=0.0
    )


def _excess(expected: Quantity, found: Quantity, feeds: Mapping[str, Array], dtype: str) -> float:
    if expected.value.shape != found.value.shape:
        return np.inf
    largest = max(
        (float(np.abs(x).max(initial=0)) for x in feeds.values() if x.dtype != bool), default=0
    )
    tiny = SMALLEST_NORMAL[dtype] * _TAPS * (1 + largest)
    bound = expected.roundings * (UNIT_ROUNDOFF[dtype] * expected.size + tiny)
    off = np.abs(found.value - expected.value) / np.maximum(bound, np.finfo(float).tiny)
    return np.inf if np.isnan(off).any() else float(off.max(initial=0.0))


_TAPS = 256  # of the kernels of these tests, about


class Cost(NamedTuple):
    macs: int
    nodes: int


def cost(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Cost:
    """Return the MACs and the nodes of convolutions and matrix products on the given probe."""
    return measured(model, feeds)[1]


def measured(
    model: onnx.ModelProto, feeds: Mapping[str, Array]
) -> tuple[dict[str, Quantity], Cost]:
    """Return the outputs and the cost of one evaluation, which is what takes the time."""
    found = [0, 0]

    def watch(node: Any, given: Sequence[Any], results: list[Quantity]) -> None:
        if node.op_type not in _PRODUCTS or not results[0].roundings:
            return
        found[0] += _PRODUCTS[node.op_type](given, results[0])
        found[1] += 1

    outputs = evaluate(model, feeds, watch)
    return outputs, Cost(*found)


_PRODUCTS: dict[str, Callable[[Sequence[Any], Quantity], int]] = {
    "Conv": lambda given, y: y.value.size * given[1].value[0].size,
    "ConvTranspose": lambda given, y: given[0].value.size * given[1].value[0].size,
    "MatMul": lambda given, y: y.value.size * given[0].value.shape[-1],
    "Gemm": lambda given, y: y.value.size * (given[1].value.size // y.value.shape[-1]),
}
