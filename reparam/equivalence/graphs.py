"""Two ONNX files side by side: the original in float64 is the truth, as in fusing one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reparam.adapters.onnx_files import read_header
from reparam.adapters.onnx_model import Value, interface_of
from reparam.equivalence.probes import Probing
from reparam.equivalence.records import (
    EQUAL,
    EQUAL_ON_SAMPLES,
    NOTHING,
    ProbeResult,
    Stage,
    Verification,
)
from reparam.errors import GraphError
from reparam.files import sha256_of
from reparam.graph.runnable import need_runnable
from reparam.graph.whole import compare
from reparam.graph.whole_records import NOT_RUN, Whole

Feeds = Mapping[str, np.ndarray[Any, Any]]

_NAME = "graphs"
_WHY = (
    "both files evaluated in float64 as they are stored, on the same inputs; allowed is what one "
    "rounding of each constant of the candidate does, times 4; then run on onnxruntime. Samples "
    "show what was exercised, and prove nothing of other inputs"
)


def verify_graphs(original: Path, candidate: Path, probing: Probing) -> Verification:
    """Return whether two ONNX files are equal on samples, made up and the user's own.

    Raises:
        GraphError: a file is unusable or too large to be run, or a probe fits no input.
        MissingDependencyError: onnx, onnx-ir or onnxruntime is not installed.
    """
    for path in (original, candidate):
        need_runnable(path)
    interface = interface_of(read_header(original))
    own = None if probing.own_feeds is None else _fitting(probing.own_feeds, interface.inputs)
    whole = compare(original, candidate, own=own)
    stage = _stage(whole, [value.name for value in interface.outputs])
    return Verification(
        original=str(original),
        candidate=str(candidate),
        original_sha256=sha256_of(original),
        candidate_sha256=sha256_of(candidate),
        architecture=None,
        epsilon=None,
        verdict=EQUAL_ON_SAMPLES if stage.verdict == EQUAL else stage.verdict,
        stages=(stage,),
        notices=(*whole.notes, *whole.warnings),
    )


def _stage(whole: Whole, outputs: list[str]) -> Stage:
    """Return the comparison as a stage whose figures are those of its worst output."""
    if whole.verdict == NOT_RUN or (whole.worst is None and not whole.reason):
        return Stage(_NAME, NOTHING, whole.reason or "no output was compared", _WHY)
    worst = whole.worst
    probes: tuple[ProbeResult, ...] = ()
    if worst is not None and worst.output in outputs:
        numbers = {name: getattr(worst, name) for name in ("verdict", "distance", "bound",
                                                           "floor", "scale", "index")}  # fmt: skip
        probes = (ProbeResult(**numbers, output=outputs.index(worst.output), probe=worst.run),)
    text = whole.reason
    if whole.verdict == EQUAL and worst is not None:
        text = f"{len(outputs)} output(s) equal on {len(whole.runs)} inputs"
        text += f", '{worst.output}' least on {worst.run}"
    why = f"{_WHY}; truth: {whole.truth}" if whole.truth else _WHY
    return Stage(_NAME, whole.verdict, text, why, probes=probes)


def _fitting(given: Feeds, inputs: tuple[Value, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the user's arrays by the names of the inputs, in the dtypes that they have.

    An array without a name is that of the only input.

    Raises:
        GraphError: names, kinds or shapes are not those of the inputs.
    """
    feeds = dict(given)
    if set(feeds) == {""} and len(inputs) == 1:
        feeds = {inputs[0].name: feeds[""]}
    needed = ", ".join(f"'{v.name}' {v.dtype} {v.shape}" for v in inputs)
    if set(feeds) != {value.name for value in inputs}:
        names = ", ".join(f"'{name}'" for name in feeds) if set(feeds) != {""} else "one array"
        raise GraphError(
            "the probe has not the inputs of the original",
            found=f"{names}; needed: {needed}",
            hint="an .npz file holds one array an input: numpy.savez('x.npz', NAME=array, ...)",
        )
    for value in inputs:
        array = feeds[value.name]
        fits = len(array.shape) == len(value.shape) and all(
            not isinstance(size, int) or size <= 0 or size == found
            for size, found in zip(value.shape, array.shape, strict=True)
        )
        float_like = value.dtype.startswith(("float", "bfloat"))
        kinds = "fiu" if float_like else "b" if value.dtype == "bool" else "iu"
        if not fits or array.dtype.kind not in kinds:
            raise GraphError(
                f"the probe does not fit the input '{value.name}'",
                found=f"{array.dtype} {array.shape}; needed: {value.dtype} {value.shape}",
            )
    return feeds
