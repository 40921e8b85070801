"""One node as the evaluator sees it: its operator, its attributes, its version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]
Inputs = Sequence[Array | None]


class NotEvaluableError(Exception):
    """A node has no meaning here: an operator, a mode or a shape that the evaluator lacks."""


@dataclass(frozen=True)
class Call:
    """A node without its inputs.

    Attributes:
        operator: name, of the standard domain.
        attributes: Python values; a tensor is an array.
        opset: version of the standard domain that gives the operator its meaning.
        outputs: how many are asked for; an empty name at the end asks for nothing.
    """

    operator: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        found = self.attributes.get(name)
        return tuple(default) if found is None else tuple(int(value) for value in found)

    def int(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def float(self, name: str, default: float) -> float:
        """Return an attribute as a file holds it: in float32, whatever made the node."""
        return float(np.float32(self.attributes.get(name, default)))

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default))

    def refuse(self, reason: str) -> NotEvaluableError:
        return NotEvaluableError(f"{self.operator}: {reason}")


Rule = Callable[[Call, Inputs], Array | tuple[Array, ...]]
"""The outputs of an operator from its inputs, floats all in float64."""

MagnitudeRule = Callable[[Call, Inputs, Inputs], Array | tuple[Array, ...]]
"""The same where every value is its magnitude: from the magnitudes, then the plain inputs."""

CountRule = Callable[[Call, Inputs], int]
"""The roundings that one output element takes on its longest path through the operator."""


def call_of(node: ir.Node, opset: int) -> Call:
    """Return what ``node`` is called with.

    Raises:
        NotEvaluableError: another domain, a subgraph, or an attribute of a function around it.
    """
    if node.domain not in ("", "ai.onnx"):
        raise NotEvaluableError(f"{node.op_type} of the domain '{node.domain}'")
    attributes = {name: _plain(attribute) for name, attribute in node.attributes.items()}
    named = [at for at, output in enumerate(node.outputs, 1) if output.name != ""]
    return Call(node.op_type, attributes, opset, max(named, default=0))


def _plain(attribute: ir.Attr) -> Any:
    if attribute.is_ref() or attribute.type.name in ("GRAPH", "GRAPHS", "SPARSE_TENSOR"):
        raise NotEvaluableError(f"the attribute '{attribute.name}' is {attribute.type.name}")
    if attribute.type.name == "TENSOR":
        return as_array(attribute.value)
    return attribute.value


def as_array(tensor: Any) -> Array:
    """Return a tensor with its floats in float64, its integers in int64.

    Raises:
        NotEvaluableError: it holds texts, or complex numbers.
    """
    return widened(np.asarray(tensor.numpy()))


def widened(array: Array) -> Array:
    """Return an array in the one dtype that its kind is computed in.

    Raises:
        NotEvaluableError: it holds texts, or complex numbers.
    """
    kind = array.dtype.kind
    if kind == "b" or array.dtype in (np.float64, np.int64, np.uint64):
        return array
    if kind in "iu":
        return array.astype(np.int64)
    if kind == "f" or kind == "V" or array.dtype.name.startswith(("bfloat", "float")):
        return array.astype(np.float64)
    raise NotEvaluableError(f"values of the dtype {array.dtype}")


def need(call: Call, inputs: Inputs, position: int) -> Array:
    """Return an input that must be there."""
    found = inputs[position] if position < len(inputs) else None
    if found is None:
        raise call.refuse(f"has no input {position}")
    return found


def given(inputs: Inputs, position: int) -> Array | None:
    """Return an input that may be absent."""
    return inputs[position] if position < len(inputs) else None


def integers(array: Array) -> tuple[int, ...]:
    """Return an array of integers as Python values."""
    return tuple(int(value) for value in array.reshape(-1))


def axis_within(call: Call, axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        NotEvaluableError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise call.refuse(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank if rank else 0
