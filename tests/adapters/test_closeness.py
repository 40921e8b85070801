"""The yardstick for whole networks: equal, different, undecidable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.adapters.closeness import (
    FACTOR,
    FLOOR_ROUNDINGS,
    UNDECIDABLE,
    closeness,
    figure,
)

U = 2.0**-24
TRUTH = np.array([[1.0, -8.0], [0.5, 2.0]])  # scale 8


def off(by: float, at: tuple[int, int] = (0, 0)) -> np.ndarray:
    found = TRUTH.copy()
    found[at] += by
    return found.astype(np.float32)


def test_the_reference_itself_is_equal() -> None:
    found = closeness(TRUTH, off(1e-4), off(1e-4))
    assert found.verdict == "equal"
    assert found.scale == 8.0
    assert found.bound == pytest.approx(FACTOR * 1e-4, rel=1e-2)


@pytest.mark.parametrize(("times", "verdict"), [(0.99, "equal"), (1.02, "different")])
def test_the_bound_is_the_factor_times_the_reference(times: float, verdict: str) -> None:
    found = closeness(TRUTH, off(1e-3, (1, 1)), off(times * FACTOR * 1e-3, (1, 0)))
    assert found.verdict == verdict
    assert found.index == (1, 0)


def test_a_perfect_reference_leaves_a_few_roundings() -> None:
    found = closeness(TRUTH, TRUTH.astype(np.float32), off(4 * U * 8))
    assert found.bound == FACTOR * FLOOR_ROUNDINGS * U * 8
    assert found.verdict == "equal"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_different(value: float) -> None:
    candidate = off(0.0)
    candidate[1, 1] = value
    found = closeness(TRUTH, off(0.1), candidate)
    assert found.verdict == "different"
    assert (found.distance, found.index) == (np.inf, (1, 1))


def test_truth_that_is_not_finite_decides_nothing_in_favour() -> None:
    truth = TRUTH.copy()
    truth[0, 0] = np.inf
    assert closeness(truth, truth, truth.astype(np.float32)).verdict == "different"


def test_another_shape_is_different() -> None:
    assert closeness(TRUTH, TRUTH, TRUTH.astype(np.float32)[:1]).verdict == "different"


def test_where_float32_itself_is_lost_the_verdict_is_undecidable() -> None:
    lost = 2 * UNDECIDABLE * 8
    found = closeness(TRUTH, off(lost), off(10 * lost, (1, 1)))
    assert found.verdict == "undecidable"
    assert closeness(TRUTH, off(lost), off(lost)).verdict == "undecidable"
    assert closeness(TRUTH, off(lost), off(np.nan)).verdict == "different"


def test_zero_network_equals_itself() -> None:
    zero = np.zeros((2, 2))
    assert closeness(zero, zero, zero.astype(np.float32)).verdict == "equal"
    assert closeness(zero, zero, np.full((2, 2), 1e-30, np.float32)).verdict == "different"


def test_shapes_of_truth_and_reference_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        closeness(TRUTH, TRUTH[:1], TRUTH)
    with pytest.raises(ValueError, match="shape"):
        closeness(TRUTH[:0], TRUTH[:0], TRUTH[:0])


@given(seed=st.integers(0, 2**32 - 1), taps=st.integers(1, 400))
@settings(deadline=None, max_examples=60)
def test_the_same_sums_in_another_order_are_equal(seed: int, taps: int) -> None:
    rng = np.random.default_rng(seed)
    weight, x = rng.normal(size=(30, taps)), rng.normal(size=(taps, 20))
    weight, x = weight.astype(np.float32), x.astype(np.float32)
    truth = weight.astype(np.float64) @ x.astype(np.float64)
    order = rng.permutation(taps)
    terms = weight[:, order, None] * x[None, order, :]
    assert closeness(truth, weight @ x, np.cumsum(terms, axis=1)[:, -1]).verdict == "equal"


@pytest.mark.parametrize(
    ("distance", "scale", "text"),
    [
        (2.5e-6, 4.0, "2.50e-06"),
        (2.5e3, 1e9, "2.50e+03 (2.5e-06 of the largest)"),
        (0.0, 1e3, "0.00e+00 (0.0e+00 of the largest)"),
    ],
)
def test_where_outputs_are_huge_a_difference_is_relative_too(distance, scale, text):
    assert figure(distance, scale) == text
