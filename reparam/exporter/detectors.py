"""How a detector's answer leaves a file: as maps, as boxes and scores, or as detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.head_model import (
    INNER_BOXES,
    INNER_SCORES,
    OWN,
    PADDLEDETECTION,
    HeadPlan,
    build_head,
    require_plan,
)
from reparam.adapters.head_model_checks import check_answer, check_head
from reparam.adapters.head_model_joining import PREFIX, join, with_inner_outputs
from reparam.adapters.onnx_cleaning import renamed_outputs
from reparam.adapters.onnx_files import open_beside
from reparam.adapters.onnx_runtime import run_all
from reparam.detection import DECODED, NMS, RAW
from reparam.detection.classes import check_classes
from reparam.detection.sizes import check_size
from reparam.errors import ExportError
from reparam.exporter.networks import Network
from reparam.exporter.options import FLOAT16, Options

Array = npt.NDArray[Any]

PADDLE_CANDIDATES = 1000
"""Boxes of a class that take part in PaddleDetection's selection (its nms_top_k)."""

_OF_DETECTORS = ("head", "compat", "selection", "classes")


def for_network(network: Network, options: Options, output: Path | None) -> tuple[Network, Options]:
    """Return both with the head that is to be exported decided.

    Args:
        output: the ONNX file to write, if one is.

    Raises:
        ExportError: a head is asked of a network that has none, or options contradict each other.
        UnsupportedModelError: the network takes no image of that size.
        ConfigurationError: it has another number of classes.
    """
    check_size(options.input_size or network.default_size, network.multiple)
    if network.maps is None:
        _refuse_head(network, options)
        return network, options
    if options.classes is not None:
        check_classes(options.classes, network.maps.classes)
    head = options.head or (RAW if output is None else NMS)
    if options.compat is not None and head != NMS:
        raise ExportError(
            f"--compat {options.compat} has detections as its outputs",
            found=f"--head {head}",
            hint="leave one of the two out",
        )
    selection = options.selection
    if options.compat is not None and selection.candidates is None:
        selection = replace(selection, candidates=PADDLE_CANDIDATES)
    decided = replace(options, head=head, selection=selection)
    plan = plan_of(network, decided)
    if plan is not None:
        require_plan(plan)
    return replace(network, notices=(*network.notices, *_said(decided, output))), decided


def _refuse_head(network: Network, options: Options) -> None:
    plain = Options()
    given = [name for name in _OF_DETECTORS if getattr(options, name) != getattr(plain, name)]
    if given:
        what = {"selection": "thresholds of detections"}.get(given[0], f"--{given[0]}")
        raise ExportError(
            f"{what}: '{network.name}' is no detector",
            found="a network without a head for detections",
            why="a backbone or a classifier has no boxes to decode or to select",
            hint="the checkpoint of the whole detector, or export without it",
        )


def _said(options: Options, output: Path | None) -> list[str]:
    if options.paddle is None:
        return []
    if output is None and options.head != RAW:
        raise ExportError(
            f"a program for Paddle Inference has no head '{options.head}'",
            why="decoding and selecting are added to the graph of an ONNX file, and only there",
            hint="--head raw, or --onnx",
        )
    return ["the program for Paddle Inference answers with the maps of each level"]


def plan_of(network: Network, options: Options, dtype: str = "float32") -> HeadPlan | None:
    """Return what is put behind the maps of a network; None where it answers with its maps.

    Args:
        dtype: of the maps in the file.
    """
    maps = network.maps
    if maps is None or options.head == RAW:
        return None
    sizes = None
    if not {2, 3} & set(options.open_axes):
        height, width = options.input_size or network.default_size
        sizes = tuple((height // stride, width // stride) for stride in maps.strides)
    return HeadPlan(
        maps=maps,
        head=options.head or NMS,
        selection=options.selection,
        layout=OWN if options.compat is None else PADDLEDETECTION,
        sizes=sizes,
        batch=None if 0 in options.open_axes else options.batch or 1,
        opset=options.opset,
        dtype=dtype,
    )


def map_names(network: Network, options: Options) -> Sequence[str] | None:
    """Return how the outputs of the graph are called before a head is put behind them."""
    if network.maps is None:
        return options.output_names
    return options.output_names if options.head == RAW and options.output_names else (
        network.maps.names
    )  # fmt: skip


def with_head(proto: Any, network: Network, options: Options) -> Any:
    """Return a graph with the head behind its maps, which is proved by itself first.

    Raises:
        ExportError: an output has the name of an input or a weight.
        NotEquivalentError: the head does not compute what it must.
    """
    narrow = options.precision == FLOAT16 and not options.keep_io
    plan = plan_of(network, options, FLOAT16 if narrow else "float32")
    if plan is None:
        return proto
    head = build_head(plan)
    check_head(head, plan)
    if options.output_names is not None:
        head = renamed_outputs(head, options.output_names)
    return join(proto, head)


def check_joined(path: Path, header: Any, network: Network, options: Options, image: Array) -> None:
    """Refuse a file whose answer to an image is not what its own maps mean.

    Args:
        path: of the file.
        header: what is in it.
        image: (N, C, H, W), of a size that the file takes.

    Raises:
        NotEquivalentError: boxes, scores or detections are others.
        ExportError: onnxruntime cannot run the file.
    """
    assert network.maps is not None
    narrow = options.precision == FLOAT16 and not options.keep_io
    plan = plan_of(network, options, FLOAT16 if narrow else "float32")
    assert plan is not None
    maps = list(network.maps.names)
    inner = maps if plan.head == DECODED else [*maps, PREFIX + INNER_BOXES, PREFIX + INNER_SCORES]
    session = open_beside(with_inner_outputs(header, inner), path)
    feeds, scales = {network.input_name: image}, None
    if plan.layout == PADDLEDETECTION:
        scales = np.full((len(image), 2), 0.75, np.float32)
        feeds["scale_factor"] = scales
    outputs = run_all(session, feeds)
    own, decoded = outputs[: len(header.graph.output)], outputs[-2:]
    if plan.head == DECODED:
        decoded = own
    found = outputs[len(own) : len(own) + len(maps)]
    check_answer(plan, found, own, decoded, scales, "the image that the file was tried with")


def cut_at_maps(header: Any, maps: Sequence[str]) -> Any:
    """Return a copy of a file's graph that ends at its maps."""
    copy = with_inner_outputs(header, maps)
    values = {value.name: value for value in copy.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(values[name] for name in maps)
    needed, nodes = set(maps), []
    for node in reversed(copy.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    kept = list(reversed(nodes))
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    inputs = [value for value in copy.graph.input if value.name in needed]
    weights = [tensor for tensor in copy.graph.initializer if tensor.name in needed]
    for part, whole in ((copy.graph.input, inputs), (copy.graph.initializer, weights)):
        del part[:]
        part.extend(whole)
    return copy


def head_metadata(network: Network, options: Options) -> Mapping[str, str]:
    """Return what a file says of its head, so that it can be checked without this program."""
    return {} if network.maps is None else {"reparam.head": str(options.compat or options.head)}
