"""Reports as the text that their commands print, for notebooks."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

_PRINTED_BY = {
    "Fusion": "fuse",
    "GraphFusion": "fuse_onnx",
    "LayerFusion": "own_network",
    "Unfusion": "unfuse",
    "Verification": "verify",
    "ExportReport": "export",
    "Benchmark": "bench",
    "Inspection": "inspect",
    "GraphInspection": "inspect_onnx",
}
"""Modules here by the name of the report that their function ``show`` prints."""


def shown(report: Any) -> str:
    """Return what a command prints of a report; of a part of one, its one line."""
    module = _PRINTED_BY.get(type(report).__name__)
    if module is None:
        return repr(report)
    with redirect_stdout(io.StringIO()) as text:
        import_module(f"reparam.commands.{module}").show(report)
    return text.getvalue().rstrip()
