"""The whole network on probes: the original in float64 is the truth, its float32 the yardstick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reparam.adapters import onnx_files, paddle_models
from reparam.adapters.checkpoint_layers import as_layers_name_them, layer_of
from reparam.adapters.closeness import FACTOR, UNDECIDABLE_FLOAT16, closeness
from reparam.adapters.closeness import UNDECIDABLE as WORST_FLOOR
from reparam.adapters.float16_reference import run_in_float16
from reparam.adapters.head_model_joining import PREFIX as HEAD
from reparam.adapters.shaken import Shaken
from reparam.architectures import recognise
from reparam.checkpoint import fuse_arrays
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.detection.sizes import check_size, rounded_up
from reparam.equivalence.probes import DEFAULT_SIZES, Probing, network_probes
from reparam.equivalence.records import (
    DIFFERENT,
    EQUAL,
    NOTHING,
    SKIPPED,
    UNDECIDABLE,
    ProbeResult,
    Stage,
)

Arrays = Mapping[str, np.ndarray[Any, Any]]
Runner = Callable[[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]
Seen = Callable[[np.ndarray[Any, Any]], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]

WHY = (
    "truth: the original in float64; the candidate may be as far from it as the original in "
    f"float32 is, or with its weights off by one rounding, times {FACTOR:g}"
)
WHY_FLOAT16 = (
    "truth: the original in float64; the candidate may be as far from it as the original in "
    f"float16 is, times {FACTOR:g}"
)
OTHER_DTYPE = Stage(
    "network",
    SKIPPED,
    "not run: rounding a weight to that dtype moves outputs as much as a change of the function",
    "every array is accounted for above, so the files are the same function if those stages agree",
)
NO_ARCHITECTURE = Stage(
    "network",
    SKIPPED,
    "not run: the network as a whole is not one that reparam knows",
    "every array is accounted for above, so the files are the same function if those stages agree",
)


class Truth(Protocol):
    """A network in float64 and in float32, and the channels of its image."""

    @property
    def layer(self) -> Any: ...
    @property
    def wide(self) -> Any: ...
    @property
    def channels(self) -> int: ...


class Original:
    """The network of a checkpoint, in float64 and in float32.

    Weights of float64 are rounded for the float32 network only: it is the yardstick of what
    running them in float32 does, for the original as for the candidate.

    Args:
        arrays: its weights, in any form.
        overrides: settings in place of what the architecture assumes.

    Raises:
        UnsupportedModelError: the architecture is unknown, or cannot be built like that.
    """

    def __init__(self, arrays: Arrays, overrides: Mapping[str, Any]) -> None:
        arrays = as_layers_name_them(arrays)
        self.layer = layer_of(paddle_models.as_float32(arrays), overrides)
        self.wide = paddle_models.in_float64(self.layer)
        if any(array.dtype == np.float64 for array in arrays.values()):
            exact = {key: arrays[key].astype(np.float64) for key in self.wide.state_dict()}
            paddle_models.load_arrays(self.wide, exact)
        recognised = recognise({key: array.shape for key, array in arrays.items()})
        self.channels = int(recognised.settings.get("in_channels", 3)) if recognised else 3
        self.multiple: int = getattr(self.layer, "size_multiple", 1)


def compare_layers(original: Original, candidate: Arrays, probing: Probing) -> Stage:
    """Run the checkpoint ``candidate`` in Paddle, float32, against ``original``."""
    layer = layer_of(paddle_models.as_float32(candidate), probing.overrides)
    sizes = sizes_of(original, probing)
    inputs = network_probes(original.channels, sizes, probing.own_input)
    return compare_run("network", original, lambda x: paddle_models.run_layer(layer, x), inputs)


def sizes_of(original: Any, probing: Probing) -> Sequence[tuple[int, int]]:
    """Return the sizes to probe, those that nobody asked for made such as the network takes.

    Raises:
        UnsupportedModelError: a size that was asked for is not one of them.
    """
    multiple = getattr(original, "multiple", 1)
    if probing.sizes is DEFAULT_SIZES:
        return [rounded_up(size, multiple) for size in probing.sizes]
    for size in probing.sizes:
        check_size(size, multiple)
    return probing.sizes


def find_weights(original: Arrays, path: Path, epsilon: float | None) -> Stage:
    """Look in an ONNX file for the fused weight of every block of ``original``."""
    fused, report = fuse_arrays(original, epsilon=epsilon)
    named = [(k, array) for k, array in onnx_files.weights_in(path) if array.dtype.kind == "f"]
    stored = [array for _, array in named]
    absent, dtype = [], np.dtype("float16" if is_narrow(named) else "float32")
    smallest = float(np.finfo(dtype).smallest_subnormal)
    for block in report.fused:
        weight = fused[block.keys[0]]
        slack = 2 * UNIT_ROUNDOFF[dtype.name] * np.abs(weight) + smallest
        same_shape = (w for w in stored if w.shape == weight.shape)
        if not any((np.abs(w.astype(np.float64) - weight) <= slack).all() for w in same_shape):
            absent.append(block.where)
    why = f"the weight is in the file as this checkpoint fuses it, to one rounding of {dtype.name}"
    if absent:
        text = f"not in the file, '{absent[0]}' first: {len(absent)} of {len(report.fused)} blocks"
        return Stage("fused weights", SKIPPED, text, why)
    return Stage("fused weights", EQUAL, f"all {len(report.fused)} found in the file", why)


def is_narrow(weights: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> bool:
    """Whether the weights of a file are float16, whatever is behind the maps of a detector.

    Constants with less than two axes, such as the scales of a Resize, may be float32 all the same.
    """
    kinds = {
        array.dtype.name
        for name, array in weights
        if array.dtype.kind == "f" and array.ndim > 1 and not name.startswith(HEAD)
    }
    return kinds == {"float16"}


def compare_run(
    name: str,
    original: Truth,
    run: Runner,
    inputs: list[tuple[str, np.ndarray[Any, Any]]],
    narrow: bool = False,
    seen: Seen | None = None,
) -> Stage:
    """Compare the outputs of ``run`` with those of ``original``, on every input.

    Args:
        seen: what the original sees of an input, in float64 and in float32, where the candidate
            does something to it first.
    """
    why = WHY_FLOAT16 if narrow else WHY
    shaken = Shaken(original.layer)
    results: list[ProbeResult] = []
    for probe, x in inputs:
        exact, single = (x.astype(np.float64), x) if seen is None else seen(x)
        truth = paddle_models.run_layer(original.wide, exact)
        yardstick = run_in_float16 if narrow else paddle_models.run_layer
        reference = yardstick(original.layer, single)
        found = run(x)
        if len(found) != len(truth):
            text = f"{len(found)} outputs, the original has {len(truth)}"
            return Stage(name, DIFFERENT, text, why)
        for output, three in enumerate(zip(truth, reference, found, strict=True)):
            result = _result(output, probe, *three, narrow)
            if result.verdict == DIFFERENT and np.isfinite(result.distance) and not narrow:
                truth_of, _, found_of = three
                worse = shaken.reference(output, exact, truth_of)
                result = max(result, _result(output, probe, truth_of, worse, found_of, narrow),
                             key=lambda one: one.bound)  # fmt: skip
            results.append(result)
    return Stage(name, *_summary(results, narrow), why, probes=tuple(results))


def _result(
    output: int, probe: str, truth: Any, reference: Any, found: Any, narrow: bool
) -> ProbeResult:
    measured = closeness(truth, reference, found, computed_in="float16" if narrow else None)
    return ProbeResult(**vars(measured), output=output, probe=probe)


def _summary(results: list[ProbeResult], narrow: bool) -> tuple[str, str]:
    wrong = [r for r in results if r.verdict == DIFFERENT]
    if wrong:
        worst = max(wrong, key=lambda result: result.rank)
        return DIFFERENT, (
            f"output {worst.output} is off by {worst.distance:.3g} (allowed: {worst.bound:.3g}) at "
            f"{list(worst.index)} on the probe '{worst.probe}'"
        )
    if not results:
        return NOTHING, "no output was compared"
    unclear = [r for r in results if r.verdict == UNDECIDABLE]
    if unclear:
        dtype, limit = ("float16", UNDECIDABLE_FLOAT16) if narrow else ("float32", WORST_FLOOR)
        worst = max(unclear, key=lambda result: result.rank)
        return UNDECIDABLE, (
            f"{dtype} itself is off by {worst.floor:.2g} where the largest output is "
            f"{worst.scale:.2g} (a share over {limit:g}), so outputs prove nothing"
        )
    outputs = len({r.output for r in results})
    return EQUAL, f"{outputs} output(s) equal on {len(results) // max(outputs, 1)} probes"
