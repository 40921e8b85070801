"""A head inside an exported file: what the file says of it, and its maps and answers laid open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
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
from reparam.adapters.head_model_checks import check_answer, check_head
from reparam.adapters.head_model_joining import PREFIX, with_inner_outputs
from reparam.adapters.onnx_files import open_beside, weights_in
from reparam.adapters.onnx_model import import_onnx
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
    batch, _, height, width = _image_shape(header)
    if height is None or width is None:
        return replace(plan, batch=batch)
    sizes = tuple((height // stride, width // stride) for stride in maps.strides)
    return replace(plan, batch=batch, sizes=sizes)


def _image_shape(header: Any) -> list[int | None]:
    """Return the shape (N, C, H, W) of a file's image, None where an axis is open."""
    constants = {tensor.name for tensor in header.graph.initializer}
    images = [value for value in header.graph.input if value.name not in constants]
    shape = [dim.dim_value or None for dim in images[0].type.tensor_type.shape.dim]
    if len(shape) != 4:
        raise ExportError(
            "the file does not take an image", found=f"'{images[0].name}' of {len(shape)} axes"
        )
    return shape


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


def check_inside(path: Path, header: Any, plan: HeadPlan) -> None:
    """Refuse a file whose head, taken out of it, does not compute what it must on made-up maps.

    Args:
        path: of the file.
        header: what is in it.
        plan: of its head.

    Raises:
        NotEquivalentError: an answer is wrong.
        ExportError: the head is not whole without the network, or cannot be run.
    """
    head = _behind_maps(header, plan)
    arrays = dict(weights_in(path, head))  # some may be in the file beside
    del head.graph.initializer[:]
    to_tensor = import_onnx().numpy_helper.from_array
    head.graph.initializer.extend(to_tensor(array, name) for name, array in arrays.items())
    check_head(head, plan, prefix=PREFIX)


def cut_at_maps(header: Any, maps: Sequence[str]) -> Any:
    """Return a copy of a file's graph that ends at its maps.

    Raises:
        ExportError: no node of the graph makes one of them.
    """
    copy = with_inner_outputs(header, maps)
    values = {value.name: value for value in copy.graph.output}
    _keep(copy.graph, [], [values[name] for name in maps])
    return copy


def _behind_maps(header: Any, plan: HeadPlan) -> Any:
    """Return a copy of a file's graph that begins with its maps."""
    maps = plan.maps.names
    copy = with_inner_outputs(header, maps)
    graph = copy.graph
    ends = len(header.graph.output)
    values = {value.name: value for value in graph.output[ends:]}
    others = list(graph.input)[1:]
    _keep(graph, [values[name] for name in maps], list(graph.output[:ends]))
    left = {value.name for value in graph.input} - {v.name for v in others} - set(maps)
    if left:
        raise ExportError("the head of the file reads more than its maps", found=f"'{min(left)}'")
    return copy


def _keep(graph: Any, begins: Sequence[Any], ends: Sequence[Any]) -> None:
    """Leave in a graph what is between some values and others, which become its interface."""
    given = {value.name for value in begins}
    needed, nodes = {value.name for value in ends}, []
    for node in reversed(graph.node):
        if (needed - given) & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    inputs = [value for value in graph.input if value.name in needed - given]
    parts: tuple[tuple[Any, list[Any]], ...] = (
        (graph.node, list(reversed(nodes))),
        (graph.input, [*begins, *inputs]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.output, list(ends)),
    )
    for part, kept in parts:
        del part[:]
        part.extend(kept)
