"""Whether new nodes make of a value what the old ones made of it, by a bound that is derived.

    |after - before|  <=  (2 * gamma_n + gamma_m) * B  +  gamma_k(stored) * B  +  flushed

Both sides are evaluated in float64 (:mod:`reparam.graph.evaluation`), and B is ``before`` with
every constant and value replaced by its magnitude, so that nothing cancels in it. Of the terms:

    gamma_n * B    the rounding of evaluating ``before``, n the roundings on its longest path
    gamma_m * B    the same for ``after``: what it sums is, in exact arithmetic, no more than B
    gamma_n * B    the rounding of the fusion: an element of a fused constant is a sum of products
                   of what ``before`` multiplies and adds, of no more terms than n
    gamma_k * B    the fused constants were rounded once to the dtype ``stored``; a value of
                   ``after`` has at most k of them as factors (one for a Conv, a Gemm, a MatMul
                   and an Add), so it is off by the relative error of k roundings
    flushed        constants below the smallest normal of ``stored`` lost up to ``UNDERFLOW``

Nothing in it is tuned, and no error is measured relative to a result, which may cancel to nothing.
Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np

from reparam.conv.bounds import SMALLEST_NORMAL, UNDERFLOW, UNIT_ROUNDOFF, gamma
from reparam.graph.evaluation import Constants, Program
from reparam.graph.evaluation_calls import Array, NotEvaluableError
from reparam.graph.proving_probes import probes
from reparam.graph.proving_sizes import IMAGE_BY_IMAGE, Shape, Sizes, candidates, writes_places

if TYPE_CHECKING:
    import onnx_ir as ir

_SEED = 20210101
_CHEAP = 1 << 24  # multiply-accumulates of one round of probes that nobody notices
_POSITIONS = 36  # elements of an image, all probes of a round together, when weights are many


@dataclass(frozen=True)
class Proof:
    """What was found where ``after`` is furthest from ``before``, for what it may be.

    Attributes:
        holds: whether it is within the bound everywhere.
        worst: the difference there; infinite where it is not finite, or no number at all.
        bound: what it may be.
        ratio: the one over the other.
        probe: which image showed it.
        index: where in the output for that image.
        sizes: shape of the image.
        reason: what is wrong, where that is not the size of the difference.
    """

    holds: bool
    worst: float
    bound: float
    ratio: float
    probe: str
    index: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Run:
    """Arrays for the sources, and the probes that are in them along the batch axis."""

    feeds: dict[ir.Value, Array]
    names: tuple[str, ...]


def prove(
    before: Sequence[ir.Node],
    after: Sequence[ir.Node],
    source: ir.Value | Sequence[ir.Value],
    before_output: ir.Value,
    after_output: ir.Value,
    *,
    opset: int,
    stored: str,
    shape: Shape | Sequence[Shape],
    exact: Mapping[ir.Value, Array] | None = None,
    seed: int = _SEED,
) -> Proof:
    """Return whether ``after`` makes of ``source`` what ``before`` makes of it.

    Probes: zeros, ones, impulses in the corners and in the centre, normal, and normal x 100; on
    at least two sizes, odd and even, that show the border and the interior.

    Args:
        before: nodes, each after what it reads; they read ``source`` and constants only.
        after: the same.
        source: one value, or several.
        before_output: of ``before``, or a source.
        after_output: of ``after``, or a source.
        opset: version of the standard domain.
        stored: dtype that new constants were rounded to.
        shape: of the source, or of each source; None is an open axis.
        exact: constants of ``before`` that an earlier rewrite rounded, as they were before that;
            without it every rewrite after the first would be held against a rounding of its own.
            ``after`` is evaluated with what is stored, all the same.
        seed: of the probes.

    Raises:
        NotEvaluableError: ``before`` has no meaning to the evaluator, or no bound.
    """
    sources, shapes = _paired(source, shape)
    if not sources:
        raise NotEvaluableError("nothing is read that a probe could be")
    unlike = next((v for v, array in (exact or {}).items() if not _is_of(v, array)), None)
    if unlike is not None:
        return _failed(f"what is known of '{unlike.name}' is not what is stored")
    constants = Constants(exact)
    old = Program(before, opset, constants)
    try:
        new = Program(after, opset, Constants() if exact else constants)  # as the file holds them
    except NotEvaluableError as error:
        return _failed(f"the new nodes cannot be evaluated: {error}")
    sides = _Sides(old, new, before_output, after_output, stored)
    refusal = NotEvaluableError("there is no shape to try them on")
    for rounds in candidates([*before, *after], shapes, opset, constants):
        for stacked in (False,) if writes_places(before) else (True, False):
            try:
                runs = _runs(sides, sources, shapes, rounds, stacked, seed)
                expected = [(run, *sides.expected(run)) for run in runs]
                if stacked:
                    _need_images_apart(sides, before, shapes, expected)
            except NotEvaluableError as error:
                refusal = error
                continue
            proofs = [sides.compare(*one) for one in expected]
            return max(proofs, key=lambda proof: (not proof.holds, proof.ratio))
    raise refusal


def _paired(
    source: ir.Value | Sequence[ir.Value], shape: Shape | Sequence[Shape]
) -> tuple[tuple[ir.Value, ...], tuple[Shape, ...]]:
    """Return the sources and their shapes, one of each if that is what was given."""
    if isinstance(source, Sequence):
        return tuple(source), cast("tuple[Shape, ...]", tuple(shape))
    return (source,), (cast("Shape", shape),)


def _is_of(value: ir.Value, exact: Array) -> bool:
    """Whether ``exact``, rounded once, is what ``value`` holds: nobody's word is taken for it."""
    if value.const_value is None:
        return False
    stored = np.asarray(value.const_value.numpy())
    if stored.shape != exact.shape or np.array_equal(stored, exact):
        return stored.shape == exact.shape
    if stored.dtype.name not in UNIT_ROUNDOFF:
        return False
    name = stored.dtype.name
    held = stored.astype(np.float64)
    slack = UNIT_ROUNDOFF[name] * np.abs(exact) * (1 + 2.0**-20)
    slack += np.where(np.abs(held) <= SMALLEST_NORMAL[name], UNDERFLOW[name], 0.0)
    return bool((np.abs(held - exact) <= slack).all())


