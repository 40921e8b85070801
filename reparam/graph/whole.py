"""The whole fused graph against the whole original, in float64, and in the runtime that runs it.

Each rewrite was proved by itself; this is the check that they were put in their places. The truth
is the original in float64, the yardstick what rounding the constants of the fused graph does
(:mod:`reparam.graph.whole_pair` derives it), so that no tolerance has to be chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from reparam.adapters.onnx_files import read_header
from reparam.adapters.onnx_model import Interface, interface_of
from reparam.drafts import scratch_folder
from reparam.errors import ExportError, GraphError
from reparam.graph.evaluation_calls import Array
from reparam.graph.files_serde import deserialized
from reparam.graph.whole_inputs import LARGER, PROBES, SIZES, feeds, plans, shapes, unknown_kind
from reparam.graph.whole_pair import FusedRefusedError, Pair
from reparam.graph.whole_records import (
    DIFFERENT,
    NOT_RUN,
    UNDECIDABLE,
    Result,
    Whole,
    summary,
)
from reparam.graph.whole_variants import (
    chosen_from,
    drawing,
    expose,
    has_bfloat16,
    has_float16,
    widen_bfloat16,
    write,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_Readers = tuple[Callable[[], "ir.Model"], Callable[[], "ir.Model"]]

_SHAPES = 2  # sizes that all is run on, where sizes are open


@dataclass(frozen=True)
class _Run:
    name: str
    feeds: dict[str, Array]
    reference: list[Array]


def compare(
    original: Path,
    fused: Path,
    *,
    seed: int = 0,
    threads: int = 1,
    sizes: Sequence[tuple[int, int]] = SIZES,
    own: Mapping[str, Array] | None = None,
) -> Whole:
    """Return whether two files are one function with one interface.

    Inputs are made from the interface: two in a batch and several sizes where those are open. A
    model of bfloat16 is run as a copy in float32, with the same weights, as onnxruntime's CPU has
    no such convolution. Where outputs are chosen (by an ArgMax, a suppression of boxes) and differ,
    what they are chosen from decides: if that is equal, candidates tie, and the verdict is
    undecidable.

    Args:
        original: the file as it was; what it keeps its weights in may be beside it.
        fused: what was made of it.
        seed: of the inputs.
        threads: of onnxruntime.
        sizes: (H, W) to try first where both are open.
        own: arrays of the user by the names of the inputs, that both are run on first.

    Raises:
        GraphError: the original does not run on ``own``.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    first, second = interface_of(read_header(original)), interface_of(read_header(fused))
    differs = _difference(first, second)
    if differs:
        return Whole(DIFFERENT, reason=differs)
    unknown = unknown_kind(first.inputs)
    if unknown:
        return Whole(NOT_RUN, reason=unknown)
    with scratch_folder() as folder:
        try:
            made = _Comparison((original, fused), folder, threads)
            return made.of(first, seed, sizes, own)
        except FusedRefusedError as error:
            return Whole(DIFFERENT, reason=f"onnxruntime cannot load the fused graph: {error}")
        except ExportError as error:
            return Whole(
                NOT_RUN, reason=f"{error.what}: {error.found}" if error.found else error.what
            )


def _difference(first: Interface, second: Interface) -> str:
    """Return how two interfaces differ, or nothing."""
    for kind, old, new in (
        ("inputs", first.inputs, second.inputs),
        ("outputs", first.outputs, second.outputs),
    ):
        if [v.name for v in old] != [v.name for v in new]:
            return f"{kind}: {[v.name for v in new]}; of the original: {[v.name for v in old]}"
        for one, other in zip(old, new, strict=True):
            if one != other:
                return (
                    f"'{one.name}' is {other.dtype} {other.shape}; "
                    f"of the original: {one.dtype} {one.shape}"
                )
    return ""


