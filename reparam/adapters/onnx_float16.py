"""A network in float16: weights rounded once, casts at its border where the interface stays.

before:  x -- Conv(weight) -- y                          all float32
after:   x -- Cast -- Conv(weight) -- Cast -- y          float16 between the casts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.onnx_model import import_onnx
from reparam.errors import ExportError

Array = npt.NDArray[Any]

LARGEST = 65504.0  # of float16
SMALLEST_NORMAL = 2.0**-14

# Operators that take float16 for every float input, in every opset from 11 on; of Resize, the
# scales are float32 whatever the image is.
_KNOWN = frozenset({"Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv"})
_KNOWN |= {"ConvTranspose", "Div", "Elu", "Erf", "Exp", "Flatten", "Gemm", "GlobalAveragePool"}
_KNOWN |= {"GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MatMul", "Max"}
_KNOWN |= {"MaxPool", "Min", "Mul", "Neg", "PRelu", "Pow", "ReduceMax", "ReduceMean", "ReduceSum"}
_KNOWN |= {"Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt"}
_KNOWN |= {"Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Rounding:
    """What rounding weights to float16 did to them.

    Attributes:
        values: weights in all.
        subnormal: those that float16 holds with fewer than 11 bits, being below 6.1e-05.
        zero: those that were not 0 and are.
    """

    values: int = 0
    subnormal: int = 0
    zero: int = 0

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            self.values + other.values, self.subnormal + other.subnormal, self.zero + other.zero
        )


def rounded_to_float16(name: str, array: Array) -> tuple[Array, Rounding]:
    """Return a weight rounded once to float16, and what that did.

    Raises:
        ExportError: a value is too large.
    """
    with np.errstate(over="ignore"):
        found = array.astype(np.float16)
    if not np.isfinite(found).all():
        index = tuple(map(int, np.unravel_index(int(np.argmax(np.abs(array))), array.shape)))
        raise ExportError(
            f"weight '{name}' does not fit float16",
            found=f"{array[index]:.6g} at {list(index)}; float16 ends at {LARGEST:g}",
            hint="--precision float32",
        )
    small = (found != 0) & (np.abs(found) < np.float16(SMALLEST_NORMAL))
    lost = (found == 0) & (array != 0)
    return found, Rounding(array.size, int(small.sum()), int(lost.sum()))


def to_float16(
    proto: Any, weights: Mapping[str, Array], keep_inputs: bool, keep_outputs: bool
) -> tuple[Any, Rounding]:
    """Return a float32 model as a float16 one, and what rounding its own initializers did.

    Args:
        proto: an ``onnx.ModelProto``; it is not changed.
        weights: values to round in place of the initializers of these names; inputs of these
            names are weights that come later, and get no cast.
        keep_inputs: leave inputs float32.
        keep_outputs: leave outputs float32.

    Raises:
        ExportError: a weight is too large, or an operator is not known to compute in float16.
    """
    onnx = import_onnx()
    unknown = sorted({node.op_type for node in proto.graph.node} - _KNOWN)
    if unknown:
        raise ExportError(
            "cannot export this network in float16",
            found=f"operators not known to compute in it: {', '.join(unknown)}",
        )
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    done, scales = Rounding(), _scales(model.graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in scales:
            held = weights.get(tensor.name, onnx.numpy_helper.to_array(tensor))
            array, found = rounded_to_float16(tensor.name, held)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            done += found
    del model.graph.value_info[:]
    images = [value for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    _border(model.graph, images if keep_inputs else [], outputs if keep_outputs else [])
    for value in (*([] if keep_inputs else images), *([] if keep_outputs else outputs)):
        _set_float16(value)
    return model, done


def _scales(graph: Any) -> set[str]:
    """Return the names of the constants that are scales of a Resize, which stay float32.

    Raises:
        ExportError: the scales are computed, or are read as something else, too.
    """
    read = [(node.op_type, at, name) for node in graph.node for at, name in enumerate(node.input)]
    found = {name for operator, at, name in read if (operator, at) == ("Resize", 2) and name}
    others = {name for operator, at, name in read if (operator, at) != ("Resize", 2)}
    wrong = found & others | found - {tensor.name for tensor in graph.initializer}
    if wrong:
        raise ExportError(
            "cannot export this network in float16",
            found=f"the scales of a Resize, '{min(wrong)}', are no constants of its own",
        )
    return found


def _border(graph: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Make the interface float16, but cast behind these inputs and before these outputs."""
    onnx = import_onnx()
    kept = [v for v in (*inputs, *outputs) if _is_float32(v)]
    renamed = {v.name: f"{v.name}.float16" for v in kept}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    nodes = list(graph.node)
    make, to16, to32 = onnx.helper.make_node, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    before = [
        make("Cast", [v.name], [renamed[v.name]], name=f"{v.name}.cast", to=to16)
        for v in inputs
        if v.name in renamed
    ]
    after = [
        make("Cast", [renamed[v.name]], [v.name], name=f"{v.name}.cast", to=to32)
        for v in outputs
        if v.name in renamed
    ]
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])


def _is_float32(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == import_onnx().TensorProto.FLOAT)


def _set_float16(value: Any) -> None:
    if _is_float32(value):
        value.type.tensor_type.elem_type = import_onnx().TensorProto.FLOAT16


def with_all_values(proto: Any, weights: set[str]) -> tuple[Any, dict[str, str]]:
    """Return a copy of a model that also outputs every value, and what makes each of them.

    Args:
        proto: an ``onnx.ModelProto``; it is not changed.
        weights: names of inputs that are weights; an operator is called after the one it reads.
    """
    onnx = import_onnx()
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    constants = weights | {tensor.name for tensor in model.graph.initializer}
    present = {value.name for value in model.graph.output}
    makers = {}
    for node in model.graph.node:
        named = next((name for name in node.input if name in constants), node.name)
        for name in node.output:
            makers[name] = f"{node.op_type} of '{named}'"
            if name not in present:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model, makers
