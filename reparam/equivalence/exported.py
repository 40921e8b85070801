"""An ONNX file against the network of a checkpoint: its outputs, or its maps and its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reparam.adapters import onnx_files, onnx_runtime
from reparam.adapters.head_model import HeadPlan
from reparam.adapters.head_model_files import check_inside, cut_at_maps, plan_in
from reparam.equivalence.networks import Seen, Truth, compare_run, is_narrow, sizes_of
from reparam.equivalence.probes import Probing, network_probes
from reparam.equivalence.records import DIFFERENT, EQUAL, UNDECIDABLE, Stage
from reparam.errors import NotEquivalentError
from reparam.normalization import METADATA, Normalization

Array = np.ndarray[Any, Any]

NAME = "onnxruntime"
HEAD_WHY = (
    "what stands behind the maps reads nothing else, so it is run on maps of its own. Decoding: "
    "off from float64 by no more than float32 rounds; selecting: what was kept does not overlap, "
    "what was not is overlapped by a better one"
)


def compare_onnx(original: Truth, path: Path, probing: Probing) -> tuple[Stage, ...]:
    """Run the ONNX file at ``path`` in onnxruntime, on the CPU, against ``original``.

    A detector's file is compared by its maps, and what stands behind them by what they mean.
    """
    session = onnx_runtime.open_session(path)
    other = _other_images(session, original.channels)
    if other:
        return (Stage(NAME, DIFFERENT, other, "they are not of the same images"),)
    header = onnx_files.read_header(path)
    maps = getattr(original.layer, "maps", None)
    plan = None if maps is None else plan_in(header, maps)
    if maps is not None and plan is None and len(header.graph.output) != len(maps.names):
        return (_unknown_answer(header),)
    if plan is not None:
        session = onnx_files.open_beside(cut_at_maps(header, plan.maps.names), path)
    fixed = onnx_runtime.fixed_size(session)
    sizes = (fixed,) if fixed else sizes_of(original, probing)
    inputs = network_probes(original.channels, sizes, probing.own_input)
    copies = _copies(session)
    dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    pixels = _normalization(header)
    if pixels is not None:
        inputs = [(name, _raw(pixels, x)) for name, x in inputs]

    def run(x: Array) -> list[Array]:
        outputs = onnx_runtime.run_onnx(session, np.repeat(x.astype(dtype), copies, axis=0))
        return [output[:1] for output in outputs]

    narrow = is_narrow(onnx_files.weights_in(path))
    stage = compare_run(NAME, original, run, inputs, narrow, _seen(pixels))
    if plan is None:
        return (stage,)
    return stage, _compare_head(path, header, plan)


def _other_images(session: Any, channels: int) -> str:
    """Say why a file cannot take the images of a network; nothing if it can."""
    inputs = session.get_inputs()
    taken = list(inputs[0].shape or ()) if inputs else []
    if len(taken) != 4:
        return f"the file takes no image (N, C, H, W): its first input is of shape {taken}"
    if isinstance(taken[1], int) and taken[1] != channels:
        return f"the file takes images of {taken[1]} channels, the original {channels}"
    return ""


def _copies(session: Any) -> int:
    batch = session.get_inputs()[0].shape[0]
    return batch if isinstance(batch, int) else 1  # a fixed batch is filled with one image


def _compare_head(path: Path, header: Any, plan: HeadPlan) -> Stage:
    try:
        check_inside(path, header, plan)
    except NotEquivalentError as error:
        return Stage("head", DIFFERENT, f"{error.what}: {error.found}", HEAD_WHY)
    what = "boxes and scores" if plan.head == "decoded" else "detections"
    return Stage("head", EQUAL, f"{what} are what maps mean, on made-up ones", HEAD_WHY)


def _unknown_answer(header: Any) -> Stage:
    return Stage(
        NAME,
        UNDECIDABLE,
        f"not run: the file answers with {', '.join(v.name for v in header.graph.output)}, and "
        "does not say what they are",
        "a detector is compared by the maps of each level; of a file that decodes them, only one "
        "that reparam wrote says where they are",
    )


def _normalization(header: Any) -> Normalization | None:
    said = {entry.key: entry.value for entry in header.metadata_props}.get(METADATA)
    return None if said is None else Normalization.from_text(said)


def _raw(pixels: Normalization, x: Array) -> Array:
    """Return float32 pixels that become about ``x`` once they are normalised."""
    mean, std = (np.asarray(v).reshape(-1, 1, 1) for v in (pixels.mean, pixels.std))
    raw = (x.astype(np.float64) * std + mean) / pixels.scale
    turned: Array = (raw[:, ::-1] if pixels.bgr else raw).astype(np.float32)
    return turned


def _seen(pixels: Normalization | None) -> Seen | None:
    """Return what the network sees of raw pixels."""
    if pixels is None:
        return None
    return lambda x: (pixels.apply(x), pixels.apply_in_float32(x))
