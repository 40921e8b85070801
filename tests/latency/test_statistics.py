"""The verdict on synthetic samples, where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reparam.latency.statistics import _ranks_outside, compare, summarise

TRIALS = 200


def rounds(
    random: np.random.Generator, count: int, time: float, between: float, within: float = 0.01
) -> list[list[float]]:
    """Samples of ``count`` processes: lognormal between them and within them."""
    levels = time * np.exp(between * random.standard_normal(count))
    return [list(level * np.exp(within * random.standard_normal(21))) for level in levels]


@pytest.mark.parametrize(("factor", "verdict"), [(1.13, "faster"), (1 / 1.13, "slower")])
def test_a_known_shift_is_found(factor: float, verdict: str) -> None:
    random = np.random.default_rng(1)
    result = compare(
        rounds(random, 9, 0.034, between=0.01), rounds(random, 9, 0.034 / factor, between=0.01)
    )
    assert result.verdict == verdict
    assert result.interval is not None
    low, high = result.interval
    assert low < factor < high
    assert low <= result.speedup <= high


@pytest.mark.parametrize("count", [6, 7, 8, 9])
def test_no_shift_on_a_noisy_machine_is_within_noise(count: int) -> None:
    """At most the 5 % of trials that a 95 % interval allows; noise well above the 2 % threshold."""
    random = np.random.default_rng(2)
    wrong = sum(
        compare(
            rounds(random, count, 0.01, between=0.1), rounds(random, count, 0.01, between=0.1)
        ).verdict
        != "within noise"
        for _ in range(TRIALS)
    )
    assert wrong <= 0.05 * TRIALS


def test_a_difference_of_one_percent_is_within_noise_however_certain() -> None:
    random = np.random.default_rng(3)
    result = compare(
        rounds(random, 12, 0.0101, between=0.001), rounds(random, 12, 0.0100, between=0.001)
    )
    assert result.interval is not None
    assert result.interval[0] > 1
    assert result.verdict == "within noise"


@pytest.mark.parametrize("outlier", [0, 4, 8])
@pytest.mark.parametrize(("time", "verdict"), [(0.010, "faster"), (0.0115, "within noise")])
@pytest.mark.parametrize("factor", [3.0, 1 / 3.0])
def test_one_outlying_round_does_not_flip_the_verdict(
    outlier: int, time: float, verdict: str, factor: float
) -> None:
    random = np.random.default_rng(4)
    before = rounds(random, 9, 0.0115, between=0.005)
    after = rounds(random, 9, time, between=0.005)
    assert compare(before, after).verdict == verdict
    after[outlier] = [factor * sample for sample in after[outlier]]
    assert compare(before, after).verdict == verdict


def test_what_slows_both_models_of_a_round_cancels() -> None:
    random = np.random.default_rng(5)
    before = rounds(random, 8, 0.010, between=0.0)
    after = rounds(random, 8, 0.009, between=0.0)
    quiet = compare(before, after)
    drift = [1.0, 1.3, 2.0, 1.0, 4.0, 1.1, 1.0, 3.0]
    slowed = compare(
        [[d * s for s in row] for d, row in zip(drift, before, strict=True)],
        [[d * s for s in row] for d, row in zip(drift, after, strict=True)],
    )
    assert slowed.speedup == pytest.approx(quiet.speedup, rel=1e-12)
    assert slowed.interval == pytest.approx(quiet.interval, rel=1e-12)
    assert slowed.verdict == quiet.verdict == "faster"


def test_many_samples_of_one_process_are_not_many_measurements() -> None:
    """Repeating the samples inside the rounds must not narrow the interval."""
    random = np.random.default_rng(6)
    before = rounds(random, 7, 0.010, between=0.05)
    after = rounds(random, 7, 0.010, between=0.05)
    once = compare(before, after)
    often = compare([row * 9 for row in before], [row * 9 for row in after])
    assert once.interval == often.interval


def test_exchanging_the_models_inverts_the_speedup() -> None:
    random = np.random.default_rng(7)
    first = rounds(random, 8, 0.010, between=0.02)
    second = rounds(random, 8, 0.013, between=0.02)
    there, back = compare(first, second), compare(second, first)
    assert there.interval is not None
    assert back.interval is not None
    assert there.speedup * back.speedup == pytest.approx(1, rel=1e-12)
    assert there.interval[0] * back.interval[1] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_rounds_decide_nothing(count: int) -> None:
    result = compare([[0.02] * 5] * count, [[0.01] * 5] * count)
    assert result.speedup == pytest.approx(2)
    assert result.interval is None
    assert result.verdict == "undecided: too few rounds"
    assert result.to_json()["interval"] is None


def test_unpaired_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rounds of the baseline, 2 of the model"):
        compare([[1.0]] * 3, [[1.0]] * 2)
    with pytest.raises(ValueError, match="0 rounds"):
        compare([], [])


def test_the_ranks_enclose_the_median_with_95_percent_confidence() -> None:
    """Against the definition: the largest number of ranks that keeps the coverage."""
    for count in range(6, 60):

        def coverage(outside: int, n: int = count) -> float:
            return 1 - 2 * sum(math.comb(n, i) for i in range(outside + 1)) / 2**n

        outside = _ranks_outside(count)
        assert coverage(outside) >= 0.95 > coverage(outside + 1)


def test_the_result_is_the_same_every_time() -> None:
    random = np.random.default_rng(8)
    pair = rounds(random, 20, 0.01, 0.05), rounds(random, 20, 0.01, 0.05)
    assert compare(*pair) == compare(*pair)


def test_a_summary_in_numbers_known_by_hand() -> None:
    summary = summarise([float(value) for value in range(101)])
    assert (summary.n, summary.median, summary.iqr, summary.p99) == (101, 50, 50, 99)
    assert summary.to_json() == {"n": 101, "median": 50, "iqr": 50, "p99": 99}
