"""The one rounding at the edge, against rounding in exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reparam.conv.bounds import SMALLEST_NORMAL, UNDERFLOW, UNIT_ROUNDOFF
from reparam.conv.rounding import bfloat16_bits, round_once
from reparam.errors import NotFusibleError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TOP = 0x7F7F  # the bits of the largest finite bfloat16


def value_of(bits: int) -> Fraction:
    """What non-negative bfloat16 bits stand for; those of infinity as if the exponent went on."""
    exponent, mantissa = bits >> 7, bits & 127
    if exponent == 0:
        return Fraction(mantissa) * Fraction(2) ** -133
    return Fraction(128 + mantissa) * Fraction(2) ** (exponent - 127 - 7)


def nearest(value: float) -> int:
    """The bits that ``value`` rounds to: to nearest, ties to even, by search and comparison."""
    exact = abs(Fraction(value))
    low, high = 0, TOP + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if value_of(middle) <= exact else (low, middle)
    below, above = exact - value_of(low), value_of(high) - exact
    chosen = low if below < above or (below == above and low % 2 == 0) else high
    return chosen | (0x8000 if np.signbit(value) else 0)


def close_to_ties(low: int, high: int) -> st.SearchStrategy[float]:
    """Middles of two neighbours, and the float64 numbers on both sides of them."""

    def build(bits: int, steps: int, negative: bool) -> float:
        middle = float((value_of(bits) + value_of(bits + 1)) / 2)
        for _ in range(abs(steps)):
            middle = float(np.nextafter(middle, np.inf if steps > 0 else -np.inf))
        return -middle if negative else middle

    return st.builds(build, st.integers(low, high), st.integers(-2, 2), st.booleans())


def check(values: list[float]) -> None:
    found = bfloat16_bits(np.array(values))
    assert found.tolist() == [nearest(value) for value in values]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_any_number(values):
    check(values)


@settings(max_examples=100, deadline=None)
@given(st.lists(close_to_ties(0, TOP), min_size=1, max_size=8))
def test_ties_go_to_even_and_their_neighbours_do_not(values):
    check(values)


@settings(max_examples=100, deadline=None)
@given(st.lists(close_to_ties(0, 300), min_size=1, max_size=8))
def test_subnormals(values):
    check(values)


@pytest.mark.parametrize("bits", [0, 1, 127, 128, 129, 0x3F80, TOP - 1, TOP])
def test_what_is_a_bfloat16_stays_what_it_is(bits):
    check([float(value_of(bits)), -float(value_of(bits))])


def test_overflow_begins_half_a_step_above_the_largest():
    edge = float(value_of(TOP) + (value_of(TOP + 1) - value_of(TOP)) / 2)
    values = [np.nextafter(edge, 0), edge, np.inf, -np.inf, 1e300]
    assert bfloat16_bits(np.array(values)).tolist() == [TOP, 0x7F80, 0x7F80, 0xFF80, 0x7F80]
    assert np.isnan(bfloat16_bits(np.array([np.nan])).view(BFLOAT16)).all()


def test_a_cast_by_way_of_float32_would_be_wrong():
    """The mutation that the property tests above have to catch."""
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    assert nearest(value[0]) == bfloat16_bits(value)[0]
    assert float(value.astype(np.float32).astype(BFLOAT16)[0]) == 1.0
    assert float(bfloat16_bits(value).view(BFLOAT16)[0]) == 1 + 2.0**-7
    assert float(round_once(value, BFLOAT16)[0][0]) == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", ["float32", BFLOAT16])
def test_subnormals_are_flushed_and_counted(dtype):
    name = np.dtype(dtype).name
    smallest, unit = SMALLEST_NORMAL[name], UNIT_ROUNDOFF[name]
    values = np.array([0.0, smallest, -smallest, smallest * 0.75, -smallest * 0.25, 1 + 1.5 * unit])
    rounded, flushed = round_once(values, dtype)
    assert rounded.dtype == dtype
    assert rounded.shape == values.shape
    assert flushed == 2
    assert rounded.astype(np.float64).tolist()[:5] == [0.0, smallest, -smallest, 0.0, 0.0]
    assert float(rounded[5]) in (1.0, 1 + 2 * unit)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_subnormals_are_kept_where_they_are_ordinary_numbers(dtype):
    smallest = SMALLEST_NORMAL[dtype]
    values = np.array([0.0, smallest * 0.75, -smallest * 0.25, UNDERFLOW[dtype] * 2])
    rounded, flushed = round_once(values, dtype)
    assert flushed == 0
    assert rounded.astype(np.float64).tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", BFLOAT16])
def test_what_does_not_fit_is_refused(dtype):
    with pytest.raises(NotFusibleError, match=np.dtype(dtype).name):
        round_once(np.array([1.0, 3.5e38]), dtype)


def test_rounding_keeps_to_the_unit_roundoff():
    values = np.random.default_rng(0).normal(size=(4, 5, 3, 3))
    rounded, _ = round_once(values, BFLOAT16)
    assert (np.abs(rounded.astype(np.float64) - values) <= 2.0**-8 * np.abs(values)).all()
