"""From raw samples to a summary and a verdict; NumPy only.

One word for one number: ``speedup`` is baseline time / model time, so 1.13 is 13 % faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 4_000
SEED = 0
NOISE_THRESHOLD = 0.02  # a smaller difference than this is nobody's reason to deploy
MIN_ROUNDS = 6  # with fewer, no two rounds enclose a median with 95 % confidence

Verdict = Literal["faster", "slower", "within noise", "undecided: too few rounds"]


@dataclass(frozen=True)
class Summary:
    """What is said about the samples of one model, in seconds."""

    n: int
    median: float
    quartile_1: float
    quartile_3: float
    p99: float

    @property
    def iqr(self) -> float:
        """The interquartile range, in seconds."""
        return self.quartile_3 - self.quartile_1

    def to_json(self) -> dict[str, float]:
        """Return the summary as plain values."""
        return {"n": self.n, "median": self.median, "iqr": self.iqr, "p99": self.p99}


@dataclass(frozen=True)
class Comparison:
    """A model against the baseline: ``speedup`` is baseline time / model time."""

    speedup: float
    interval: tuple[float, float] | None  # None with too few rounds
    verdict: Verdict

    def to_json(self) -> dict[str, object]:
        """Return the comparison as plain values, with what the interval was made from."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "speedup": self.speedup,
            "interval": interval,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": SEED,
            "noise_threshold": NOISE_THRESHOLD,
            "verdict": self.verdict,
        }


def summarise(samples: Sequence[float]) -> Summary:
    """Return median, quartiles and 99th percentile of samples in seconds."""
    first, median, third, p99 = np.percentile(np.asarray(samples, np.float64), [25, 50, 75, 99])
    return Summary(len(samples), float(median), float(first), float(third), float(p99))


def compare(baseline: Sequence[Sequence[float]], model: Sequence[Sequence[float]]) -> Comparison:
    """Return the speedup of ``model`` over ``baseline``, its 95 % interval and the verdict.

    The arguments hold the samples (seconds) of each round. Round i of both ran next to each
    other, so each round gives one ratio of medians, and what slows the whole machine for a while
    cancels in it. The speedup is the median of these ratios (in logarithms, so that exchanging
    the arguments gives exactly the inverse).

    The interval resamples whole rounds, a pair at a time, and not the samples inside them. Most
    of what differs between two measurements differs between processes, not between runs of one
    (Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013): thousands of
    samples from one process must not pass for thousands of measurements. Resampling clusters
    whole is also what reproduces the variance of clustered data best (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 3.8); the noise inside a round is
    contained in how the rounds differ.

    A bootstrap of a few values is too narrow: with 3 rounds that agree by luck, one time in
    four, it would exclude 1. The interval is therefore never narrower than the pair of order
    statistics that encloses the median with at least 95 % confidence for any distribution
    (the sign test). No such pair exists below 6 rounds, so there is no interval then and the
    verdict is *undecided: too few rounds*. From 9 rounds on that pair leaves out the extremes,
    so one outlying round does not undo what the others agree on; with 6 to 8 it can turn *faster*
    into *within noise*, never *faster* into *slower*.

    Faster or slower is said only where the interval excludes 1 and the speedup differs from 1 by
    2 % or more: significant and large enough to matter are two questions, as in criterion.rs.

    Raises:
        ValueError: the numbers of rounds differ, or there are none.
    """
    if len(baseline) != len(model) or not baseline:
        raise ValueError(f"{len(baseline)} rounds of the baseline, {len(model)} of the model")
    pairs = zip(baseline, model, strict=True)
    ratios = np.sort([math.log(np.median(before) / np.median(after)) for before, after in pairs])
    speedup = math.exp(float(np.median(ratios)))
    if len(ratios) < MIN_ROUNDS:
        return Comparison(speedup, None, "undecided: too few rounds")
    low, high = (math.exp(bound) for bound in _interval(ratios))
    return Comparison(speedup, (low, high), _verdict(speedup, low, high))


def _interval(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the median of sorted ``ratios`` (MIN_ROUNDS or more)."""
    count = len(ratios)
    picks = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[picks], axis=1), [tail, 1 - tail])
    outside = _ranks_outside(count)
    return min(float(low), float(ratios[outside])), max(float(high), float(ratios[-1 - outside]))


def _ranks_outside(count: int) -> int:
    """Return how many values at each end a 95 % interval of the median may leave out.

    The median of the population lies below the k-th smallest of n values with the probability
    that fewer than k of n coins show heads; this is allowed to be 1/40 at each end.
    """
    outside, below = 0, 1
    while 40 * (below + math.comb(count, outside + 1)) <= 2**count:
        outside += 1
        below += math.comb(count, outside)
    return outside


def _verdict(speedup: float, low: float, high: float) -> Verdict:
    if low <= 1 <= high or abs(speedup - 1) < NOISE_THRESHOLD:
        return "within noise"
    return "faster" if speedup > 1 else "slower"
