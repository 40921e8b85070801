"""How far a stored convolution can be from the block it stands for, on any input at all.

The difference of two linear maps is a linear map: the convolution with the weight D = stored -
exact and the bias difference d. So, for every input x and every output of channel o,

    |stored(x) - block(x)| <= c[o] * max|x| + d[o],    c[o] = sum of |D[o]|

Nothing is probed, and c is attained where x has the signs of D. With zero padding fewer taps are
summed at the border, so the bound holds there too. Values flushed to zero are in it, since D is
taken from what is stored, and they are counted.

The exact weight holds square roots, so it is enclosed. Each element of it is a sum of products,
and float64 gets it to within gamma_n * B, B the same sum of magnitudes and n the roundings on the
longest path (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1, and 2.1
for underflow). Every operation of the bound itself is rounded up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reparam.conv.block import Block, fuse
from reparam.conv.bounds import FLUSHED, SMALLEST_NORMAL, UNDERFLOW, UNIT_ROUNDOFF, gamma
from reparam.conv.magnitudes import magnitude_of, magnitude_sums, row_sums, weight_roundings
from reparam.conv.operators import Array, Conv

Stored = np.ndarray[Any, Any]

_SMALLEST = 2.0**-1074  # what one product or quotient can lose to underflow in float64, doubled


@dataclass(frozen=True)
class Certificate:
    """A statement about every input: |stored(x) - block(x)| <= c * max|x| + d.

    Attributes:
        c: the largest sum of |D| of an output channel.
        d: the largest difference of a bias.
        channel: the output channel that is furthest off by its own measure.
        roundings: how far that is, in roundings: the bound divided by u times the sum of the
            magnitudes that the channel adds, u the unit roundoff of ``dtype``, and what small
            values lose (``UNDERFLOW``). A fusion rounded once comes to at most 1.
        dtype: of the stored weight.
        flushed: stored values that are zero in place of one that would be subnormal.
    """

    c: float
    d: float
    channel: int
    roundings: float
    dtype: str
    flushed: int = 0

    def __str__(self) -> str:
        unit = "of one rounding" if self.roundings <= 1 else "roundings"
        flushed = f", {self.flushed:,} values flushed to zero" if self.flushed else ""
        return (
            f"at most {self.c:.2g} * max|x| + {self.d:.2g} for every input x: "
            f"{self.roundings:.2g} {unit} of {self.dtype}{flushed}"
        )


class ChannelBounds(NamedTuple):
    """For each output channel: the bounds c and d, what one rounding allows of each, and how many
    values were flushed.
    """

    c: Array
    d: Array
    weight_allowance: Array
    bias_allowance: Array
    flushed: Array

    def widened(self, other: ChannelBounds) -> ChannelBounds:
        """Return the bounds where what was compared with is itself off by ``other``."""
        return self._replace(c=_above(self.c + other.c, 1), d=_above(self.d + other.d, 1))


def certify(block: Block, weight: Stored, bias: Stored, dtype: str | None = None) -> Certificate:
    """Return what is true of ``weight`` and ``bias`` as the one convolution of ``block``.

    Args:
        weight: (O, I/G, *kernel), the shape that :func:`reparam.conv.fuse` gives.
        bias: (O,).
        dtype: what the weight is stored in, where that is not the dtype of the array.

    Raises:
        NotFusibleError: the block is not one convolution.
        ValueError: the shapes are not those of the fused convolution.
    """
    bounds = channel_bounds(block, fuse(block), weight, bias, dtype)
    return certificate_of([bounds], dtype or weight.dtype.name)


def certificate_of(parts: Iterable[ChannelBounds], dtype: str) -> Certificate:
    """Return the certificate of a convolution from the bounds of its channels, in their order."""
    fields = (np.concatenate(field) for field in zip(*parts, strict=True))
    c, d, by_weight, by_bias, flushed = fields
    shares = np.maximum(_share(c, by_weight), _share(d, by_bias))
    channel = int(np.argmax(shares))
    return Certificate(
        float(c.max()), float(d.max()), channel, float(shares[channel]), dtype, int(flushed.sum())
    )


def channel_bounds(
    block: Block, fused: Conv, weight: Stored, bias: Stored, dtype: str | None = None
) -> ChannelBounds:
    """Return c and d for each output channel, with ``fused`` the float64 fusion of ``block``.

        c[o] = sum|weight[o] - fused[o]|  +  gamma_n * B[o]  +  n * 2**-1074 * L[o]

    An upper bound always. By the triangle inequality, |stored - exact| is at most
    |stored - fused| + |fused - exact|. For the second term let v be an intermediate value of one
    element of the fusion, v_B the same from magnitudes, and v_L the same from magnitudes raised
    to 1 where they are not 0. An operation returns its exact result times (1 + delta), |delta| <=
    u, plus eta, |eta| <= 2**-1075, where a product or quotient underflows (a sum is exact then).
    By induction over the operations, after k of them v is off by at most gamma_k * v_B +
    k * 2**-1075 * (1 + u)**k * v_L: a later constant multiplies both, and v_L is at least 1
    wherever something can be lost. (1 + u)**k is below 2. What is summed here is computed in
    floating point as well: m roundings of a value without subtractions leave at least
    (1 - gamma_m) of it, and 1 / (1 - gamma_m) <= 1 + gamma_2m, which ``_above`` multiplies by.

    Raises:
        ValueError: a shape is not that of ``fused``.
    """
    if weight.shape != fused.weight.shape or bias.shape != fused.bias.shape:
        raise ValueError(f"{weight.shape} and {bias.shape} for a fusion of {fused.weight.shape}")
    size = fused.weight[0].size
    count = weight_roundings(block)
    sums = magnitude_sums(block)
    with np.errstate(over="ignore", invalid="ignore"):
        off, bias_off = _difference(weight, fused.weight), _difference(bias, fused.bias)
        c = _above(row_sums(off), size + 1) + _own_error(
            sums.weight, sums.lifted_weight, count, size
        )
        d = _above(np.abs(bias_off), 1) + _own_error(sums.bias, sums.lifted_bias, count, 1)
    name = dtype or weight.dtype.name
    u, lost = UNIT_ROUNDOFF[name], UNDERFLOW[name]
    flushed, bias_flushed = (
        _flushed(stored, exact, name)
        for stored, exact in ((weight, fused.weight), (bias, fused.bias))
    )
    small, bias_small = (flushed, bias_flushed) if name in FLUSHED else (size, 1)
    # The enclosure itself reaches below the smallest float64 where nothing is added up at all: that
    # is no rounding of what is stored, and no ratio to nothing.
    least = SMALLEST_NORMAL["float64"]
    return ChannelBounds(
        _above(_not_nan(c), 1),
        _above(_not_nan(d), 1),
        u * sums.weight + lost * small + least,
        u * sums.bias + lost * bias_small + least,
        flushed + bias_flushed,
    )


@dataclass(frozen=True)
class Misfit:
    """The element of a stored convolution that is furthest from what it may be."""

    name: str
    index: tuple[int, ...]
    off: float
    allowed: float

    @property
    def excess(self) -> float:
        """The error as a multiple of the allowed one, which is 0 where nothing is added up."""
        if self.allowed:
            return self.off / self.allowed
        return np.inf if self.off else 0.0


def worst_element(
    block: Block,
    fused: Conv,
    weight: Stored,
    bias: Stored,
    *,
    roundings: int,
    dtype: str | None = None,
) -> Misfit:
    """Return the element of ``weight`` or ``bias`` that is furthest off, by its own measure.

    One element may be off by ``roundings * u * B``, B the magnitudes that it adds up, and by what
    underflow takes: whoever fuses in the dtype of the weight, in any order and with that many
    operations on a path, stays within it. One operation loses no more than ``UNDERFLOW``, and
    constants above 1 that follow multiply that. ``fused`` is the float64 fusion of ``block``.
    """
    name = dtype or weight.dtype.name
    magnitude = fuse(magnitude_of(block))
    relative = roundings * UNIT_ROUNDOFF[name] + 2 * gamma(weight_roundings(block) + 1)
    pairs = (("weight", weight, fused.weight), ("bias", bias, fused.bias))

    def worst(lost: Mapping[str, Array | float]) -> Misfit:
        return max(
            (_furthest(what, stored, exact, relative * getattr(magnitude, what) + lost[what])
             for what, stored, exact in pairs),
            key=lambda misfit: misfit.excess,
        )  # fmt: skip

    found = worst(dict.fromkeys(("weight", "bias"), UNDERFLOW[name]))
    if found.off <= found.allowed or roundings == 1:
        return found
    lifted = fuse(magnitude_of(block, lifted=True))  # a second fusion, which is rarely needed
    each = roundings * UNDERFLOW[name]
    return worst({"weight": each * lifted.weight, "bias": each * lifted.bias})


def _furthest(what: str, stored: Stored, exact: Array, allowed: Array) -> Misfit:
    with np.errstate(over="ignore", invalid="ignore"):
        off = _not_nan(np.abs(_difference(stored, exact)))
        share = np.divide(off, allowed, out=np.where(off > 0, np.inf, 0.0), where=allowed > 0)
    index = np.unravel_index(int(np.argmax(share)), off.shape)
    place = tuple(int(i) for i in index)
    return Misfit(what, place, float(off[place]), float(allowed[place]))


def _flushed(stored: Stored, exact: Array, dtype: str) -> Array:
    """Return, for each output channel, how many values are zero in place of a subnormal one."""
    if dtype not in FLUSHED:
        return np.zeros(len(exact), dtype=np.int64)
    gone = (stored == 0) & (exact != 0) & (np.abs(exact) < SMALLEST_NORMAL[dtype])
    counts: Array = gone.reshape(len(exact), -1).sum(axis=1)
    return counts


def _difference(stored: Stored, exact: Array) -> Array:
    off = np.array(stored, dtype=np.float64)  # widened first: mixed dtypes subtract at half speed
    off -= exact
    return off


def _own_error(sums: Array, lifted: Array, count: int, size: int) -> Array:
    """Bound |fused - exact|, summed over a channel of ``size`` elements."""
    relative = gamma(count + 1) * _above(sums, size + count)
    return _above(relative + count * _SMALLEST * _above(lifted, size + count), 4)


def _above(values: Array, count: int) -> Array:
    """Return no less than the exact value of what took ``count`` roundings, none of a difference.

    The surplus of eight roundings covers those made here; the last step covers underflow.
    """
    raised: Array = np.nextafter(values * (1 + gamma(2 * count + 8)), np.inf)
    return raised


def _not_nan(values: Array) -> Array:
    return np.where(np.isnan(values), np.inf, values)


def _share(bound: Array, allowance: Array) -> Array:
    with np.errstate(over="ignore"):
        share: Array = np.divide(
            bound, allowance, out=np.where(bound > 0, np.inf, 0.0), where=allowance > 0
        )
    return share
