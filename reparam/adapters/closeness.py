"""Whether one float32 network is as close to the truth as another one is.

    truth       the network as it was given, in float64
    reference   the same network in float32: how far float32 takes it from the truth
    candidate   what was made of it

A candidate that is another function is off by far more than float32 is; one that is the same
function computed in another order is not. So the reference's own distance is the yardstick, and
no tolerance has to be chosen. Distances are max-norms; nothing is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FACTOR = 4.0
"""Two right float32 computations of one network differ in the largest of their many roundings,
not in their kind. Of 300 outputs of random networks, each fused and not, the worst came to 0.64
of the bound with this factor."""

FLOOR_ROUNDINGS = 8
"""The yardstick is no shorter than this many roundings of the output's scale: a reference that
meets the truth by luck (a single output element, say) makes no other network wrong."""

UNDECIDABLE = 1e-3
"""Where float32 itself is further than this from the truth, relative to the output's scale, the
network amplifies rounding, and comparing its outputs proves nothing."""

_HUGE = 1e3  # an absolute difference from there on says little by itself


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How far a candidate is from the truth, and how far it may be.

    Records of whole networks and graphs extend it by what was compared.

    Attributes:
        verdict: ``"equal"``, ``"different"`` or ``"undecidable"``.
        distance: largest absolute difference between the candidate and the truth; infinite for
            another shape, or what is not finite.
        bound: what ``distance`` may be.
        floor: largest absolute difference between the reference and the truth.
        scale: largest absolute value of the truth.
        index: where the distance is largest.
    """

    verdict: str
    distance: float = 0.0
    bound: float = 0.0
    floor: float = 0.0
    scale: float = 0.0
    index: tuple[int, ...] = ()

    @property
    def rank(self) -> tuple[int, float]:
        """Where it stands among others: by its verdict, then by its share of the bound."""
        share = self.distance / self.bound if self.bound else np.inf if self.distance else 0.0
        return ("equal", "undecidable", "different").index(self.verdict), share


UNDECIDABLE_FLOAT16 = 0.1
"""The same where the arithmetic is float16, 8192 times as coarse. The bound is then 0.4 of the
scale; beyond that it comes near the scale itself, which is where unrelated outputs are."""


def closeness(
    truth: Array,
    reference: Array,
    candidate: Array,
    *,
    computed_in: str | None = None,
) -> Closeness:
    """Return how close ``candidate`` is to ``truth``, measured against ``reference``.

    The bound is ``FACTOR * max(|reference - truth|, FLOOR_ROUNDINGS * u * |truth|)``, every bar
    the largest absolute value and u the unit roundoff of the candidate's dtype, or of the one that
    it was computed in. A candidate that is not finite, or has another shape, is different.
    Otherwise the verdict is undecidable where the reference itself is further than ``UNDECIDABLE``:
    being within such a bound proves nothing.

    Raises:
        ValueError: truth and reference differ in shape, or the truth is empty.
    """
    if truth.shape != reference.shape or truth.size == 0:
        raise ValueError(f"a truth of shape {truth.shape}, a reference of {reference.shape}")
    exact = truth.astype(np.float64)
    scale = _largest(exact)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        floor = _largest(reference.astype(np.float64) - exact)
    dtype = np.dtype(computed_in or candidate.dtype)
    roundoff = float(np.finfo(dtype).eps) / 2
    bound = FACTOR * max(floor, FLOOR_ROUNDINGS * roundoff * scale)
    distance, index = _furthest(candidate, exact)
    limit = UNDECIDABLE_FLOAT16 if dtype == np.float16 else UNDECIDABLE
    verdict = _verdict(distance, bound, floor, limit * scale)
    return Closeness(
        verdict=verdict, distance=distance, bound=bound, floor=floor, scale=scale, index=index
    )


def _largest(values: Array) -> float:
    return float(np.max(np.abs(values)))


def _furthest(candidate: Array, exact: Array) -> tuple[float, tuple[int, ...]]:
    """Return the largest difference, infinite for NaN and for another shape, and where it is."""
    if candidate.shape != exact.shape:
        return np.inf, ()
    with np.errstate(invalid="ignore"):
        error = np.abs(candidate.astype(np.float64) - exact)
    error = np.where(np.isfinite(error), error, np.inf)
    index = np.unravel_index(int(np.argmax(error)), error.shape)
    return float(error[index]), tuple(map(int, index))


def _verdict(distance: float, bound: float, floor: float, limit: float) -> str:
    if not np.isfinite(distance):
        return "different"
    if floor > limit:
        return "undecidable"
    return "equal" if distance <= bound else "different"


def figure(distance: float, scale: float, form: str = ".2e") -> str:
    """Return a difference as text; where outputs are huge, with what it is of the largest one.

    Args:
        scale: the largest magnitude of the output.
        form: of the difference, as :func:`format` takes it.
    """
    text = format(distance, form)
    return text if scale < _HUGE else f"{text} ({distance / scale:.1e} of the largest)"
