"""Where the onnxruntime that is installed is known to depart from the specification."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import helper

from reparam.adapters.onnx_runtime import open_session


@cache
def counts_what_hangs_out() -> bool:
    """Whether a mean divides by all taps where ``ceil_mode`` lets its window leave the image.

    onnxruntime 1.23, the last for Python 3.10, does so before operator set 19 where padding
    counts; 1.32 does not.
    """
    value = helper.make_tensor_value_info
    node = helper.make_node(
        "AveragePool", ["x"], ["y"],
        kernel_shape=[2], strides=[2], ceil_mode=1, count_include_pad=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [value("x", onnx.TensorProto.FLOAT, [1, 1, 3])],
        [value("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    ones = np.ones((1, 1, 3), np.float32)
    return bool(open_session(model.SerializeToString()).run(None, {"x": ones})[0].min() < 1)


def is_concerned(operator: str, attributes: dict[str, object], opset: int) -> bool:
    """Whether what a node computes depends on that."""
    return (
        operator == "AveragePool"
        and opset < 19
        and bool(attributes.get("ceil_mode"))
        and bool(attributes.get("count_include_pad"))
    )
