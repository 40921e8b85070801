"""The images that an exported file is checked with, and what the network makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.float16_reference import run_in_float16
from reparam.adapters.paddle_models import in_float64, run_layer
from reparam.errors import ExportError
from reparam.exporter.networks import Network
from reparam.exporter.options import FLOAT16, Options
from reparam.exporter.raw_pixels import raw_images

Array = npt.NDArray[Any]

_SEED = 20210101
_SMALL = (96, 128)  # three and four positions of a map with stride 32
_ODD = (65, 97)  # no multiple of any stride
_STEP = (32, 64)  # between sizes of a network that may want multiples of 32


@dataclass(frozen=True)
class Probe:
    """One image or more, and what the network makes of them.

    Attributes:
        images: (N, C, H, W), float32; raw pixels if the file takes these.
        truth: the outputs of the original in float64.
        reference: those of the original in float32.
        narrow: those of the exported Layer with every number rounded to float16, where that is
            the precision of the file.
    """

    images: Array
    truth: list[Array]
    reference: list[Array]
    narrow: list[Array] | None = None


def normal_images(shape: Sequence[int]) -> Array:
    """Return seeded standard normal images, float32."""
    return np.random.default_rng(_SEED).normal(size=tuple(shape)).astype(np.float32)


def images_for(options: Options, shape: Sequence[int]) -> Array:
    """Return seeded images such as the file takes: raw pixels, or standard normal ones."""
    return normal_images(shape) if options.normalization is None else raw_images(shape)


def takes_small_probes(network: Network, options: Options) -> bool:
    """Whether an image smaller than the file's own shows as much, and costs less."""
    height, width = options.input_size or network.default_size
    return network.any_size and height * width > 2 * _SMALL[0] * _SMALL[1]


def probes_of(network: Network, options: Options, small: bool) -> list[Probe]:
    """Return what the network makes of seeded images, at two sizes where its size is open.

    Args:
        small: take small images for large ones.

    Raises:
        ExportError: the network does not run on such images.
    """
    wide = in_float64(network.original)
    found = []
    for size in probe_sizes(network, options, small):
        images = images_for(options, (options.batch or 2, network.channels, *size))
        if 0 not in options.open_axes:
            images = images[: options.batch or 1]
        try:
            found.append(_probe(network, wide, images, options))
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(
                f"the network cannot be run on images of shape {images.shape}",
                found=lines[-1].strip(),
                why="without that, there is nothing to compare an exported file with",
                hint="--input-size, or fewer axes in --dynamic",
            ) from error
    return found


def _probe(network: Network, wide: Any, images: Array, options: Options) -> Probe:
    exact, seen = images.astype(np.float64), images
    if options.normalization is not None:
        exact = options.normalization.apply(images)
        seen = options.normalization.apply_in_float32(images)
    return Probe(
        images,
        run_layer(wide, exact),
        run_layer(network.original, seen),
        run_in_float16(network.exported, seen) if options.precision == FLOAT16 else None,
    )


def probe_sizes(network: Network, options: Options, small: bool) -> list[tuple[int, int]]:
    """Return the sizes (H, W) of the images, the second with every open axis changed."""
    given = options.input_size or network.default_size
    first = (min(given[0], _SMALL[0]), min(given[1], _SMALL[1])) if small else given
    is_open = [axis in options.open_axes for axis in (2, 3)]
    if not any(is_open):
        return [first]
    odd = network.any_size and network.multiple == 1
    other = _ODD if odd else (first[0] + _STEP[0], first[1] + _STEP[1])
    second = [
        new if opened else old for new, old, opened in zip(other, first, is_open, strict=True)
    ]
    return [first, (second[0], second[1])]
