"""Head models for the tests: small, with few classes, and ways to break one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from reparam.adapters.head_model import HeadPlan, build_head
from reparam.adapters.onnx_checks import load_strictly
from reparam.detection.records import Maps, Selection

MAPS = Maps((32, 16, 8), 3, tuple(float(value) for value in range(17)))
SIZES = ((5, 6), (10, 12), (20, 24))
SELECTION = Selection(score_threshold=0.1, iou_threshold=0.6, top_k=40)


def planned(**changes: Any) -> HeadPlan:
    return HeadPlan(**{"maps": MAPS, "selection": SELECTION, "sizes": SIZES, **changes})


def drawn_maps(batch: int, seed: int = 0, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Any]:
    """Return maps as a network would make them, without regard to any threshold."""
    rng = np.random.default_rng(seed)
    arrays = []
    for size in sizes:
        arrays.append(rng.normal(-3, 1.5, (batch, MAPS.classes, *size)).astype(np.float32))
        arrays.append(rng.normal(0, 2, (batch, 4 * MAPS.bins, *size)).astype(np.float32))
    return arrays


def run_head(plan: HeadPlan, arrays: Sequence[np.ndarray], **extra: np.ndarray) -> list[np.ndarray]:
    session = load_strictly(build_head(plan).SerializeToString())
    return session.run(None, dict(zip(MAPS.names, arrays, strict=True)) | extra)


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return onnx.numpy_helper.to_array(tensor)


def set_constant(model: onnx.ModelProto, name: str, value: Any) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    array = onnx.numpy_helper.to_array(tensor)
    new = np.broadcast_to(np.asarray(value, array.dtype), np.shape(value) or array.shape)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(new), name))


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    (found,) = (node for node in model.graph.node if output in node.output)
    return found
