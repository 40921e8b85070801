"""What a sum or a chain would be is known without numbers, and is what the laws then make."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reparam.conv import add, compose, evaluate
from reparam.conv.geometry import Geometry, chain_of, sum_of
from reparam.conv.operators import Conv
from reparam.errors import NotFusibleError
from tests.conv.blocks import probe_for


@st.composite
def convs(draw: st.DrawFn, inputs: int, *, alike: bool = False) -> Conv:
    """A convolution of two axes; ``alike`` ones have the outputs and strides of each other."""
    groups = draw(st.sampled_from([1, 2, inputs]))
    outputs = 4 if alike else draw(st.sampled_from([inputs, 8]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = (1, 1) if alike else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = [
        ((k - 1) * d // 2, (k - 1) * d - (k - 1) * d // 2) if alike else draw(
            st.tuples(st.integers(0, 2), st.integers(0, 2))
        )
        for k, d in zip(kernel, dilation, strict=True)
    ]  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bias = rng.normal(size=outputs) if draw(st.booleans()) else None
    return Conv.of(
        rng.normal(size=(outputs, inputs // groups, *kernel)), bias,
        stride=stride, dilation=dilation, padding=padding, groups=groups,
    )  # fmt: skip


@given(st.data())
def test_a_sum_is_foreseen(data):
    parts = [data.draw(convs(4, alike=True)) for _ in range(data.draw(st.integers(1, 3)))]
    foreseen = sum_of([Geometry.of(part) for part in parts])
    assert foreseen == Geometry.of(add(*parts))


@given(st.data())
def test_a_chain_is_foreseen_and_refused_alike(data):
    first = data.draw(convs(4))
    second = data.draw(convs(first.out_channels))
    shapes = Geometry.of(first), Geometry.of(second)
    try:
        found = compose(first, second)
    except NotFusibleError:
        with pytest.raises(NotFusibleError):
            chain_of(*shapes, zero_bias=not first.bias.any())
        return
    assert chain_of(*shapes, zero_bias=not first.bias.any()) == Geometry.of(found)


def test_a_kernel_of_one_tap_costs_a_dilated_neighbour_nothing():
    wide = Conv.of(np.ones((2, 2, 3, 3)), dilation=2, padding=2)
    point = Conv.of(np.ones((2, 2, 1, 1)))
    assert sum_of([Geometry.of(wide), Geometry.of(point)]).kernel == (3, 3)
    chain = chain_of(Geometry.of(point), Geometry.of(wide), zero_bias=True)
    assert (chain.kernel, chain.dilation) == ((3, 3), (2, 2))


def test_a_stride_before_a_kernel_spreads_its_taps():
    rng = np.random.default_rng(0)
    first = Conv.of(rng.normal(size=(2, 2, 1, 1)), stride=2)
    second = Conv.of(rng.normal(size=(2, 2, 3, 3)))
    both = compose(first, second)
    assert (both.kernel, both.dilation, both.stride) == ((3, 3), (2, 2), (2, 2))
    x = probe_for(both, rng)
    assert np.allclose(evaluate(both, x), evaluate(second, evaluate(first, x)), rtol=1e-12)


def test_macs_are_those_of_the_weight():
    conv = Conv.of(np.ones((6, 2, 3, 5)), groups=3)
    assert Geometry.of(conv).macs == conv.macs == 6 * 2 * 15


@pytest.mark.parametrize(
    ("change", "pointwise"),
    [({}, True), ({"stride": (2, 2)}, False), ({"padding": ((1, 0), (0, 0))}, False),
     ({"groups": 2}, False), ({"kernel": (1, 3)}, False)],
)  # fmt: skip
def test_what_is_a_factor_for_each_channel(change, pointwise):
    plain = Geometry.pointwise(4, 2)
    fields = {name: getattr(plain, name) for name in Geometry.__slots__}
    assert Geometry(**{**fields, **change}).is_pointwise is pointwise
