"""Two graphs side by side: evaluated and run on the same inputs, held against the same truth.

Both files are evaluated in float64 with the numbers that they store. Let F(x; w) be the fused graph
with its constants w. Every region is exact (the proofs), so the original is F(x; v) for constants v
of which w is the rounding: |w_i - v_i| <= max(u |w_i|, eta), u the unit roundoff of their dtype and
eta what underflow takes. To first order, what is off is a sum over the constants,

    F(x; w) - F(x; v)  =  sum of dF/dw_i (w_i - v_i)

which no bound on magnitudes follows through a network of many layers: it grows by the sum of each
row at every one of them, and real errors by its root. So the sum is drawn: copies of the fused
graph with every constant off by exactly max(u |w_i|, eta), up or down at random, give

    |F(x; w') - F(x; w)|    of the same sum, each term as large as it can be.

Roundings are independent of these signs and of mean zero (the model of Higham and Mary 2019, A New
Approach to Probabilistic Rounding Error Analysis), so their sum spreads no wider than the draws',
for every output: by Hoeffding, more than ``FACTOR`` standard deviations happen once in 1,500. The
bound is ``FACTOR`` times the largest draw, no less than ``FLOOR_ROUNDINGS`` allow; of ``_DRAWS``,
none beyond those that are needed. That the copies are of the fused graph makes it right: what the
original does with its own roundings, and what float32 arithmetic does in a runtime, is not in it. A
wrong constant, off by more than roundings, is in no draw.

onnxruntime then runs the file, to see that it takes it. What float32 does there is held to a loose
bound alone (:func:`_runs_well`). Where a graph has no meaning in float64, the run is the yardstick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.closeness import UNDECIDABLE as UNCLEAR
from reparam.adapters.closeness import UNDECIDABLE_FLOAT16, Closeness, closeness
from reparam.adapters.onnx_checks import load_listening
from reparam.adapters.onnx_runtime import open_session, run_all
from reparam.errors import ExportError
from reparam.graph.evaluation_calls import Array, NotEvaluableError
from reparam.graph.whole_records import DIFFERENT, EQUAL, UNDECIDABLE, Result
from reparam.graph.whole_truth import Truth
from reparam.graph.whole_variants import move_weights, write

if TYPE_CHECKING:
    import onnx_ir as ir

_MOVES = (11, 12, 13)  # seeds of the copies whose weights are off by one rounding

_DRAWS = tuple(range(11, 19))
"""Seeds of the copies of the fused graph. Of one number, eight draws are all seven times too small
once in 300,000; of many, the largest of each draw hardly varies."""

_LOOSE = 16.0  # times what the original is off in onnxruntime: another order of float32 sums

_SLOW = 2_000_000_000  # multiply-accumulates in float64, about a second

Feeds = Mapping[str, Array]


class Pair:
    """The original and the fused graph.

    Args:
        read: return the original and the fused graph, as they are run, anew at every call.
        paths: of both, as they are run.
        folder: for variants.
        stored: dtype of their weights, where that is coarser than float32.
        threads: of each session.

    Raises:
        ExportError: onnxruntime does not load one; ``located`` says which.
    """

    def __init__(
        self,
        read: tuple[Callable[[], ir.Model], Callable[[], ir.Model]],
        paths: tuple[Path, Path],
        folder: Path,
        stored: str | None,
        threads: int,
    ) -> None:
        self._read, self._folder, self._stored, self._threads = read, folder, stored, threads
        self.original, heard = load_listening(paths[0], threads)
        try:
            self.fused, heard_of_fused = load_listening(paths[1], threads)
        except ExportError as error:
            raise FusedRefusedError(error.found) from error
        self.warnings = new_warnings(heard, heard_of_fused)
        self.outputs = [output.name for output in self.original.get_outputs()]
        self._moved: list[Any] = []
        self.no_truth = ""
        self._truths: tuple[Truth, ...] = ()
        try:
            self._truths = tuple(Truth(one(), stored) for one in read)
        except NotEvaluableError as error:
            self._without_truth(error)

    def _without_truth(self, why: NotEvaluableError) -> None:
        self._truths, self.no_truth = (), str(why)

    @property
    def truth(self) -> str:
        """What outputs are held against, in words."""
        if not self._truths:
            return (
                f"the original, with its weights off by one rounding as the yardstick; it cannot "
                f"be evaluated in float64: {self.no_truth}"
            )
        elsewhere = ", ".join(sorted(self._truths[0].elsewhere))
        return "the original in float64" + (f" ({elsewhere}: by onnx)" if elsewhere else "")

    @property
    def is_slow(self) -> bool:
        """Whether the last truth took so long that it is to be asked for sparingly."""
        return bool(self._truths) and self._truths[0].macs > _SLOW

    def run(self, feeds: Feeds) -> list[Array]:
        """Return the outputs of the original in onnxruntime.

        Raises:
            ExportError: it cannot run on these inputs.
        """
        return run_all(self.original, feeds)

    def judge(
        self, name: str, feeds: Feeds, reference: Sequence[Array], only: Sequence[str] = ()
    ) -> list[Result]:
        """Return how each output of the fused graph compares.

        Args:
            name: of the run.
            feeds: of both.
            reference: what :meth:`run` returned.
            only: names of outputs; all if empty.
        """
        try:
            found = run_all(self.fused, feeds)
        except ExportError as error:
            reason = f"the original runs on {name}, the fused graph does not: {error.found}"
            return [_without_numbers("", name, DIFFERENT, reason)]
        exact = self._exact(feeds)
        results = []
        for at, output in enumerate(self.outputs):
            if not only or output in only:
                results.append(self._result(at, name, feeds, exact, reference[at], found[at]))
        return results

    def _exact(self, feeds: Feeds) -> tuple[list[Array], ...]:
        """Return the outputs of both graphs in float64, or nothing."""
        try:
            return tuple(truth.outputs(feeds) for truth in self._truths)
        except NotEvaluableError as error:
            self._without_truth(error)
            return ()

    def _result(
        self,
        at: int,
        name: str,
        feeds: Feeds,
        exact: tuple[list[Array], ...],
        reference: Array,
        found: Array,
    ) -> Result:
        output = self.outputs[at]
        if found.dtype != reference.dtype or found.shape != reference.shape:
            reason = f"output '{output}' is {_kind(found)}; of the original: {_kind(reference)}"
            return _without_numbers(output, name, DIFFERENT, reason)
        both = [outputs[at] for outputs in exact]
        if not both or any(one.shape != reference.shape for one in both):
            both = []  # the truth chose otherwise, where candidates tie
        if reference.dtype.kind not in "fV" or reference.size == 0:
            return _same(output, name, *(both or (reference, found)))
        if not both or found.dtype == np.float64:  # whose roundings are those of the evaluator
            truth = both[0] if both else None
            return self._by_runtime(at, name, feeds, truth, reference, found)
        result = self._in_float64(at, name, feeds, both[0], both[1], found)
        return _runs_well(result, both[0], reference, found, self._computed_in(found))

    def _in_float64(
        self, at: int, name: str, feeds: Feeds, exact: Array, other: Array, found: Array
    ) -> Result:
        """Compare both graphs as they are evaluated in float64, by what roundings do to the fused.
        """  # fmt: skip
        output, lost = self.outputs[at], ~np.isfinite(exact)
        if not np.array_equal(exact[lost], other[lost], equal_nan=True):
            reason = f"output '{output}' of the original is not finite, and not the same"
            return _without_numbers(output, name, UNDECIDABLE, reason)
        exact, other = np.where(lost, 0, exact), np.where(lost, 0, other)

        def measured(yardstick: Array) -> Closeness:
            return closeness(exact, yardstick, other, computed_in=self._computed_in(found))

        best = measured(exact)
        if best.verdict == DIFFERENT and np.isfinite(best.distance):
            for draw in self._draws(at, feeds, lost):
                best = max(best, measured(exact + draw - other), key=lambda one: one.bound)
                if best.verdict != DIFFERENT:
                    break
        return Result(**vars(best), output=output, run=name)

    def _draws(self, at: int, feeds: Feeds, lost: Array) -> Iterator[Array]:
        """Yield an output of copies of the fused graph, its constants off by one rounding.

        It is 0 where the original is ``lost``; what is not finite elsewhere tells nothing.
        """
        for seed in _DRAWS:
            made = self._truths[1].outputs(feeds, seed)[at]
            made = np.where(lost, 0, made) if made.shape == lost.shape else np.array(np.nan)
            if np.isfinite(made).all():
                yield made

    def _by_runtime(
        self,
        at: int,
        name: str,
        feeds: Feeds,
        exact: Array | None,
        reference: Array,
        found: Array,
    ) -> Result:
        """Compare what onnxruntime makes of both graphs, by what it is off with the original."""
        output = self.outputs[at]
        result = self._measured(output, name, exact, reference, found)
        if result.verdict == DIFFERENT and np.isfinite(result.distance):
            others = self._moved_outputs(at, feeds, reference.shape, exact is not None)
            results = [self._measured(output, name, exact, reference, found, y) for y in others]
            result = max([result, *results], key=lambda one: one.bound)
        return result

    def _measured(
        self,
        output: str,
        name: str,
        exact: Array | None,
        reference: Array,
        found: Array,
        shaken: Array | None = None,
    ) -> Result:
        """Return a result; without a truth, the original is the truth and ``shaken`` the yardstick.
        """  # fmt: skip
        wide, other = reference.astype(np.float64), found.astype(np.float64)
        lost = ~np.isfinite(wide)
        if lost.any() and np.array_equal(wide[lost], other[lost], equal_nan=True):
            wide, other = np.where(lost, 0, wide), np.where(lost, 0, other)  # lost in both alike
        elif lost.any():
            reason = f"output '{output}' of the original is not finite, and not the same"
            return _without_numbers(output, name, UNDECIDABLE, reason)
        truth = wide if exact is None else np.where(lost | ~np.isfinite(exact), wide, exact)
        yardstick = wide if shaken is None else np.where(lost, 0, shaken)
        measured = closeness(truth, yardstick, other, computed_in=self._computed_in(found))
        return Result(**vars(measured), output=output, run=name)

    def _computed_in(self, found: Array) -> str:
        """Return the dtype whose roundings an output has; bfloat16 is coarser still."""
        return "float16" if self._stored else found.dtype.name

    def _moved_outputs(
        self, at: int, feeds: Feeds, shape: tuple[int, ...], by_truth: bool
    ) -> list[Array]:
        """Return an output of copies of the original whose weights are off by one rounding."""
        if by_truth:
            runs = [self._truths[0].outputs(feeds, move) for move in _MOVES]
        else:
            runs = [run_all(session, feeds) for session in self._moved_sessions()]
        outputs = (run[at].astype(np.float64) for run in runs)
        return [y for y in outputs if y.shape == shape and np.isfinite(y).all()]

    def _moved_sessions(self) -> list[Any]:
        """Return sessions of the original whose weights are off by one rounding."""
        for seed in _MOVES[len(self._moved) :]:
            model = self._read[0]()
            coarse = self._stored if self._stored == "bfloat16" else None
            move_weights(model, coarse, seed)
            path = write(model, self._folder / f"moved{seed}.onnx")
            self._moved.append(open_session(path, self._threads))
        return self._moved


class FusedRefusedError(Exception):
    """onnxruntime loads the original, and not the fused graph."""


def _runs_well(
    result: Result, exact: Array, reference: Array, found: Array, computed_in: str
) -> Result:
    """Return a result with what onnxruntime makes of the fused file.

    It may be off from the truth by 16 times what it is off with the original, or by the share of
    the scale from which on a network is called undecidable, whichever is more. That is loose: a
    kernel that is broken is off by the scale itself.
    """
    known = np.isfinite(reference.astype(np.float64)) & np.isfinite(exact)
    runtime, own = (
        float(np.abs(y.astype(np.float64)[known] - exact[known]).max(initial=0.0))
        for y in (found, reference)
    )
    runtime, scale = np.inf if np.isnan(runtime) else runtime, result.scale
    share = UNDECIDABLE_FLOAT16 if computed_in == "float16" else UNCLEAR
    allowed = max(_LOOSE * own, share * scale)
    result = replace(result, runtime=runtime)
    if result.verdict == DIFFERENT or runtime <= allowed:
        return result
    reason = (
        f"onnxruntime takes output '{result.output}' of the fused graph off by {runtime:.3g} "
        f"(allowed: {allowed:.3g}) on {result.run}, though in float64 it is {result.verdict}"
    )
    return replace(result, verdict=DIFFERENT, reason=reason)


def _without_numbers(output: str, run: str, verdict: str, reason: str) -> Result:
    distance = np.inf if verdict == DIFFERENT else 0.0
    return Result(output=output, run=run, verdict=verdict, distance=distance, reason=reason)


def _kind(array: Array) -> str:
    return f"{array.dtype} {array.shape}"


def _same(output: str, name: str, reference: Array, found: Array) -> Result:
    """Compare what is counted or chosen: it is the same or it is not."""
    if np.array_equal(reference, found):
        return Result(output=output, run=name, verdict=EQUAL)
    differs = np.argwhere(np.asarray(reference != found))
    where = tuple(map(int, differs[0]))
    reason = f"{len(differs)} of {reference.size} values of output '{output}' differ"
    result = _without_numbers(output, name, DIFFERENT, reason)
    return replace(result, distance=float(len(differs)), index=where)


def new_warnings(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings of ``after`` that are of no kind that ``before`` has."""
    known = {_without_names(line) for line in before}
    return tuple(line for line in after if _without_names(line) not in known)


def _without_names(line: str) -> str:
    """Return a warning without its time, and without the names and numbers in it."""
    text = line.partition("]")[2] or line
    words = (word for word in text.split() if word.isalpha())
    return " ".join(words)
