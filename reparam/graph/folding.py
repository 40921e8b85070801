"""Nodes that read constants alone, evaluated once: what they make becomes an initializer.

    before:  scale -+- Mul - Add(bias) - Conv's weight     (a parameter computed in the graph)
             mask  -+
    after:   weight, an initializer under the name that the last of them gave it

Exact when: what a node computes is the same in every run. Floats are computed in float64 and
rounded once, where the chain of nodes ends; what only moves elements keeps their bits. A node
whose result jumps (Floor, a comparison, a Cast to integers) is left where what it reads was
rounded here: on the other side of a jump the result would be another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.conv.rounding import BFLOAT16, bfloat16_bits, round_once
from reparam.errors import NotFusibleError
from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import Array, Call, Inputs, NotEvaluableError, call_of
from reparam.graph.evaluation_rules import QUANTIZED, RULES
from reparam.graph.folding_limits import elements, the_one

if TYPE_CHECKING:
    import onnx_ir as ir

GROWTH = 1 << 16
"""Bytes that a constant may be larger than what it is made of and nothing else reads."""
GROWTH_IN_ALL = 1 << 20
"""Bytes that all of them together may add to a file."""

_FLOATS = ("float64", "float32", "float16", BFLOAT16)

_MOVING = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
) | frozenset({"Transpose", "Unsqueeze", "Where"})
_JUMPING = frozenset({"And", "Ceil", "Equal", "Floor", "Greater", "Less", "Not", "Or"})
_CASTING = frozenset({"Cast", "CastLike"})
_COUNTING = frozenset({"ConstantOfShape", "Range", "Shape", "Size"})
_KNOWN = (RULES.keys() | _CASTING | {"Range"}) - QUANTIZED.keys() - {"Constant", "Dropout"}


@dataclass(frozen=True)
class _Made:
    """One output: what is stored, and what it was before it was rounded."""

    stored: Array
    exact: Array | None = None


def lift_constants(graph: ir.Graph) -> int:
    """Make the Constant nodes of the main graph initializers of the same name; return how many.

    Texts and sparse tensors stay, and so does what is an output of the graph.
    """
    import onnx_ir

    count = 0
    for node in list(graph):
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            continue
        output, tensor = node.outputs[0], _tensor_of(node)
        if tensor is None or output.is_graph_output() or not output.name:
            continue
        value = onnx_ir.Value(
            name=output.name,
            shape=onnx_ir.Shape(tensor.shape.numpy()),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        output.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        graph.register_initializer(value)
        count += 1
    return count


def _tensor_of(node: ir.Node) -> ir.TensorProtocol | None:
    import onnx_ir

    if len(node.attributes) != 1:
        return None
    ((name, attribute),) = node.attributes.items()
    if attribute.is_ref():
        return None  # of a function around it
    if name == "value":
        return attribute.as_tensor()
    kinds = {"value_float": np.float32, "value_floats": np.float32,
             "value_int": np.int64, "value_ints": np.int64}  # fmt: skip
    kind = kinds.get(name)
    return None if kind is None else onnx_ir.tensor(np.asarray(attribute.value, kind))


class Folder:
    """Evaluates the nodes of a main graph that read constants alone.

    Args:
        graph: nothing inside its subgraphs is touched, and what they read stays.
        constants: of it.
    """

    def __init__(self, graph: ir.Graph, constants: Constants) -> None:
        self._graph, self._constants = graph, constants
        self._room = GROWTH_IN_ALL

    def fold(self) -> int:
        """Evaluate every node that can be; return how many."""
        return sum(self._fold(node) for node in list(self._graph))

    def _fold(self, node: ir.Node) -> bool:
        if not self._reads_constants_alone(node) or not self._may_go(node):
            return False
        if node.op_type == "Identity" and node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0])  # one weight, not two alike
            self._graph.remove(node, safe=True)
            return True
        try:
            call = call_of(node, self._constants.opset)
            growth = self._growth(node, call)
            if growth > min(GROWTH, self._room):
                return False
            made = self._made(node, call)
        except (NotEvaluableError, NotFusibleError):
            return False
        except (ValueError, IndexError, TypeError, ArithmeticError, AssertionError):
            return False  # shapes or types that do not go together: for the runtime to refuse
        self._room -= max(growth, 0)
        for output, one in zip(node.outputs, made, strict=False):
            if output.name and output.uses():
                self._constants.stand_in(output, one.stored, one.exact)
        self._graph.remove(node, safe=True)
        return True

    def _reads_constants_alone(self, node: ir.Node) -> bool:
        return (
            node.op_type in _KNOWN
            and node.domain in ("", "ai.onnx")
            and bool(node.inputs)
            and all(value is None or self._constants.known(value) for value in node.inputs)
        )

    def _may_go(self, node: ir.Node) -> bool:
        """Whether nothing but nodes of the main graph reads what a node makes."""
        return not any(output.is_graph_output() for output in node.outputs) and all(
            use.node.graph is self._graph for output in node.outputs for use in output.uses()
        )

    def _growth(self, node: ir.Node, call: Call) -> int:
        """Return the bytes that a file grows by, before anything is computed."""
        inputs = [self._constants.shape(value) for value in node.inputs]
        shapes = [shape for shape in inputs if shape is not None]
        small = [self._small(value) for value in node.inputs]
        size = _item_size(node)
        made = size * elements(node, call, shapes, small)
        freed = sum(
            value.const_value.nbytes
            for value in set(node.inputs)
            if value is not None
            and value.const_value is not None
            and all(use.node is node for use in value.uses())
        )
        return int(made - freed)

    def _small(self, value: ir.Value | None) -> Array | None:
        """Return a constant that may be a shape or a position, in full."""
        shape = self._constants.shape(value)
        if shape is None or len(shape) > 1 or prod(shape) > 64:
            return None
        return self._constants.get(value)

    def _made(self, node: ir.Node, call: Call) -> Sequence[_Made]:
        stored = [self._constants.get(value) for value in node.inputs]
        for array in stored:
            # a float8 of ml_dtypes is of the kind "f", too, and is none of those known here
            if array is not None and array.dtype.kind not in "iub" and not _is_float(array):
                raise NotEvaluableError(f"values of the dtype {array.dtype}")
        rounded = any(v is not None and self._constants.is_rounded(v) for v in node.inputs)
        if call.operator in _MOVING:
            moved = _applied(call, stored)
            if not rounded:
                return [_Made(array) for array in moved]
            exact = _applied(call, self._exact(node, stored))
            return [_Made(*pair) for pair in zip(moved, exact, strict=True)]
        if call.operator in _CASTING:
            return [self._cast(node, stored[0], rounded)]
        if call.operator in _JUMPING and rounded:
            raise NotEvaluableError("rounding may have carried an input over a jump")
        return self._computed(node, call, stored, rounded)

    def _exact(self, node: ir.Node, stored: Inputs) -> list[Array | None]:
        return [
            self._constants.exact(value) if value is not None and _is_float(array) else array
            for value, array in zip(node.inputs, stored, strict=True)
        ]

    def _computed(
        self, node: ir.Node, call: Call, stored: Inputs, rounded: bool
    ) -> Sequence[_Made]:
        _refuse_undefined(call, stored)
        dtype = _dtype(node, stored)
        results = _applied(call, [_wide(array) for array in self._exact(node, stored)])
        if dtype.name not in _FLOATS:
            if dtype.kind in "iu" and any(array.dtype.kind == "f" for array in results):
                raise NotEvaluableError("a function of floats, given integers")
            return [_Made(array.astype(dtype)) for array in results]
        made = []
        for array in results:
            narrow, _ = round_once(np.asarray(array, np.float64), dtype)
            if narrow.dtype != dtype:
                narrow = narrow.view(dtype)
            same = not rounded and bool((narrow.astype(np.float64) == array).all())
            made.append(_Made(narrow, None if same else array))
        return made

    def _cast(self, node: ir.Node, stored: Array | None, rounded: bool) -> _Made:
        assert stored is not None
        assert node.inputs[0] is not None
        target = _element_type(node)
        if target.name in _FLOATS:
            if not _is_float(stored):
                exact = stored.astype(np.float64)
                return _Made(_narrowed(exact, target))
            if target.itemsize > stored.dtype.itemsize:  # a wider one holds what is exact better
                if not rounded:
                    return _Made(stored.astype(target))
                exact = self._constants.exact(node.inputs[0])
                return _Made(round_once(exact, target)[0], exact)
            found = _narrowed(stored.astype(np.float64), target)
            # To round is what it is for; that what it read was computed here is still so.
            return _Made(found, found.astype(np.float64) if rounded else None)
        if _is_float(stored) and target.kind != "b":
            if rounded:
                raise NotEvaluableError("rounding may have carried an input over a jump")
            limits = np.iinfo(target)
            wide = np.trunc(stored.astype(np.float64))
            if not ((wide >= limits.min) & (wide <= limits.max)).all():
                raise NotEvaluableError("a number that the integers do not reach")
        elif _is_float(stored) and rounded:
            raise NotEvaluableError("rounding may have carried an input over a jump")
        return _Made(stored.astype(target))


def _applied(call: Call, inputs: Inputs) -> Sequence[Array]:
    own = {"Range": _range}.get(call.operator)
    with np.errstate(all="ignore"):  # what is not finite is refused where it is rounded
        found = (own or RULES[call.operator])(call, inputs)
    return found if isinstance(found, tuple) else (found,)


def _range(_: Call, inputs: Inputs) -> Array:
    start, limit, delta = (the_one(array) for array in inputs)
    if start.dtype.kind == "f":
        raise NotEvaluableError("Range: of floats, whose number of steps depends on rounding")
    return np.arange(start, limit, delta, dtype=np.int64)


def _item_size(node: ir.Node) -> float:
    """Return how many bytes an element takes that a node makes, at most."""
    if node.op_type in _COUNTING:
        return 8
    if node.op_type in _CASTING:
        return _element_type(node).itemsize
    first = node.inputs[1 if node.op_type == "Where" else 0]
    return 8 if first is None or first.const_value is None else first.const_value.dtype.itemsize


def _refuse_undefined(call: Call, stored: Inputs) -> None:
    divisor = stored[1] if call.operator == "Div" else None
    if divisor is not None and divisor.dtype.kind in "iu" and not divisor.all():
        raise NotEvaluableError("a division of integers by zero")
    if call.operator.startswith("Reduce") and _runs_over(stored[0]):
        raise NotEvaluableError("a sum that the integers do not reach")
    if call.operator == "Pow" and any(a is not None and a.dtype.kind in "iu" for a in stored):
        raise NotEvaluableError("a power of integers")


def _runs_over(array: Array | None) -> bool:
    """Whether a sum of integers may not fit: it wraps in one runtime, and ends in another."""
    if array is None or array.dtype.kind not in "iu":
        return False
    return float(np.abs(array.astype(np.float64)).sum()) > np.iinfo(array.dtype).max


def _dtype(node: ir.Node, stored: Inputs) -> np.dtype[Any]:
    """Return the dtype of what an operator computes."""
    if node.op_type in _JUMPING - {"Ceil", "Floor"}:
        return np.dtype(bool)
    if node.op_type in ("Shape", "Size"):
        return np.dtype(np.int64)
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        found: np.dtype[Any] = np.dtype(np.float32)
        return found if value is None else value.as_tensor().dtype.numpy()
    first = stored[0]
    assert first is not None
    return first.dtype


def _element_type(node: ir.Node) -> np.dtype[Any]:
    """Return the dtype that a Cast makes."""
    import onnx_ir

    like = node.inputs[1].dtype if len(node.inputs) > 1 and node.inputs[1] is not None else None
    target = onnx_ir.DataType(readers.integer(node, "to", int(like or 0))).numpy()
    if target.name not in _FLOATS and target.kind not in "iub":
        raise NotEvaluableError(f"a Cast to {target}")
    return target


def _narrowed(exact: Array, target: np.dtype[Any]) -> Array:
    """Return numbers rounded as a Cast does it, the subnormal ones kept."""
    with np.errstate(over="ignore"):
        bits = target.name == BFLOAT16
        found: Array = bfloat16_bits(exact).view(target) if bits else exact.astype(target)
    if not np.isfinite(found.astype(np.float64)).all():
        raise NotEvaluableError("a number that the dtype does not reach")
    return found


def _is_float(array: Array | None) -> bool:
    return array is not None and array.dtype.name in _FLOATS


def _wide(array: Array | None) -> Array | None:
    if array is None or array.dtype.kind == "b" or array.dtype in (np.float64, np.uint64):
        return array
    return array.astype(np.float64 if _is_float(array) else np.int64)
