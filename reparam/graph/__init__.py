"""Fusing an ONNX graph with no model code: "value == conv(source)", carried forward.

:func:`fuse_onnx` goes from file to file, :func:`fuse_graph` changes a graph in memory,
:func:`inspect_onnx` tells what there is to fuse, and :func:`explain` why a node is left. Names are
loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reparam.graph.explaining import Explanation, explain
    from reparam.graph.fusing import fuse_graph
    from reparam.graph.inspecting import GraphInspection, inspect_onnx
    from reparam.graph.pipeline import GraphFusion, fuse_onnx
    from reparam.graph.records import GraphReport, Options

_HOME_OF = {
    "Explanation": "explaining",
    "GraphFusion": "pipeline",
    "GraphInspection": "inspecting",
    "GraphReport": "records",
    "Options": "records",
    "explain": "explaining",
    "fuse_graph": "fusing",
    "fuse_onnx": "pipeline",
    "inspect_onnx": "inspecting",
}

__all__ = [
    "Explanation",
    "GraphFusion",
    "GraphInspection",
    "GraphReport",
    "Options",
    "explain",
    "fuse_graph",
    "fuse_onnx",
    "inspect_onnx",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'reparam.graph' has no attribute '{name}'")
    value = getattr(import_module(f"reparam.graph.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
