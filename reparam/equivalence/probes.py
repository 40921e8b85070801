"""Inputs that bring out wrong fusions: borders, offsets, scale, every channel and every tap.

A mean over a natural image hides a wrong corner; an impulse in the corner does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reparam.adapters.foreign_models import ForeignModel
from reparam.conv.operators import Array

_SEED = 20210101

DEFAULT_SIZES = ((96, 96), (65, 97))  # small enough for float64; the second odd and uneven
_LARGE = 192 * 192  # pixels above which the telling probes have to do


@dataclass(frozen=True)
class Probing:
    """How to probe.

    Args:
        epsilon: of the BatchNorms, in place of what the family says.
        sizes: (H, W) of the probes for the whole network.
        own_input: more probes, (N, C, H, W) float32.
        own_feeds: a probe for two ONNX files: an array by the name of each input, '' of the only.
        network: whether to build and run the whole network; needs paddle.
        settings: of the architecture, in place of what it assumes.
        model: the user's own network, in place of a recognised one.
        prefix: use only the weights under this name or prefix.
        families: that come first where names and shapes leave it open.
    """

    epsilon: float | None = None
    sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES
    own_input: np.ndarray[Any, Any] | None = None
    own_feeds: Mapping[str, np.ndarray[Any, Any]] | None = None
    network: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: ForeignModel | None = None
    prefix: str | None = None
    families: tuple[str, ...] = ()

    @property
    def overrides(self) -> dict[str, Any]:
        """Return the settings with which the network is to be built."""
        epsilon = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return {**self.settings, **epsilon}


def probes(channels: int, size: tuple[int, ...]) -> dict[str, Array]:
    """Return the named probes, each (1, channels, *size), float64 and the same at every call.

    zeros shows the bias alone; ones the border (padding is where they end); an impulse shows one
    column of the kernel, in the corner and in the centre; normal every tap at once, and normal
    x 100 what is hidden by constants.
    """
    rng = np.random.default_rng(_SEED)
    shape = (1, channels, *size)
    corner, centre = np.zeros(shape), np.zeros(shape)
    first: tuple[Any, ...] = (0, slice(None), *(0 for _ in size))
    middle: tuple[Any, ...] = (0, slice(None), *(n // 2 for n in size))
    corner[first], centre[middle] = rng.normal(size=channels), rng.normal(size=channels)
    normal = rng.normal(size=shape)
    return {
        "zeros": np.zeros(shape),
        "ones": np.ones(shape),
        "corner impulse": corner,
        "centre impulse": centre,
        "normal": normal,
        "normal x 100": 100 * rng.normal(size=shape),
    }


def network_probes(
    channels: int, sizes: Sequence[tuple[int, int]], own: np.ndarray[Any, Any] | None
) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Return named float32 inputs (1, channels, H, W) for a whole network.

    All probes at the first size, the telling ones at the others and at large sizes; then the
    images of ``own`` (N, C, H, W), one by one.
    """
    found = []
    for position, (height, width) in enumerate(sizes):
        named = probes(channels, (height, width))
        short = position > 0 or height * width > _LARGE
        names = ("corner impulse", "normal") if short else tuple(named)
        found += [(f"{name} {height}x{width}", named[name]) for name in names]
    if own is not None:
        found += [(f"own input {index}", own[index : index + 1]) for index in range(len(own))]
    return [(name, x.astype(np.float32)) for name, x in found]
