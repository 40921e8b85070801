"""A head inside an exported file: what the file says of it, and its maps and answers laid open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.head_model import (
    INNER_BOXES,
    INNER_SCORES,
    PADDLEDETECTION,
    HeadPlan,
    require_plan,
)
from reparam.adapters.head_model_checks import check_answer
from reparam.adapters.head_model_joining import PREFIX, with_inner_outputs
from reparam.adapters.onnx_files import open_beside
from reparam.adapters.onnx_runtime import run_all
from reparam.detection import DECODED, Maps, Selection
from reparam.errors import ExportError

Array = npt.NDArray[Any]

METADATA = "reparam.head"
"""Where a file says which head it has."""

_SCALE_FACTOR = 0.75  # of the original image: not 1, so that a division that is missing shows


def as_text(plan: HeadPlan) -> str:
    """Return what a file says of its head."""
    said = {"head": plan.head, "layout": plan.layout, "selection": asdict(plan.selection)}
    return json.dumps(said, sort_keys=True)


def plan_in(header: Any, maps: Maps) -> HeadPlan | None:
    """Return the head of a file as the file says; None where it says nothing.

    Args:
        header: an ``onnx.ModelProto``; its weights may be elsewhere.
        maps: what the maps of the network in it mean.

    Raises:
        ExportError: what it says is no head.
    """
    said = {entry.key: entry.value for entry in header.metadata_props}.get(METADATA)
    if said is None:
        return None
    try:
        told = json.loads(said)
        plan = HeadPlan(maps, told["head"], Selection(**told["selection"]), told["layout"])
        require_plan(plan)
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            "what the file says of its head cannot be read", found=f"{METADATA}: {said[:80]}"
        ) from error
    return plan


def check_joined(path: Path, header: Any, plan: HeadPlan, image: Array, what: str) -> None:
    """Refuse a file whose answer to an image is not what its own maps mean.

    Args:
        path: of the file.
        header: what is in it.
        plan: of its head.
        image: (N, C, H, W), of a size that the file takes.
        what: the image is, in words.

    Raises:
        NotEquivalentError: boxes, scores or detections are others.
        ExportError: onnxruntime cannot run the file.
    """
    maps = list(plan.maps.names)
    inner = maps if plan.head == DECODED else [*maps, PREFIX + INNER_BOXES, PREFIX + INNER_SCORES]
    session = open_beside(with_inner_outputs(header, inner), path)
    feeds, scales = {session.get_inputs()[0].name: image}, None
    if plan.layout == PADDLEDETECTION:
        scales = np.full((len(image), 2), _SCALE_FACTOR, np.float32)
        feeds[session.get_inputs()[1].name] = scales
    outputs = run_all(session, feeds)
    ends = len(header.graph.output)
    own, found = outputs[:ends], outputs[ends : ends + len(maps)]
    decoded = own if plan.head == DECODED else outputs[-2:]
    check_answer(plan, found, own, decoded, scales, what)


def cut_at_maps(header: Any, maps: Sequence[str]) -> Any:
    """Return a copy of a file's graph that ends at its maps.

    Raises:
        ExportError: no node of the graph makes one of them.
    """
    copy = with_inner_outputs(header, maps)
    graph = copy.graph
    values = {value.name: value for value in graph.output}
    needed, nodes = set(maps), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    parts: tuple[tuple[Any, list[Any]], ...] = (
        (graph.node, list(reversed(nodes))),
        (graph.input, [value for value in graph.input if value.name in needed]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.output, [values[name] for name in maps]),
    )
    for part, kept in parts:
        del part[:]
        part.extend(kept)
    return copy
