"""Images that bring out wrong rewrites of a few nodes, the most telling first."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from reparam.graph.evaluation_calls import Array

Probe = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Every tap at once, and every border."""
    return np.asarray(rng.standard_normal(shape))


def large(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """What constants hide."""
    return 100 * normal(rng, shape)


def zeros(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The constants alone, and so what padding does to them."""
    return np.zeros(shape)


def ones(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The sum of each row, and where padding ends it."""
    return np.ones(shape)


def centre_impulse(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One tap at each output, so that the bound there is that of one tap."""
    return _impulses(rng, shape, [tuple(n // 2 for n in shape[2:])])


def corner_impulses(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The taps that reach into a corner, in all corners at once."""
    return _impulses(rng, shape, corners(shape[2:]))


def corners(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the position of every corner of a box."""
    return sorted(set(product(*((0, n - 1) for n in sizes))))


def _impulses(
    rng: np.random.Generator, shape: tuple[int, ...], where: list[tuple[int, ...]]
) -> Array:
    image = np.zeros(shape)
    for at in where:
        every: Any = (slice(None), slice(None), *at)[: len(shape)]
        image[every] = rng.standard_normal(image[every].shape)
    return image


def _corner(number: int) -> Probe:
    def one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return _impulses(rng, shape, corners(shape[2:])[number : number + 1])

    return one


def probes(spatial: int, most: int, later: bool) -> list[tuple[str, Probe]]:
    """Return named probes for images of ``spatial`` spatial axes.

    Each corner has an image of its own where there is room for that. At least four are returned;
    at a later size two do, the telling ones for a border, when weights are many.

    Args:
        most: images that cost little enough.
        later: whether all have been shown at another size.
    """
    few: dict[str, Probe] = {
        "normal": normal,
        "corner impulses": corner_impulses,
        "centre impulse": centre_impulse,
        "zeros": zeros,
        "normal x 100": large,
        "ones": ones,
    }
    each = {f"corner impulse {at + 1}": _corner(at) for at in range(2**spatial)}
    if len(few) - 1 + len(each) <= most:
        del few["corner impulses"]
        return list({**few, **each}.items())
    least = 2 if later else 4
    return list(few.items())[: max(most, least)]
