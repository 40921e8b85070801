"""Each converted block of a Layer against the block it was made of, by running both.

The blocks are the user's own code, so nothing is known of them but what they compute. The block as
it was, in float64, is the truth; what its conversion stored is evaluated in float64 as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reparam.adapters.closeness import FACTOR
from reparam.adapters.closeness import UNDECIDABLE as WEAKEST
from reparam.adapters.foreign_import import first_line
from reparam.adapters.foreign_running import (
    Call,
    absolute,
    jittered,
    kernel_of,
    run_block,
)
from reparam.adapters.paddle_models import in_float64
from reparam.conv.bounds import BATCH_NORM_ROUNDINGS, SMALLEST_NORMAL, gamma
from reparam.conv.operators import Array
from reparam.equivalence.probes import probes
from reparam.equivalence.records import DIFFERENT, EQUAL, UNDECIDABLE, BlockResult, Stage

WHY = (
    "truth: the block as it was, in float64; its converted weights, in float64 too, may be off by "
    f"{FACTOR:g} times the error of the block itself in float32 or with weights off by one "
    "rounding of it, and by gamma_k*B of folding in float32: k roundings "
    f"({BATCH_NORM_ROUNDINGS} a BatchNorm, 1 a convolution, 1), B the block evaluated with "
    "absolute values, both for each channel"
)

_JITTERS = range(3)  # seeds of copies with weights off by one rounding
_ALONE = 4  # channels that are probed one by one

TOO_LOOSE = "its largest output, so its outputs prove nothing"
NOT_REACHED = "the network does not run it in evaluation mode, so nothing can be compared"


def blocks_stage(results: Sequence[BlockResult]) -> Stage:
    """Return the stage that the comparisons of blocks come to."""
    wrong = [result for result in results if result.verdict == DIFFERENT]
    unclear = [result for result in results if result.verdict == UNDECIDABLE]
    verdict, summary = EQUAL, f"{len(results)} blocks equal"
    if wrong:
        verdict = DIFFERENT
        worst = max(results, key=_share)  # whose figures are shown beside it
        summary = f"{len(wrong)} of {len(results)} blocks differ, '{worst.where}' most"
    elif unclear:
        verdict = UNDECIDABLE
        summary = (
            f"{len(unclear)} of {len(results)} blocks cannot be compared, '{unclear[0].where}' "
            f"first: {unclear[0].reason}"
        )
    return Stage("blocks", verdict, summary, WHY, blocks=tuple(results))


@dataclass(frozen=True)
class Prepared:
    """A block with what it computes on every probe, to be compared with others.

    Attributes:
        where: what results call it.
        inputs: the probes, by name.
        truths: the outputs of the block in float64.
        references: those of the block in float32, and with weights off by one rounding.
        terms: those of the block that bounds it.
        roundings: k of :data:`WHY`.
    """

    where: str
    inputs: Mapping[str, Call]
    truths: Mapping[str, list[Array]]
    references: Mapping[str, list[list[Array]]]
    terms: Mapping[str, list[Array]]
    roundings: int


def prepare(where: str, block: Any, call: Call | None) -> Prepared | BlockResult:
    """Return what a block is compared by, or why it cannot be compared.

    Args:
        where: what results call it.
        block: as it was, in float32.
        call: how the network calls the block; None if it does not.
    """
    if call is None:
        return _undecidable(where, NOT_REACHED)
    if not any(array.dtype.kind == "f" for array in call.arrays()):
        return _undecidable(where, "it takes no tensor of real numbers")
    try:
        wide, bounding = in_float64(block), absolute(block)
        shaken = [jittered(block, seed) for seed in _JITTERS]
        inputs, truths = _accepted(wide, call)
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return _undecidable(where, f"it does not run in float64: {first_line(error)}")
    if any(y.dtype != np.float64 for outputs in truths.values() for y in outputs):
        return _undecidable(where, "it computes in a fixed precision, so there is no truth")
    references, terms = {}, {}
    for name, probe in inputs.items():
        near = [run_block(copy, probe, "float64") for copy in shaken]
        references[name] = [run_block(block, probe, "float32"), *near]
        terms[name] = run_block(bounding, _absolute_call(probe), "float64")
    return Prepared(where, inputs, truths, references, terms, _roundings(block))


def compare_block(block: Prepared | BlockResult, other: Any) -> BlockResult:
    """Compare a block with what was made of it.

    Args:
        block: as :func:`prepare` returns it.
        other: after its conversion; None if it is gone.
    """
    if isinstance(block, BlockResult):
        return block
    where, truths = block.where, block.truths
    results, seen = [], []
    made = _widened(other)
    for name, probe in block.inputs.items():
        found = made if isinstance(made, str) else _run_converted(made, probe)
        if isinstance(found, str):
            return BlockResult(where, DIFFERENT, np.inf, 0.0, name, (), found)
        near, terms = block.references[name], block.terms[name]
        results.append(_judge(where, name, truths[name], near, found, terms, block.roundings))
        scale = max((np.abs(y).max(initial=0) for y in truths[name]), default=0.0)
        seen += [results[-1].bound / scale] if scale else []
    worst = max(results, key=_share)
    if worst.verdict == EQUAL and seen and min(seen) > WEAKEST:
        return _undecidable(where, f"rounding alone may move {min(seen):.2g} of {TOO_LOOSE}")
    return worst


def _undecidable(where: str, reason: str) -> BlockResult:
    return BlockResult(where, UNDECIDABLE, 0.0, 0.0, "", (), reason)


def _widened(block: Any) -> Any:
    """Return a converted block in float64, or why there is none."""
    if block is None:
        return "it is gone after the conversion"
    try:
        return in_float64(block)
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return f"it cannot be copied after the conversion: {first_line(error)}"


def _run_converted(wide: Any, probe: Call) -> list[Array] | str:
    """Return the outputs of a converted block, in float64, or why there are none."""
    try:
        return run_block(wide, probe, "float64")
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return f"it does not run after the conversion: {first_line(error)}"


def _accepted(block: Any, call: Call) -> tuple[dict[str, Call], dict[str, list[Array]]]:
    """Return the probes, of the first size that the block takes, and its outputs."""
    for size in _sizes(block, call):
        inputs = dict(_probes(call, size))
        try:
            return inputs, _outputs(block, inputs)
        except Exception:  # noqa: BLE001, S112 - foreign code may raise anything
            continue  # a size that it does not take; if the last, its own, fails too, that is told
    inputs = dict(_probes(call, None))
    return inputs, _outputs(block, inputs)


def _outputs(block: Any, inputs: dict[str, Call]) -> dict[str, list[Array]]:
    return {name: run_block(block, probe, "float64") for name, probe in inputs.items()}


def _sizes(block: Any, call: Call) -> list[tuple[int, ...]]:
    """Return sizes with a border and an interior, odd, the first with unequal sides."""
    arrays = call.arrays()
    if len(arrays) != 1 or arrays[0].ndim < 2 or arrays[0].dtype.kind != "f":
        return []
    rank = arrays[0].ndim - 2
    window = (kernel_of(block) + (1,) * rank)[:rank]
    uneven = tuple(k + 2 + 2 * axis for axis, k in enumerate(window))
    return [uneven, tuple(max(uneven, default=1) for _ in window)]


def _probes(call: Call, size: tuple[int, ...] | None) -> Iterator[tuple[str, Call]]:
    """Yield named calls: what the network hands over, and the probes in its place.

    Where no size is given, every array keeps its shape; a block may take several.
    """
    yield "what the network hands over", call
    arrays = call.arrays()
    real = [array.ndim > 1 and array.dtype.kind == "f" for array in arrays]
    kinds = [
        probes(array.shape[1], size or array.shape[2:]) if varied else {}
        for array, varied in zip(arrays, real, strict=True)
    ]
    for name in next((kind for kind in kinds if kind), {}):
        chosen = [
            np.repeat(kind[name], 1 if size else len(array), axis=0) if kind else array
            for kind, array in zip(kinds, arrays, strict=True)
        ]
        yield name, call.with_arrays(chosen)
    if size is not None:
        yield "one channel alone", call.with_arrays([_one_channel(arrays[0].shape[1], size)])


def _one_channel(channels: int, size: tuple[int, ...]) -> Array:
    """Return impulses in the centre of one channel each, of both signs, as a batch.

    In a sum over many channels the error of a weight is small beside what the others may be off
    by; alone, and large beside the bias, it is not.
    """
    chosen = np.unique(np.linspace(0, channels - 1, _ALONE).astype(int))
    x = np.zeros((2, len(chosen), channels, *size))
    centre = tuple(n // 2 for n in size)
    for sign, value in enumerate((1e3, -1e3)):
        for position, channel in enumerate(chosen):
            where = (sign, position, channel, *centre)
            x[where] = value
    return x.reshape(2 * len(chosen), channels, *size)


def _absolute_call(call: Call) -> Call:
    return call.with_arrays([np.abs(a) if a.dtype.kind == "f" else a for a in call.arrays()])


def _roundings(block: Any) -> int:
    """Return k of :data:`WHY`: what folding a block rounds, at most, all its branches in a row."""
    state = block.state_dict()
    norms = len([key for key in state if key.endswith("_variance")])
    convs = len([tensor for tensor in state.values() if len(tensor.shape) > 2])
    return BATCH_NORM_ROUNDINGS * norms + convs + 1


def _judge(
    where: str,
    probe: str,
    truth: list[Array],
    references: list[list[Array]],
    found: list[Array],
    terms: list[Array],
    roundings: int,
) -> BlockResult:
    if [y.shape for y in found] != [y.shape for y in truth]:
        shapes = ", ".join(str(y.shape) for y in found)
        needed = ", ".join(str(y.shape) for y in truth)
        reason = f"its outputs have the shapes {shapes}; needed: {needed}"
        return BlockResult(where, DIFFERENT, np.inf, 0.0, probe, (), reason)
    results = []
    parts = zip(truth, zip(*references, strict=True), found, terms, strict=True)
    for exact, near, output, sums in parts:
        with np.errstate(invalid="ignore"):
            distance = np.nan_to_num(np.abs(output - exact), nan=np.inf, posinf=np.inf)
            own = np.max([np.abs(y.astype(np.float64) - exact) for y in near], axis=0)
        magnitude = np.maximum(_by_channel(np.abs(sums)), _by_channel(np.abs(exact)))
        bound = FACTOR * _by_channel(own) + gamma(roundings, "float32") * magnitude
        bound = bound + SMALLEST_NORMAL["float32"]
        results.append(_result(where, probe, distance, np.broadcast_to(bound, distance.shape)))
    return max(results, key=_share)


def _by_channel(values: Array) -> Array:
    """Return the largest of ``values`` (N, C, *spatial) in each channel, shaped to broadcast."""
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    largest: Array = np.max(values, axis=axes, keepdims=True) if values.size else values
    return largest


def _result(where: str, probe: str, distance: Array, bound: Array) -> BlockResult:
    if not distance.size:
        return BlockResult(where, EQUAL, 0.0, 0.0, probe, ())
    share = distance / bound
    index = tuple(int(i) for i in np.unravel_index(int(np.nanargmax(share)), share.shape))
    off, allowed = float(distance[index]), float(bound[index])
    if off <= allowed:
        return BlockResult(where, EQUAL, off, allowed, probe, index)
    place = f"channel {index[1]}" if len(index) > 1 else f"index {list(index)}"
    reason = f"off by {off:.3g} (allowed: {allowed:.3g}) at {place}, on the probe '{probe}'"
    return BlockResult(where, DIFFERENT, off, allowed, probe, index, reason)


def _share(result: BlockResult) -> float:
    if not np.isfinite(result.distance):
        return np.inf
    return result.distance / result.bound if result.bound else 0.0
