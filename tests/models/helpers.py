"""Layers with random weights, and how far two right evaluations of one may be apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.conv import Block, error_bound, evaluate_magnitude, fuse, gamma, rounding_count
from reparam.conv.bounds import SMALLEST_NORMAL, UNIT_ROUNDOFF
from reparam.models.paddle_api import paddle

paddle.set_device("cpu")


# Near the usual 1e-5, and a float32 number: Paddle rounds epsilon to float32 even in float64.
EPSILON = 2.0**-17


def randomise(layer: Any, seed: int = 0) -> Any:
    """Give every parameter of ``layer`` a random value, BatchNorm statistics above all."""
    rng = np.random.default_rng(seed)
    for name, parameter in layer.state_dict().items():
        shape = tuple(parameter.shape)
        if name.endswith("_variance"):
            values = rng.uniform(0.2, 3.0, shape)
        elif name.endswith("_mean"):
            values = rng.normal(size=shape)
        elif len(shape) == 4:
            values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight") and len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        else:
            values = rng.normal(size=shape) * 0.3
        if not name.endswith("alpha"):
            parameter.set_value(values.astype("float32"))
    return layer


def arrays_of(layer: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def shapes_of(layer: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


def run(layer: Any, x: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of ``layer`` in evaluation mode for ``x``, always as a list."""
    layer.eval()
    with paddle.no_grad():
        outputs = layer(paddle.to_tensor(x))
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [output.numpy() for output in outputs]


def probe(channels: int, height: int = 9, width: int = 7, seed: int = 1) -> np.ndarray:
    """Return a float64 image whose values float32 holds exactly."""
    x = np.random.default_rng(seed).normal(size=(2, channels, height, width))
    return x.astype("float32").astype("float64")


def bound32(block: Block, x: np.ndarray) -> np.ndarray:
    """Return how far train-time and deploy form of ``block`` may be apart in float32.

        (gamma_n + gamma_m) * B     the train-time form sums n roundings, the deploy form m
        + u * B + m * tiny          the fused weight was rounded once, and flushed

    where B is ``block`` evaluated with absolute values. ReLU and the identity add nothing.
    """
    magnitude = evaluate_magnitude(block, x)
    n, m = rounding_count(block), rounding_count(fuse(block))
    roundings = gamma(n, "float32") + gamma(m, "float32") + UNIT_ROUNDOFF["float32"]
    return roundings * magnitude + m * SMALLEST_NORMAL["float32"]


def bound64(block: Block, x: np.ndarray) -> np.ndarray:
    return error_bound(block, x)
