"""Models of one node, run by onnxruntime and by the evaluator on the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from reparam.adapters.onnx_runtime import open_session
from reparam.conv.bounds import SMALLEST_NORMAL, gamma
from reparam.graph.evaluation import Program

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class OneNode:
    """A node, what it reads, and which of that is fed: the rest is constant.

    Attributes:
        operator: of the standard domain.
        inputs: in the order of the node; None is left out.
        attributes: of the node.
        fed: positions of the inputs that are fed, in float32.
        opset: of the model.
        outputs: how many.
    """

    operator: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any]
    opset: int = 17
    fed: tuple[int, ...] = (0,)
    outputs: int = 1

    def proto(self) -> Any:
        names = ["" if a is None else f"i{at}" for at, a in enumerate(self.inputs)]
        outs = [f"o{at}" for at in range(self.outputs)]
        node = helper.make_node(self.operator, names, outs, **self.attributes)
        arrays = {name: a for name, a in zip(names, self.inputs, strict=True) if a is not None}
        fed = {f"i{at}" for at in self.fed}
        kind = helper.np_dtype_to_tensor_dtype
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(n, kind(arrays[n].dtype), arrays[n].shape) for n in fed],
            [onnx.ValueInfoProto(name=name) for name in outs],
            [numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in fed],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def feeds(self) -> dict[str, Array]:
        return {f"i{at}": array for at in self.fed if (array := self.inputs[at]) is not None}

    def by_runtime(self) -> list[Array]:
        proto = onnx.shape_inference.infer_shapes(self.proto())
        return list(open_session(proto.SerializeToString()).run(None, self.feeds()))

    def by_reference(self) -> list[Array]:
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(self.proto()).run(None, self.feeds()))

    def by_evaluator(self) -> tuple[list[Array], list[Array], list[int]]:
        """Return values, magnitudes, and roundings of the outputs."""
        graph = ir.serde.deserialize_model(self.proto()).graph
        program = Program(list(graph), self.opset)
        feeds = {v: _wide(self.feeds()[str(v.name)]) for v in graph.inputs}
        values = program.values(feeds)
        magnitudes = program.magnitudes(values, feeds)
        counts = program.roundings(values)
        outs = graph.outputs
        return [values[o] for o in outs], [magnitudes[o] for o in outs], [counts[o] for o in outs]


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def assert_agree(case: OneNode, found: Sequence[Array], dtype: str = "float32") -> None:
    """Hold outputs computed in float32 to the evaluator's, by its own bound: 2 * gamma_n * B."""
    values, magnitudes, counts = case.by_evaluator()
    assert len(found) == len(values)
    for output, value, magnitude, count in zip(found, values, magnitudes, counts, strict=True):
        assert output.shape == value.shape
        if value.dtype.kind != "f":
            assert np.array_equal(output, value)
            continue
        assert (magnitude >= np.abs(value) * (1 - 1e-12)).all()
        bound = 2 * gamma(count + 1, dtype) * magnitude + count * SMALLEST_NORMAL[dtype]
        worst = np.abs(output.astype(np.float64) - value) - bound
        assert worst.max(initial=-np.inf) <= 0