def _need_images_apart(
    sides: _Sides,
    nodes: Sequence[ir.Node],
    shapes: Sequence[Shape],
    expected: Sequence[tuple[_Run, Array, Array, int]],
) -> None:
    """Validate that nodes make of each image of a stack what they make of it alone.

    Where the batch has a known size the nodes may count on it. Of a Reshape to (1, C, -1) a stack
    of nine images makes one image with nine times the positions, which mixes the probes.

    Raises:
        NotEvaluableError: they do not, so the probes are run one by one.
    """
    if all(shape[:1] in ((), (None,)) for shape in shapes):
        return  # the nodes have to take any number of images
    if all(node.op_type in IMAGE_BY_IMAGE for node in nodes):
        return
    for run, values, magnitude, roundings in expected:
        # the last image: a node that singles one out, or adds images up, starts with the first
        feeds = {value: array[-1:] for value, array in run.feeds.items()}
        alone, *_ = sides.expected(_Run(feeds, run.names[-1:]))
        count = len(alone) if alone.ndim else 0
        apart = bool(count) and values.shape == (count * len(run.names), *alone.shape[1:])
        if apart:
            off = np.abs(values[-count:] - alone)
            apart = bool((off <= 2 * gamma(roundings) * magnitude[-count:]).all())
        if not apart:
            raise NotEvaluableError("the nodes do not treat each image of a batch by itself")


def _failed(reason: str, probe: str = "", sizes: tuple[int, ...] = ()) -> Proof:
    return Proof(False, np.inf, 0.0, np.inf, probe, (), sizes, reason)


