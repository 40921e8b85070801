"""A builder of small graphs of any operator; what is constant in them, onnx's reference runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, Any]


class Plain:
    """A graph under construction; values are names.

    Args:
        opset: of the standard domain.
        seed: of the weights.
    """

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self._rng = opset, np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.known: dict[str, Array] = {}
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self._rng.normal(size=shape).astype(np.float32))

    def constant(self, array: Any) -> str:
        array = np.asarray(array)
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        self.known[name] = array
        return name

    def node(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node; arrays become constants, and what reads constants alone is evaluated."""
        names = [v if isinstance(v, str) else self.constant(v) for v in inputs]
        output = f"v{len(self.nodes)}"
        node = helper.make_node(op, names, [output], name=f"{op}_{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        if all(name in self.known for name in names):
            self.known[output] = self._evaluated(node, names, output)
        return output

    def _evaluated(self, node: Any, names: Sequence[str], output: str) -> Array:
        read = dict.fromkeys(names)
        infos = [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(self.known[n].dtype), self.known[n].shape
            )
            for n in read
        ]
        graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=output)])
        opsets = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        (found,) = ReferenceEvaluator(proto).run(None, {n: self.known[n] for n in read})
        return np.asarray(found)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.known[name].shape

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Return the model; its outputs are floats, and their shapes are what inference finds."""
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "plain", self.inputs, made, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.output
        for place, value in enumerate(inferred):
            if not value.type.tensor_type.HasField("shape"):
                value.type.tensor_type.shape.SetInParent()
                value.type.tensor_type.shape.dim.add()
            for axis in value.type.tensor_type.shape.dim:
                if axis.dim_param.startswith("unk__"):
                    axis.Clear()
            proto.graph.output[place].CopyFrom(value)
        onnx.checker.check_model(proto)
        return proto
