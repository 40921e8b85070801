"""Fusing in tests, and everything that a fused graph must keep."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from reparam.graph.files import open_model, save_model
from reparam.graph.fusing import fuse_graph
from reparam.graph.whole import compare
from reparam.graph.whole_records import Whole
from tests.graph.builder_base import GraphBase
from tests.graph.truth import measured, off_by


def fused(model: onnx.ModelProto, *options: Any) -> onnx.ModelProto:
    """Return the fused model; the given one stays as it is.

    No proof may fail on the way: it would keep the model right, and hide a rule that is wrong.
    """
    changed = ir.serde.deserialize_model(model)
    report = fuse_graph(changed, *options)
    assert report.failed == []
    made: onnx.ModelProto = ir.serde.serialize_model(changed)
    return made


def fused_file(path: Path, target: Path) -> Whole:
    """Write a fused file, even where nothing was fused; return how it compares as a whole."""
    model = open_model(path).model
    assert fuse_graph(model).failed == []
    save_model(model, target)
    return compare(path, target)


def interface(model: onnx.ModelProto) -> list[Any]:
    """Return what callers see: names, types and shapes of inputs and outputs, opset."""

    def ends(values: Iterable[Any]) -> list[bytes]:
        return [value.SerializeToString(deterministic=True) for value in values]

    opsets = [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain]
    return [ends(model.graph.input), ends(model.graph.output), opsets]


def defects(g: GraphBase, before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """Return what is wrong with a fused graph, in words; none for a right one.

    The probes are two: with open axes, of other sizes. A graph that the second does not fit, since
    two branches are of one size by chance, is compared on the first alone.
    """
    found = []
    try:
        onnx.checker.check_model(after, full_check=g.dtype != "bfloat16")
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [f"invalid: {str(error).strip().splitlines()[0]}"]
    if interface(before) != interface(after):
        found.append("another interface")
    for probe in ("first", "second"):
        feeds = g.feeds(probe)
        try:
            expected, was = measured(before, feeds)
        except ValueError:  # NumPy's word for shapes that do not match
            assert probe == "second"
            continue
        try:
            outputs, now = measured(after, feeds)
            off = off_by(expected, outputs, feeds, g.dtype)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            return [*found, f"cannot be run: {type(error).__name__} {error}"]
        if not off <= 1:
            found.append(f"{off:.3g} times the bound on the {probe} probe")
        if now.macs > was.macs or now.nodes > was.nodes:
            found.append(f"{was} became {now}")
    return found
