"""Block by block, from the stored arrays alone: the proof that needs no network and no runtime.

Two checks that share no code. Probes: both sides of a block are evaluated by the oracle in
float64, each in the form in which its file holds it, so a wrong law, a wrong epsilon or a wrong
weight shows. Weights: the candidate's are compared one by one with what the block is exactly, and
the certificate says what that means for every input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from reparam.checkpoint.blocks import BlockMatch, block_tree
from reparam.checkpoint.epsilons import epsilon_of
from reparam.checkpoint.families import CONV_BN
from reparam.checkpoint.rows import as_convolution, parts_of, stored_form
from reparam.conv import Block, Conv, error_bound, evaluate, fuse
from reparam.conv.bounds import FUSING_ROUNDINGS
from reparam.conv.certificate import certificate_of, channel_bounds, worst_element
from reparam.conv.operators import Array
from reparam.equivalence.probes import probes
from reparam.equivalence.records import DIFFERENT, EQUAL, BlockResult, Stage

Arrays = Mapping[str, np.ndarray[Any, Any]]

WHY = (
    "both sides evaluated in float64 from the stored arrays on 6 probes, and every weight compared "
    f"with the exact one; allowed is what {FUSING_ROUNDINGS} roundings of its dtype can do, "
    f"2*gamma_n*B + {FUSING_ROUNDINGS}*u*B (Higham 2002, section 3.1)"
)


class _Form(NamedTuple):
    """One form of a block: the whole, output channels of it, the dtype of its fused weight."""

    block: Block
    rows: Callable[[slice], Block]
    stored: str


def compare_blocks(
    matches: tuple[BlockMatch, ...], original: Arrays, candidate: Arrays, epsilon: float | None
) -> Stage:
    """Compare every block of ``matches`` (train-time form in ``original``) with ``candidate``."""
    results = tuple(_compare(match, original, candidate, epsilon) for match in matches)
    wrong = [result for result in results if result.verdict == DIFFERENT]
    if wrong:
        worst = max(results, key=lambda result: result.share)  # whose figures are shown beside it
        summary = f"{len(wrong)} of {len(results)} blocks differ, '{worst.where}' most"
    else:
        pairs = sum(match.family is CONV_BN for match in matches)
        summary = f"{len(results) - pairs} blocks equal"
        summary += f", {pairs} folded BatchNorms equal" if pairs else ""
    return Stage("blocks", DIFFERENT if wrong else EQUAL, summary, WHY, blocks=results)


def _compare(
    match: BlockMatch, original: Arrays, candidate: Arrays, epsilon: float | None
) -> BlockResult:
    eps = epsilon_of(match, epsilon)
    ours = block_tree(match, original, eps)
    problem = _absent_or_misshapen(match, original, candidate)
    if problem:
        return BlockResult(match.where, DIFFERENT, np.inf, 0.0, "", (), problem)
    geometry = match.geometry
    size = tuple(k + 2 + 2 * axis for axis, k in enumerate(geometry.kernel))  # border and interior
    inputs = probes(geometry.per_group * (geometry.groups or 1), size)
    x = np.concatenate(list(inputs.values()))
    results = []
    for form in _forms_in(match, original, candidate, eps):
        distance = _difference(ours, form.block, x)
        bound = error_bound(ours, x, stored=form.stored, roundings=FUSING_ROUNDINGS)
        result = _judge(match.where, distance, bound, list(inputs))
        results.append(_certified(result, match, original, eps, form))
    return next((result for result in results if result.verdict == DIFFERENT), results[0])


def _certified(
    result: BlockResult, match: BlockMatch, original: Arrays, epsilon: float, form: _Form
) -> BlockResult:
    """Add what holds for every input; one weight that is off decides where no probe did."""
    every, misfits = [], []
    for rows in parts_of(match):
        ours = block_tree(match, original, epsilon, rows if match.by_rows else None)
        theirs = form.rows(rows)
        fused, other = fuse(ours), fuse(theirs)  # of a stored convolution, itself
        bounds = channel_bounds(ours, fused, other.weight, other.bias, form.stored)
        if not isinstance(theirs, Conv):
            own = channel_bounds(theirs, other, other.weight, other.bias, form.stored)
            bounds = bounds.widened(own)
        every.append(bounds)
        worst = worst_element(
            ours, fused, other.weight, other.bias, roundings=FUSING_ROUNDINGS, dtype=form.stored
        )
        place = (worst.index[0] + rows.start, *worst.index[1:])
        misfits.append(replace(worst, index=place))
    result = replace(result, certificate=certificate_of(every, form.stored))
    worst = max(misfits, key=lambda misfit: misfit.excess)
    if result.verdict == DIFFERENT or worst.off <= worst.allowed:
        return result
    return replace(
        result,
        verdict=DIFFERENT,
        distance=worst.off,
        bound=worst.allowed,
        probe="",
        index=worst.index,
        reason=f"{worst.name} {list(worst.index)} is off by {worst.off:.3g} (allowed: "
        f"{worst.allowed:.3g}), too little to show on a probe",
    )


def _difference(ours: Block, theirs: Block, x: Array) -> Array:
    expected, found = evaluate(ours, x), evaluate(theirs, x)
    return np.nan_to_num(np.abs(found - expected), nan=np.inf, posinf=np.inf)


def _judge(where: str, distance: Array, bound: Array, names: list[str]) -> BlockResult:
    share = np.divide(distance, bound, out=np.where(distance > 0, np.inf, 0.0), where=bound > 0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape))
    probe, off, allowed = names[index[0]], float(distance[index]), float(bound[index])
    if share[index] <= 1:
        return BlockResult(where, EQUAL, off, allowed, probe, index)
    position = ", ".join(str(i) for i in index[2:])
    reason = (
        f"off by {off:.3g} (allowed: {allowed:.3g}) at channel {index[1]}, position "
        f"({position}), on the probe '{probe}'"
    )
    return BlockResult(where, DIFFERENT, off, allowed, probe, index, reason)


def _in_train_time_form(match: BlockMatch, arrays: Arrays) -> bool:
    return all(key in arrays for key in match.branch_keys)


def _holds_deploy(match: BlockMatch, original: Arrays, candidate: Arrays) -> bool:
    """Whether the deploy weights in ``candidate`` have to be those of the block.

    Beside branches they do too, since some projects run them and leave the branches in the file;
    but a placeholder that both files hold alike was never run.
    """
    keys = (match.weight_key, match.bias_key)
    if set(keys) & set(match.branch_keys):  # the deploy form has taken over a name of the branches
        return not _in_train_time_form(match, candidate)
    if not _in_train_time_form(match, candidate):
        return True
    if not any(key in candidate for key in keys):
        return False
    return not all(
        key in original and key in candidate and np.array_equal(original[key], candidate[key])
        for key in keys
    )


def _absent_or_misshapen(match: BlockMatch, original: Arrays, candidate: Arrays) -> str:
    """Return why ``candidate`` holds no usable form of the block, or nothing."""
    if not _holds_deploy(match, original, candidate):
        return ""
    whole = np.broadcast_to(np.zeros(1, np.uint8), match.geometry.weight)
    stored = stored_form(match, whole).shape
    for key, needed in ((match.weight_key, stored), (match.bias_key, whole.shape[:1])):
        if key not in candidate:
            return f"'{key}' is missing"
        if candidate[key].shape != needed:
            return f"'{key}' has the shape {candidate[key].shape}; needed: {needed}"
        if not np.isfinite(candidate[key]).all():
            return f"'{key}' holds values that are not finite"
    return ""


def _forms_in(
    match: BlockMatch, original: Arrays, candidate: Arrays, epsilon: float
) -> Iterator[_Form]:
    """Yield each form of the block that ``candidate`` holds."""
    if _in_train_time_form(match, candidate):
        tree = block_tree(match, candidate, epsilon)

        def part(rows: slice) -> Block:
            return block_tree(match, candidate, epsilon, rows if match.by_rows else None)

        yield _Form(tree, part, "float64")
    if _holds_deploy(match, original, candidate):
        weight = as_convolution(match, candidate[match.weight_key])
        bias = candidate[match.bias_key]
        padding = [k // 2 for k in weight.shape[2:]]
        conv = Conv.of(weight, bias, padding=padding, groups=match.geometry.groups or 1)
        yield _Form(conv, lambda rows: Conv.of(weight[rows], bias[rows]), weight.dtype.name)
