"""Widths that one factor scales, rounded to a multiple; and the factor, found from the widths."""

from __future__ import annotations

from collections.abc import Sequence


def divisible(channels: float, divisor: int) -> int:
    """Return the multiple of ``divisor`` nearest to ``channels``, not under 90 % of it, nor 0."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def widths(base: Sequence[int], scale: float, divisor: int) -> tuple[int, ...]:
    """Return every width of ``base`` times ``scale``, rounded to a multiple of ``divisor``."""
    return tuple(divisible(channels * scale, divisor) for channels in base)


def scale_of(
    found: Sequence[int], base: Sequence[int], divisor: int, published: Sequence[float]
) -> float:
    """Return a scale whose widths are ``found``, or else the one that most of them fit.

    Several scales have the same widths, and so the same network: a published one is preferred,
    then one of few decimals.
    """
    last = found[-1] / base[-1]
    near = divisor / base[-1]  # a wrong scale is off by more than this
    round_ones = [step / 20 for step in range(1, 81)] + [step / 100 for step in range(1, 401)]
    fine = [step / 1000 for step in range(1, 4001) if abs(step / 1000 - last) < near]
    best, most = 1.0, -1
    for scale in (*published, *round_ones, *fine, last):
        fitting = sum(a == b for a, b in zip(widths(base, scale, divisor), found, strict=True))
        if fitting > most:
            best, most = scale, fitting
    return best