class _Sides:
    """Both programs, and the comparison of what they make."""

    def __init__(
        self, old: Program, new: Program, old_output: ir.Value, new_output: ir.Value, stored: str
    ) -> None:
        self.old, self.new, self.stored = old, new, stored
        self._outputs = old_output, new_output

    def weights(self) -> int:
        """Return how many constant elements the sides read, each once."""
        sizes = {v: n for program in (self.old, self.new) for v, n in program.constant_sizes()}
        return sum(sizes.values())

    def expected(self, run: _Run) -> tuple[Array, Array, int]:
        """Return the values of ``before``, their magnitudes, and its roundings.

        Raises:
            NotEvaluableError: it has none on an image of this shape.
        """
        output = self._outputs[0]
        values = self.old.values(run.feeds)
        magnitudes = self.old.magnitudes(values, run.feeds)
        return values[output], magnitudes[output], self.old.roundings(values).get(output, 0)

    def compare(self, run: _Run, exact: Array, magnitude: Array, roundings: int) -> Proof:
        sizes = next(iter(run.feeds.values())).shape
        try:
            values = self.new.values(run.feeds)
        except NotEvaluableError as error:
            return _failed(f"the new nodes cannot be evaluated: {error}", run.names[0], sizes)
        found = values[self._outputs[1]]
        if found.shape != exact.shape:
            reason = f"the shape is {found.shape}; before: {exact.shape}"
            return _failed(reason, run.names[0], sizes)
        own = self.new.roundings(values).get(self._outputs[1], 0)
        factors = max(self.new.stored_factors(values).get(self._outputs[1], 0), 1)
        each = 2 * gamma(roundings) + gamma(own) + gamma(factors, self.stored)
        with np.errstate(all="ignore"):
            bound = each * magnitude + SMALLEST_NORMAL["float64"] * (roundings + own)
            off = np.abs(found - exact)
            if not (off <= bound).all():
                bound = bound + self._flushed(run, values)
        return _furthest(off, bound, run, sizes)

    def _flushed(self, run: _Run, values: dict[ir.Value, Array]) -> Array | float:
        """Return what constants that are zero, or nearly, may add if they lost to underflow."""
        tiny, lost = SMALLEST_NORMAL[self.stored], UNDERFLOW[self.stored]
        output = self._outputs[1]

        def lifted(value: ir.Value) -> Array | None:
            plain = self.new.constants.magnitude(value)
            if plain is None or plain.dtype.kind != "f":
                return plain
            return np.where(plain < tiny, plain + lost, plain)

        more = self.new.magnitudes(values, run.feeds, lifted)[output]
        less = self.new.magnitudes(values, run.feeds)[output]
        found: Array = np.maximum(more - less, 0.0)
        return found


def _furthest(off: Array, bound: Array, run: _Run, sizes: tuple[int, ...]) -> Proof:
    if off.size == 0:
        return Proof(True, 0.0, 0.0, 0.0, run.names[0], (), sizes)
    with np.errstate(all="ignore"):
        ratio = np.where(off == 0, 0.0, off / bound)
    ratio = np.where(np.isfinite(off) & np.isfinite(ratio), ratio, np.inf)
    at = tuple(map(int, np.unravel_index(int(np.argmax(ratio)), ratio.shape)))
    worst = float(off[at]) if np.isfinite(off[at]) else np.inf
    reason = "" if np.isfinite(worst) else "a value is not finite"
    image, index = 0, at
    if len(run.names) > 1 and at and off.shape[0] % len(run.names) == 0:
        each = off.shape[0] // len(run.names)
        image, index = at[0] // each, (at[0] % each, *at[1:])
    holds = bool(ratio[at] <= 1)
    return Proof(
        holds, worst, float(bound[at]), float(ratio[at]), run.names[image], index, sizes, reason
    )


def _runs(
    sides: _Sides,
    sources: Sequence[ir.Value],
    shapes: Sequence[Shape],
    rounds: Sequence[Sequence[Sizes]],
    stacked: bool,
    seed: int,
) -> Iterator[_Run]:
    """Yield the probes of all rounds, in one array a source or each in its own."""
    rng, weights = np.random.default_rng(seed), sides.weights()
    for number, sizes in enumerate(rounds):
        positions = max(prod(size[1:]) for size in sizes)
        most = max(_POSITIONS, _CHEAP // max(weights, 1)) // max(positions, 1)
        spatial = max(max(len(size) - 1, 0) for size in sizes)
        named = probes(spatial, most, number > 0)
        if stacked:
            feeds = {
                source: np.concatenate([probe(rng, (1, *size)) for _, probe in named])
                for source, shape, size in zip(sources, shapes, sizes, strict=True)
                if shape
            }
            yield _Run(feeds, tuple(name for name, _ in named))
            continue
        for name, probe in named:
            feeds = {
                source: probe(rng, (shape[0] or 2, *size) if shape else ())
                for source, shape, size in zip(sources, shapes, sizes, strict=True)
            }
            yield _Run(feeds, (name,))
