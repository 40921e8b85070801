"""Small networks as files: a BatchNorm behind a convolution, and the two as one convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reparam.conv import Conv, Sequential, fuse
from tests.conv.blocks import random_conv, random_norm
from tests.graph.regions import stored_block

KINDS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
Shape = Sequence[int | str | None]
OPEN: Shape = ("batch", 3, "height", "width")


@dataclass
class Written:
    """A graph being written down, and the file that it becomes."""

    dtype: str = "float32"
    opset: int = 17
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, Shape]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, Shape | None]] = field(default_factory=dict)
    functions: list[Any] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any) -> str:
        values = np.asarray(array)
        if values.dtype.kind == "f":
            target = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype
            values = values.astype(target)
        self.constants[name] = values
        return name

    def save(self, path: Path, external: bool = False) -> Path:
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "network",
            [info(name, KINDS[kind], shape) for name, (kind, shape) in self.inputs.items()],
            [info(name, KINDS[kind], shape) for name, (kind, shape) in self.outputs.items()],
            [_tensor(array, name) for name, array in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(*domain) for domain in self.domains.items()]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=8, functions=self.functions
        )
        beside = {"save_as_external_data": True, "location": f"{path.name}.data"}
        onnx.save(model, path, **({**beside, "size_threshold": 16} if external else {}))
        return path


def _tensor(array: Any, name: str) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        shape, raw = array.shape, array.tobytes()
        return helper.make_tensor(name, TensorProto.BFLOAT16, shape, raw, raw=True)
    return numpy_helper.from_array(array, name)


Tail = Callable[[Written, str], None]


def convolved(
    fused: bool,
    *,
    dtype: str = "float32",
    shape: Shape = OPEN,
    change: Callable[[Conv], Conv] = lambda conv: conv,
    tail: Tail | None = None,
    seed: int = 0,
    opset: int = 17,
) -> Written:
    """Return x -- Conv -- BatchNormalization -- Relu -- y, the first two as one if ``fused``.

    Args:
        change: of the one convolution.
        tail: appends nodes behind the Relu, and the outputs; else that is the output.
    """
    rng = np.random.default_rng(seed)
    conv = random_conv(rng, (8, 3, 3, 3), padding=1, stride=2)
    block = stored_block(Sequential(conv, random_norm(rng, 8)), dtype)
    graph = Written(dtype, opset, inputs={"x": (dtype, shape)})
    geometry = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    if fused:
        one = change(fuse(block))
        names = [graph.constant("fused.w", one.weight), graph.constant("fused.b", one.bias)]
        graph.node("Conv", ["x", *names], "n", **geometry)
    else:
        first, norm = block.parts
        names = [graph.constant("w", first.weight), graph.constant("b", first.bias)]
        graph.node("Conv", ["x", *names], "c", **geometry)
        arrays = {n: getattr(norm, n) for n in ("gamma", "beta", "mean", "variance")}
        names = [graph.constant(name, array) for name, array in arrays.items()]
        graph.node("BatchNormalization", ["c", *names], "n", epsilon=norm.epsilon)
    graph.node("Relu", ["n"], "r")
    if tail is None:
        graph.outputs["r"] = (dtype, (shape[0], 8, None, None))
    else:
        tail(graph, "r")
    return graph


def pair(folder: Path, external: bool = False, **options: Any) -> tuple[Path, Path]:
    """Write both forms; ``change`` is of the fused one."""
    plain: Mapping[str, Any] = {k: v for k, v in options.items() if k != "change"}
    return (
        convolved(False, **plain).save(folder / "original.onnx", external),
        convolved(True, **options).save(folder / "fused.onnx", external),
    )
