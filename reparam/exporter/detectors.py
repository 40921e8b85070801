"""How a detector's answer leaves a file: as maps, as boxes and scores, or as detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reparam.adapters.head_model import (
    OWN,
    PADDLEDETECTION,
    HeadPlan,
    build_head,
    require_plan,
)
from reparam.adapters.head_model_checks import check_head
from reparam.adapters.head_model_files import METADATA, as_text
from reparam.adapters.head_model_joining import join
from reparam.adapters.onnx_cleaning import renamed_outputs
from reparam.detection import NMS, RAW
from reparam.detection.classes import check_classes
from reparam.detection.sizes import check_size
from reparam.errors import ExportError
from reparam.exporter.networks import Network
from reparam.exporter.options import Options

PADDLE_CANDIDATES = 1000
"""Boxes of a class that take part in PaddleDetection's selection (its nms_top_k)."""

_FEW = 3
"""Images that a head is proved on: a larger batch is the same graph, and costs as much more."""

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
    head = options.head or (RAW if output is None else options.default_head)
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


def plan_of(network: Network, options: Options) -> HeadPlan | None:
    """Return what is put behind the maps of a network; None where it answers with its maps."""
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
    plan = plan_of(network, options)
    if plan is None:
        return proto
    few = plan if plan.batch is None else replace(plan, batch=min(plan.batch, _FEW))
    check_head(build_head(few), few)
    head = build_head(plan)
    if options.output_names is not None:
        head = renamed_outputs(head, options.output_names)
    return join(proto, head)


def head_metadata(network: Network, options: Options) -> Mapping[str, str]:
    """Return what a file says of the head behind its maps, so that it can be checked again."""
    plan = plan_of(network, options)
    return {} if plan is None else {METADATA: as_text(plan)}
