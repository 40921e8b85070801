"""ONNX files that are made to crash, stall or starve who reads them, each by a function."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from tests.hostile.harness import Case

FLOAT = onnx.TensorProto.FLOAT


def cut_short(folder: Path) -> Path:
    """A file that ends within its graph."""
    path = folder / "x.onnx"
    path.write_bytes(_serialized([helper.make_node("Relu", ["x"], ["y"])])[:-7])
    return path


def _serialized(nodes: list[onnx.NodeProto]) -> bytes:
    values = [helper.make_tensor_value_info(name, FLOAT, [1, 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


CASES = (Case("a file that is cut short", cut_short, "not a whole one"),)
