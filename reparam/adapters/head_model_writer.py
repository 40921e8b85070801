"""Writing small ONNX graphs node by node, in operators that mean the same in opsets 11 to 21."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.onnx_model import import_onnx

Array = npt.NDArray[Any]

FLOAT, INT64 = np.float32, np.int64


class GraphWriter:
    """Nodes and constants of a graph that is being written. Values are told by their names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self._onnx = import_onnx()

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        self.outputs(operator, inputs, [output], **attributes)
        return output

    def outputs(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node with any outputs, named after the last of them."""
        made = self._onnx.helper.make_node(
            operator, inputs, outputs, name=outputs[-1], **attributes
        )
        self.nodes.append(made)

    def constant(self, name: str, value: Any, dtype: npt.DTypeLike = INT64) -> str:
        """Add a constant and return its name; the same name with the same value is one constant."""
        array = np.asarray(value, dtype=dtype)
        known = self.constants.setdefault(name, array)
        if known.dtype != array.dtype or not np.array_equal(known, array):
            raise ValueError(f"constant '{name}' has two values")
        return name

    def cast(self, value: str, dtype: npt.DTypeLike, output: str) -> str:
        """Convert a value to another type."""
        to = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", [value], output, to=to)

    def filled(self, shape: str, value: Any, dtype: npt.DTypeLike, output: str) -> str:
        """Make a tensor of one value; its shape is another value."""
        tensor = self._onnx.numpy_helper.from_array(np.asarray([value], dtype=dtype))
        return self.node("ConstantOfShape", [shape], output, value=tensor)

    def dims(self, value: str, first: int, last: int, output: str) -> str:
        """Return the dimensions of a value from ``first`` to before ``last``, as a vector."""
        shape = self.node("Shape", [value], f"{output}_of")
        return self.slice(shape, first, last, output)

    def slice(self, value: str, first: int, last: int, output: str) -> str:
        """Return a part of the first axis of a value."""
        bounds = [self.constant(f"at_{at}", [at]) for at in (first, last)]
        return self.node("Slice", [value, *bounds, self.constant("at_0", [0])], output)

    def counting(self, length: str, output: str) -> str:
        """Return 0, 1, 2 ... in int64; the length is a vector of one number."""
        ones = self.filled(length, 1, INT64, f"{output}_ones")
        axis = self.constant("axis_0", 0)
        return self.node("CumSum", [ones, axis], output, exclusive=1)

    def model(
        self, inputs: Sequence[Any], outputs: Sequence[Any], inner: Sequence[Any], opset: int
    ) -> Any:
        """Return the ``onnx.ModelProto``; inputs, outputs and inner values are value infos."""
        helper, to_tensor = self._onnx.helper, self._onnx.numpy_helper.from_array
        tensors = [to_tensor(array, key) for key, array in self.constants.items()]
        graph = helper.make_graph(
            self.nodes, "head", list(inputs), list(outputs), tensors, value_info=list(inner)
        )
        opsets = [helper.make_opsetid("", opset)]
        version = helper.find_min_ir_version_for(opsets)
        return helper.make_model(graph, opset_imports=opsets, ir_version=version)

    def value(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> Any:
        """Return the value info of an input or output; a text names an open axis."""
        element = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._onnx.helper.make_tensor_value_info(name, element, list(shape))
