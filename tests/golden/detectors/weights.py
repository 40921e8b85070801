"""Random weights with which a detector still tells one image from another.

Knows NumPy alone. Statistics drawn at random make a deep network forget its input. So a
convolution is scaled for its output to have the variance that its BatchNorm says, and the mean is
the one of data, both a little off, as they are in a trained network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Choose = Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


def random_state(shapes: Mapping[str, tuple[int, ...]], name: str) -> Arrays:
    """Return float32 values for a state dict in Paddle's spelling.

    Gamma has both signs, means are of order 1, variances in [0.2, 3], alpha is not 1, kernels are
    divided by the root of their fan-in.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    norms = {key.removesuffix("._mean") for key in shapes if key.endswith("._mean")}
    return {
        key: np.asarray(_random(key, shape, norms, rng), np.float32)
        for key, shape in shapes.items()
    }


def _random(key: str, shape: tuple[int, ...], norms: set[str], rng: Any) -> np.ndarray:
    prefix, _, leaf = key.rpartition(".")
    if leaf == "_variance":
        return rng.uniform(0.3, 2.5, shape)
    if leaf == "alpha":
        return rng.uniform(0.3, 0.8, shape)  # the peer leaves out one of 0 or less
    if prefix in norms and leaf == "weight":
        return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    if len(shape) > 1:
        return rng.normal(0.0, np.prod(shape[1:]) ** -0.5, shape)
    return rng.normal(0.0, 1.0 if leaf == "_mean" else 0.3, shape)


def images(
    shape: tuple[int, int, int, int], seed: int, patches: tuple[int, ...] = (1, 4, 16, 64, 256)
) -> np.ndarray:
    """Return images (N, 3, H, W) of patches of many sizes, about as large as normalised pixels.

    White noise would average out, and leave a network nothing but the borders to see.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(shape)
    for size in patches:
        rows, columns = (-(-side // size) for side in shape[2:])
        values = rng.normal(size=(*shape[:2], rows, columns))
        found += values.repeat(size, 2).repeat(size, 3)[:, :, : shape[2], : shape[3]]
    return found / len(patches) ** 0.5


def chooser(state: Arrays, name: str) -> Choose:
    """Return what chooses a BatchNorm's statistics: those of data, a little off.

    The convolution in front is scaled for its output to have about the variance of the state.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)

    def choose(prefix: str, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
        wanted = state[f"{prefix}._variance"].astype(np.float64)
        # A channel that is all mean would make noise of rounding.
        factor = np.sqrt(wanted / np.maximum(variance, (0.1 * mean) ** 2))
        off = rng.normal(0.0, 0.2, mean.shape) * np.sqrt(wanted)
        return factor, mean * factor + off, wanted * rng.uniform(0.8, 1.2, wanted.shape)

    return choose


def predicting(
    state: Arrays,
    logits: Mapping[str, np.ndarray],
    name: str,
    deviation: float = 1.5,
    centre: float = -1.5,
) -> Arrays:
    """Return ``state`` with last convolutions whose logits vary as those of a trained head do.

    ``logits`` are the maps cls0, reg0, cls1, ... as they are now, of a few images. Class logits
    are to have that deviation about that centre: some scores above a half, most below.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 2)
    state = dict(state)
    for key, values in logits.items():
        spread, middle = (deviation, centre) if key.startswith("cls") else (2.0, 0.0)
        prefix = f"yolo_head.pred_{key[:3]}.{key[3:]}"
        factor = spread / np.maximum(values.std(axis=(0, 2, 3)), 1e-6)
        weight = state[f"{prefix}.weight"] * factor[:, None, None, None]
        moved = (values.mean(axis=(0, 2, 3)) - state[f"{prefix}.bias"]) * factor
        bias = rng.normal(middle, 0.5, moved.shape) - moved
        state[f"{prefix}.weight"] = weight.astype(np.float32)
        state[f"{prefix}.bias"] = bias.astype(np.float32)
    return state
