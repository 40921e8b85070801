"""Two graphs side by side: run on the same inputs, and held against the same truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.adapters.closeness import closeness
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

_SLOW = 2_000_000_000  # multiply-accumulates in float64, about a second

Feeds = Mapping[str, Array]


class Pair:
    """The original and the fused graph.

    Args:
        read: returns the original, as it is run, anew at every call.
        paths: of both, as they are run.
        folder: for variants.
        stored: dtype of their weights, where that is coarser than float32.
        threads: of each session.

    Raises:
        ExportError: onnxruntime does not load one; ``located`` says which.
    """

    def __init__(
        self,
        read: Callable[[], ir.Model],
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
        try:
            self._truth: Truth | None = Truth(read(), stored)
        except NotEvaluableError as error:
            self._without_truth(error)

    def _without_truth(self, why: NotEvaluableError) -> None:
        self._truth, self.no_truth = None, str(why)

    @property
    def truth(self) -> str:
        """What outputs are held against, in words."""
        if self._truth is None:
            return (
                f"the original, with its weights off by one rounding as the yardstick; it cannot "
                f"be evaluated in float64: {self.no_truth}"
            )
        elsewhere = ", ".join(sorted(self._truth.elsewhere))
        return "the original in float64" + (f" ({elsewhere}: by onnx)" if elsewhere else "")

    @property
    def is_slow(self) -> bool:
        """Whether the last truth took so long that it is to be asked for sparingly."""
        return self._truth is not None and self._truth.macs > _SLOW

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
            return [Result("", name, DIFFERENT, np.inf, reason=reason)]
        exact = self._exact(feeds)
        results = []
        for at, output in enumerate(self.outputs):
            if not only or output in only:
                three = (None if exact is None else exact[at], reference[at], found[at])
                results.append(self._result(at, name, feeds, *three))
        return results

    def _exact(self, feeds: Feeds, move: int | None = None) -> list[Array] | None:
        if self._truth is None:
            return None
        try:
            return self._truth.outputs(feeds, move)
        except NotEvaluableError as error:
            self._without_truth(error)
            return None

    def _result(
        self,
        at: int,
        name: str,
        feeds: Feeds,
        exact: Array | None,
        reference: Array,
        found: Array,
    ) -> Result:
        output = self.outputs[at]
        if found.dtype != reference.dtype or found.shape != reference.shape:
            reason = f"output '{output}' is {_kind(found)}; of the original: {_kind(reference)}"
            return Result(output, name, DIFFERENT, np.inf, reason=reason)
        if reference.dtype.kind not in "fV" or reference.size == 0:
            return _same(output, name, reference, found)
        if exact is not None and exact.shape != reference.shape:
            exact = None  # it chose otherwise, where candidates tie
        result = self._measured(output, name, exact, reference, found)
        if result.verdict == DIFFERENT and np.isfinite(result.distance):
            others = self._shaken(at, feeds, reference.shape, exact is not None)
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
            return Result(output, name, UNDECIDABLE, reason=reason)
        truth = wide if exact is None else np.where(lost | ~np.isfinite(exact), wide, exact)
        yardstick = wide if shaken is None else np.where(lost, 0, shaken)
        measured = closeness(truth, yardstick, other, computed_in=self._computed_in(found))
        return Result(
            output,
            name,
            measured.verdict,
            measured.distance,
            measured.bound,
            measured.reference,
            measured.scale,
            measured.index,
        )

    def _computed_in(self, found: Array) -> str:
        """Return the dtype whose roundings an output has; bfloat16 is coarser still."""
        return "float16" if self._stored else found.dtype.name

    def _shaken(self, at: int, feeds: Feeds, shape: tuple[int, ...], by_truth: bool) -> list[Array]:
        """Return an output of copies whose weights are off by one rounding."""
        if by_truth:
            runs = [self._exact(feeds, move) for move in _MOVES]
        else:
            runs = [run_all(session, feeds) for session in self._moved_sessions()]
        outputs = (run[at].astype(np.float64) for run in runs if run is not None)
        return [y for y in outputs if y.shape == shape and np.isfinite(y).all()]

    def _moved_sessions(self) -> list[Any]:
        """Return sessions of the original whose weights are off by one rounding."""
        for seed in _MOVES[len(self._moved) :]:
            model = self._read()
            coarse = self._stored if self._stored == "bfloat16" else None
            move_weights(model, coarse, seed)
            path = write(model, self._folder / f"moved{seed}.onnx")
            self._moved.append(open_session(path, self._threads))
        return self._moved


class FusedRefusedError(Exception):
    """onnxruntime loads the original, and not the fused graph."""


def _kind(array: Array) -> str:
    return f"{array.dtype} {array.shape}"


def _same(output: str, name: str, reference: Array, found: Array) -> Result:
    """Compare what is counted or chosen: it is the same or it is not."""
    if np.array_equal(reference, found):
        return Result(output, name, EQUAL)
    differs = np.argwhere(np.asarray(reference != found))
    where = tuple(map(int, differs[0]))
    reason = f"{len(differs)} of {reference.size} values of output '{output}' differ"
    return Result(output, name, DIFFERENT, float(len(differs)), index=where, reason=reason)


def new_warnings(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings of ``after`` that are of no kind that ``before`` has."""
    known = {_without_names(line) for line in before}
    return tuple(line for line in after if _without_names(line) not in known)


def _without_names(line: str) -> str:
    """Return a warning without its time, and without the names and numbers in it."""
    text = line.partition("]")[2] or line
    words = (word for word in text.split() if word.isalpha())
    return " ".join(words)