class _Comparison:
    """Two files made ready to be run."""

    def __init__(self, paths: tuple[Path, Path], folder: Path, threads: int) -> None:
        self._files, self._folder, self._threads = paths, folder, threads
        model = _load(paths[0])
        self._drawing = drawing(model)
        self._wide = has_bfloat16(model)
        self._stored = "bfloat16" if self._wide else "float16" if has_float16(model) else None
        self._runnable = paths
        if self._wide:
            self._runnable = (self._written(paths[0], "original"), self._written(paths[1], "fused"))

    def _written(self, path: Path, name: str) -> Path:
        return write(self._model(path), self._folder / f"{name}.float32.onnx")

    def _model(self, path: Path, names: Sequence[str] = ()) -> ir.Model:
        """Return a model as it is run, with the named values among its outputs."""
        model = _load(path)
        if self._wide:
            widen_bfloat16(model)
        expose(model, names)
        return model

    def of(
        self,
        interface: Interface,
        seed: int,
        sizes: Sequence[tuple[int, int]],
        own: Mapping[str, Array] | None = None,
    ) -> Whole:
        if self._drawing:
            return Whole(NOT_RUN, reason=f"{self._drawing} makes other numbers in every run")
        pair = self._pair(self._readers(), self._runnable, "whole")
        notes = ("run as float32 copies, with the bfloat16 weights",) if self._wide else ()
        results: list[Result] = []
        names = []
        wide = "float32" if self._wide else ""
        given = [] if own is None else [_own_run(pair, own, interface, wide)]
        # One after the other: how long the truth took of one decides whether there is another.
        for run in chain(given, _runs(pair, interface, seed, sizes, wide)):
            names.append(run.name)
            judged = pair.judge(run.name, run.feeds, run.reference)
            results += [self._reconsidered(result, run) for result in judged]
        whole = Whole(
            NOT_RUN, truth=pair.truth, runs=tuple(names), warnings=pair.warnings, notes=notes
        )
        if not results:
            return replace(whole, reason="the original runs on none of the inputs that were made")
        return summary(results, whole)

    def _readers(self, names: Sequence[str] = ()) -> _Readers:
        """Return what reads both files, with more values among their outputs."""
        first, second = (partial(self._model, path, names) for path in self._files)
        return first, second

    def _pair(self, read: _Readers, paths: tuple[Path, Path], name: str) -> Pair:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return Pair(read, paths, folder, self._stored, self._threads)

    def _reconsidered(self, result: Result, run: _Run) -> Result:
        """Return the result of an output that is chosen by what it is chosen from."""
        if result.verdict != DIFFERENT or not result.output:
            return result
        names = chosen_from(self._model(self._files[0]), result.output)
        if not names:
            return result
        models = [self._model(path) for path in self._files]
        present = [expose(model, names) for model in models]
        if present != [names, names]:
            return result
        paths = [write(m, self._folder / f"exposed{at}.onnx") for at, m in enumerate(models)]
        pair = self._pair(self._readers(names), (paths[0], paths[1]), "exposed")
        reference = pair.run(run.feeds)
        kinds = {n: v.dtype.kind for n, v in zip(pair.outputs, reference, strict=True)}
        floats = [name for name in names if kinds[name] == "f"]
        judged = pair.judge(run.name, run.feeds, reference, floats) if floats else []
        worse = [one for one in judged if one.verdict == DIFFERENT]
        if worse or not judged:
            return worse[0] if worse else result
        reason = (
            f"output '{result.output}' differs and is chosen from values that are equal "
            f"('{floats[0]}' first): candidates tie within rounding"
        )
        return replace(result, verdict=UNDECIDABLE, reason=reason)


def _load(path: Path) -> ir.Model:
    import onnx_ir

    model = deserialized(read_header(path))
    onnx_ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def _own_run(pair: Pair, own: Mapping[str, Array], interface: Interface, wide: str) -> _Run:
    """Return a run on the user's arrays, in the dtypes of the inputs."""
    dtypes = {v.name: wide if wide and v.dtype == "bfloat16" else v.dtype for v in interface.inputs}
    given = {name: array.astype(dtypes[name]) for name, array in own.items()}
    try:
        return _Run("the probe", given, pair.run(given))
    except ExportError as error:
        raise GraphError("the original does not run on the probe", found=error.found) from error


def _runs(
    pair: Pair, interface: Interface, seed: int, sizes: Sequence[tuple[int, int]], wide: str
) -> Iterator[_Run]:
    """Yield inputs that the original runs on, with what it makes of them.

    All probes on the first shapes, one on the second, one on each where the truth takes long;
    larger sizes where it takes no small one.
    """
    inputs = [replace(v, dtype=wide) if wide and v.dtype == "bfloat16" else v
              for v in interface.inputs]  # fmt: skip
    tried: list[dict[str, tuple[int, ...]]] = []
    done: list[tuple[int, int]] = []
    for plan in plans((*sizes, *LARGER)):
        made = shapes(inputs, plan)
        if made in tried or plan.image in done or (done and plan.image in LARGER):
            continue
        tried.append(made)
        for probe in PROBES if not done else PROBES[:1]:
            if pair.is_slow and probe != PROBES[0]:
                continue
            given = feeds(inputs, plan, probe, seed)
            try:
                reference = pair.run(given)
            except ExportError:
                break  # it does not take these sizes, and neither need the other
            text = ", ".join(f"{name} {shape}" for name, shape in made.items())
            yield _Run(f"{probe} ({text})", given, reference)
            if plan.image not in done:
                done.append(plan.image)
        if len(done) == _SHAPES:
            return
