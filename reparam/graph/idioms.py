"""Runtime idioms: nodes that the runtime computes as one, and that are left whole for it.

Folding the last factor of a decomposed GELU into the next convolution saves a node and costs time:
what is left no longer looks like a GELU. So these are found before any form starts. They are those
that the CPU optimiser of onnxruntime 1.32 makes one node of (what it writes as
``optimized_model_filepath``), and no others:

    GELU        x * 0.5 * (1 + Erf(x / sqrt(2))), with the 0.5 last, or on x first
    quick GELU  x * Sigmoid(k * x)
    layer norm  (x - mean) / Sqrt(mean((x - mean)^2) + eps) * gamma + beta over the last axes, the
                square a Pow, gamma and beta vectors; both are needed
    RMS norm    x / Sqrt(mean(x^2) + eps) * gamma in the same form, beta or not

Not among them, since that optimiser leaves them as they are: a GELU that multiplies by 1/sqrt(2),
divides by 2 or halves 1 + Erf; every form with Tanh; layer norm without gamma, over the channels
of an image, with Reciprocal, or with a Mul for the square; instance norm; Softplus, HardSwish and
Mish in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from reparam.graph import readers
from reparam.graph.constants import Constants

if TYPE_CHECKING:
    import onnx_ir as ir

    from reparam.graph.forms import Form

_SQRT2 = 2.0**0.5
_CLOSE = 1e-3  # relative: a constant that was written with fewer digits is the same one

_KERNELS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_JOINED = frozenset({"Add", "BatchNormalization", "Mul"})  # what onnxruntime folds into them
_CARRIED = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze"})
_CARRIED |= {"Transpose", "Unsqueeze"}  # what it swaps with QuantizeLinear and DequantizeLinear
_CLIPPING = frozenset({"Clip", "Relu"})

Nodes: TypeAlias = "tuple[ir.Node, ...]"


def left_whole(
    graph: ir.Graph, constants: Constants, without: Collection[str] = ()
) -> dict[ir.Node, str]:
    """Return the nodes to leave whole, each with the reason in words.

    Args:
        without: names of passes that are switched off.
    """
    part = "it is part of {}, which runtimes know as one operator, and run faster whole"
    found = {} if "idioms" in without else idioms(graph, constants)
    whole = {node: part.format(name) for node, name in found.items()}
    # Nothing is gained where nothing is computed, and there is no probe to prove it on.
    whole.update(dict.fromkeys(filter(_has_no_elements, graph), "it has values without elements"))
    return whole


QUANTIZED = (
    "it stands between DequantizeLinear and QuantizeLinear, where onnxruntime rounds the weights "
    "of one operator to 8 bits, and does not those of several"
)


def is_quantized_by_runtime(form: Form, nodes: Nodes, output: ir.Value) -> bool:
    """Whether onnxruntime would round the weights of the one operator that nodes become.

    Of its own accord it does so with one Conv, ConvTranspose or Gemm that reads what was quantized
    and is read to be quantized. It makes one of a convolution and what follows it in a line; such
    regions it rounds whether they are fused or not. Source: onnxruntime 1.32, the transformers
    WeightBiasQuantization and QDQPropagation.
    """
    return (
        _comes_from_quantized(form.source)
        and any(node.op_type in _KERNELS for node in nodes)
        and _goes_to_quantized(output, {})
        and not any(_is_quantized(node) for node in nodes)
    )


def quantizes_more(
    old: Sequence[ir.Node], new: Sequence[ir.Node], now: Mapping[ir.Value, ir.Value]
) -> bool:
    """Whether onnxruntime would round weights of new nodes to 8 bits, and rounds none of the old.

    Args:
        old: what is in the graph.
        new: what will be in its place.
        now: of what the old nodes make, what the new ones make instead.
    """
    if not any(node.op_type in _KERNELS for node in new):
        return False
    readers: dict[ir.Value, list[ir.Node]] = {}
    for value, made in now.items():  # one may stand for several, as where a factor is gone
        nodes = [use.node for use in value.uses()]
        readers.setdefault(made, []).extend(node for node in nodes if node not in old)
    return any(_is_quantized(node, readers) for node in new) and not any(map(_is_quantized, old))


def _is_quantized(node: ir.Node, also: Mapping[ir.Value, list[ir.Node]] | None = None) -> bool:
    """Whether onnxruntime rounds the weights of a node to 8 bits; ``also`` are readers to come."""
    source = node.inputs[0] if node.op_type in _KERNELS else None
    return (
        source is not None
        and _comes_from_quantized(source)
        and _goes_to_quantized(node.outputs[0], also or {})
    )


def _comes_from_quantized(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in _CARRIED and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _goes_to_quantized(value: ir.Value, also: Mapping[ir.Value, list[ir.Node]]) -> bool:
    waiting, seen = [(value, True)], {value}
    while waiting:
        value, next_to_kernel = waiting.pop()
        for node in (*(use.node for use in value.uses()), *also.get(value, ())):
            if node.op_type == "QuantizeLinear":
                return True
            folded = next_to_kernel and _is_folded(node, value)
            passes = folded or node.op_type in _CARRIED or node.op_type in _CLIPPING
            if passes and node.outputs[0] not in seen:
                waiting.append((node.outputs[0], folded))
                seen.add(node.outputs[0])
    return False


def _is_folded(node: ir.Node, value: ir.Value) -> bool:
    """Whether onnxruntime folds a node into the convolution that makes what it reads."""
    others = (v for v in node.inputs if v is not None and v is not value)
    return node.op_type in _JOINED and all(v.const_value is not None for v in others)


def _has_no_elements(node: ir.Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return any(v is not None and v.shape is not None and 0 in v.shape for v in values)


def idioms(graph: ir.Graph, constants: Constants) -> dict[ir.Node, str]:
    """Return the nodes of every idiom, each with the name of what it is part of."""
    found: dict[ir.Node, str] = {}
    for node in graph:
        match = _MATCHES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if match is None:
            continue
        name, look = match
        found.update(dict.fromkeys(look(node, constants) or (), name))
    return found


def _gelu(erf: ir.Node, constants: Constants) -> Nodes | None:
    division = _maker(erf.inputs[0], "Div")
    plus = _reader(erf, "Add")
    if division is None or plus is None or not _is(constants, division.inputs[1], _SQRT2):
        return None
    product, x = _reader(plus, "Mul"), division.inputs[0]
    if product is None or not _is(constants, _other(plus, erf.outputs[0]), 1.0):
        return None
    factor = _other(product, plus.outputs[0])
    if factor is x:
        half = _reader(product, "Mul")
        if half is None or not _is(constants, _other(half, product.outputs[0]), 0.5):
            return None
    else:
        half = _maker(factor, "Mul")
        if half is None or not _is(constants, _other(half, x), 0.5):
            return None
    return division, erf, plus, product, half


def _quick_gelu(sigmoid: ir.Node, constants: Constants) -> Nodes | None:
    factor, product = _maker(sigmoid.inputs[0], "Mul"), _reader(sigmoid, "Mul")
    if factor is None or product is None:
        return None
    x = _other(product, sigmoid.outputs[0])
    scale = constants.get(_other(factor, x))
    return (factor, sigmoid, product) if scale is not None and scale.size == 1 else None


def _normalisation(root: ir.Node, constants: Constants) -> Nodes | None:
    """Both norms: with a difference from the mean in front it is a layer norm."""
    plus = _maker(root.inputs[0], "Add")
    moving = [value for value in plus.inputs if not constants.known(value)] if plus else []
    mean = _maker(moving[0], "ReduceMean") if len(moving) == 1 else None
    square = None if mean is None else _maker(mean.inputs[0], "Pow")
    quotient = _reader(root, "Div")
    if plus is None or mean is None or square is None or quotient is None:
        return None
    gain = _reader(quotient, "Mul")
    if (
        gain is None
        or quotient.inputs[1] is not root.outputs[0]
        or not _is(constants, square.inputs[1], 2.0)
        or not _is_one(constants, _other(plus, mean.outputs[0]))
        or not _is_vector(constants, _other(gain, quotient.outputs[0]))
        or not _is_over_the_last(mean, constants)
    ):
        return None
    nodes = (square, mean, plus, root, quotient, gain)
    centre = _centre(square, quotient)
    if centre is None:
        return nodes if square.inputs[0] is quotient.inputs[0] else None
    shift = _reader(gain, "Add")
    if shift is not None and _is_vector(constants, _other(shift, gain.outputs[0])):
        return (*nodes, *centre, shift)
    return nodes  # what is left is an RMS norm of the difference


def _centre(square: ir.Node, quotient: ir.Node) -> Nodes | None:
    """Return the Sub and the ReduceMean of a layer norm; some exporters write the Sub twice."""
    first, second = _maker_of_any(square.inputs[0]), _maker_of_any(quotient.inputs[0])
    if first is None or second is None or first.op_type != "Sub" or second.op_type != "Sub":
        return None
    if list(first.inputs) != list(second.inputs):
        return None
    mean = _maker_of_any(first.inputs[1])
    if mean is None or mean.op_type != "ReduceMean" or mean.inputs[0] is not first.inputs[0]:
        return None
    return tuple(dict.fromkeys((mean, first, second)))


def _is_over_the_last(mean: ir.Node, constants: Constants) -> bool:
    axes = readers.integers(mean, "axes")
    if axes is None and len(mean.inputs) > 1:
        given = constants.get(mean.inputs[1])
        axes = None if given is None else tuple(int(axis) for axis in given.reshape(-1))
    rank = readers.rank_of(mean.inputs[0])
    if not axes or (rank is None and max(axes) >= 0):
        return False
    last = sorted(axis if axis < 0 else axis - (rank or 0) for axis in axes)
    return last == list(range(-len(last), 0)) and bool(readers.integer(mean, "keepdims", 1))


def _maker_of_any(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _maker(value: ir.Value | None, operator: str) -> ir.Node | None:
    """Return the node that makes a value for one reader alone, if it is of an operator."""
    node = _maker_of_any(value)
    if node is None or node.op_type != operator or _reader(node) is None:
        return None
    return node


def _reader(node: ir.Node, operator: str = "") -> ir.Node | None:
    """Return the only reader of what a node makes."""
    value = node.outputs[0]
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    reader = next(iter(uses)).node
    return reader if operator in ("", reader.op_type) else None


def _other(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Return the other of two operands; None where neither is ``value``."""
    if len(node.inputs) != 2 or value is None or value not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _is(constants: Constants, value: ir.Value | None, number: float) -> bool:
    found = constants.get(value)
    return found is not None and found.size == 1 and bool(
        np.abs(float(found.reshape(-1)[0]) - number) <= _CLOSE * number
    )  # fmt: skip


def _is_one(constants: Constants, value: ir.Value | None) -> bool:
    shape = constants.shape(value)
    return shape is not None and all(size == 1 for size in shape)


def _is_vector(constants: Constants, value: ir.Value | None) -> bool:
    shape = constants.shape(value)
    return shape is not None and len(shape) >= 1 and max(shape, default=1) > 1


_MATCHES: dict[str, tuple[str, Callable[[ir.Node, Constants], Nodes | None]]] = {
    "Erf": ("GELU", _gelu),
    "Sigmoid": ("quick GELU", _quick_gelu),
    "Sqrt": ("layer normalisation", _normalisation),
}
