"""Small ONNX graphs written by hand, and what a run of them may differ by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reparam.adapters.onnx_runtime import open_session

FLOAT = TensorProto.FLOAT
X_SHAPE = (2, 3, 6, 8)  # N, C, H, W: four different sizes, none of them the 4 channels of a conv
CHANNELS = 4


def conv_weights(seed: int = 0) -> dict[str, Any]:
    """Return ``weight`` (4, 3, 3, 3) and ``bias`` (4,), standard normal."""
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=CHANNELS).astype(np.float32),
    }


def conv(output: str = "c", inputs: Sequence[str] = ("x", "weight")) -> Any:
    return helper.make_node("Conv", list(inputs), [output], name="conv", pads=[1, 1, 1, 1])


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def constant(name: str, value: Any) -> Any:
    tensor = numpy_helper.from_array(np.asarray(value))
    return helper.make_node("Constant", [], [name], value=tensor)


def model(
    nodes: Sequence[Any],
    initializers: Mapping[str, Any],
    outputs: Mapping[str, Sequence[int | str] | None],
    inputs: Mapping[str, Sequence[int | str]] | None = None,
) -> bytes:
    """Return a model of opset 17 with float32 inputs and outputs."""
    given = inputs or {"x": X_SHAPE}
    graph = helper.make_graph(
        list(nodes),
        "by_hand",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def ops(model_bytes: bytes) -> list[str]:
    """Return the operators in order."""
    return [n.op_type for n in onnx.load_model_from_string(model_bytes).graph.node]


def run(model_bytes: bytes, **extra: Any) -> list[Any]:
    """Run a model on one seeded probe, plus the inputs given by name."""
    session = open_session(model_bytes)
    feeds = dict(extra)
    for entry in session.get_inputs():
        if entry.name not in feeds:
            shape = [size if isinstance(size, int) else 2 for size in entry.shape]
            probe = np.random.default_rng(7).normal(size=shape)
            feeds[entry.name] = probe.astype(np.float32)
    return list(session.run(None, feeds))
