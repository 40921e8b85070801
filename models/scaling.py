"""Widths that one factor scales, rounded to a multiple; and the factor, found from the widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def divisible(channels: float, divisor: int) -> int:
    """Return the multiple of ``divisor`` nearest to ``channels``, not under 90 % of it, nor 0."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def widths(base: Sequence[int], scale: float, divisor: int) -> tuple[int, ...]:
    """Return every width of ``base`` times ``scale``, rounded to a multiple of ``divisor``."""
    return tuple(divisible(channels * scale, divisor) for channels in base)


def scale_of(
    widths_of: Callable[[float], Sequence[int]], found: Sequence[int], published: Sequence[float]
) -> float:
    """Return a scale whose widths are ``found``, or else the one that most of them fit.

    Several scales have the same widths, and so the same network: a published one is preferred,
    then one of few decimals.
    """

    def fitting(scale: float) -> int:
        return sum(a == b for a, b in zip(widths_of(scale), found, strict=True))

    rough = max((*published, *_steps(20), *_steps(100)), key=fitting)
    if fitting(rough) == len(found):
        return rough
    near = [scale for scale in _steps(1000) if abs(scale - rough) <= 0.03]
    return max((rough, *near), key=fitting)


def _steps(denominator: int) -> list[float]:
    """Return the fractions of ``denominator`` up to 4."""
    return [step / denominator for step in range(1, 4 * denominator + 1)]
