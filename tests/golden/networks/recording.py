"""What the scripts of this folder share: random weights that pack small, and one file a case.

Knows NumPy alone, so that it runs in the environment of any original implementation.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
STEPS = 127  # of a value, on either side of 0: each is stored in one byte

Arrays = dict[str, np.ndarray]


def random_state(shapes: Mapping[str, tuple[int, ...]], name: str) -> Arrays:
    """Return float32 values for a state dict in Paddle's spelling, as training leaves them.

    Gamma has both signs, means are of order 1 and variances in [0.2, 3]; other factors are near 1
    and kernels are divided by the root of their fan-in. Every array holds at most 255
    different values, the multiples of a power of two.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    norms = {key.removesuffix("._mean") for key in shapes if key.endswith("._mean")}
    return {
        key: _unpacked(*_packed(_random(key, shape, norms, rng))) for key, shape in shapes.items()
    }


def _random(key: str, shape: tuple[int, ...], norms: set[str], rng: Any) -> np.ndarray:
    prefix, _, leaf = key.rpartition(".")
    if leaf == "_variance":
        return rng.uniform(0.2, 3.0, shape)
    if prefix in norms and leaf == "weight":
        return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    if leaf == "scale":
        return rng.uniform(0.75, 1.1, shape) * rng.choice([-1.0, 1.0], shape)
    if len(shape) > 1:
        fan_in = shape[0] if len(shape) == 2 else np.prod(shape[1:])
        return rng.normal(0.0, fan_in**-0.5, shape)
    return rng.normal(0.0, 1.0 if leaf == "_mean" else 0.3, shape)


def _packed(values: np.ndarray) -> tuple[np.ndarray, int]:
    exponent = int(np.ceil(np.log2(np.abs(values).max() / STEPS)))
    return np.rint(values / 2.0**exponent).astype(np.int8), exponent


def _unpacked(steps: np.ndarray, exponent: int) -> np.ndarray:
    return (steps * 2.0**exponent).astype(np.float32)


def image(shape: Sequence[int]) -> np.ndarray:
    """Return a float32 image, standard normal in steps of a power of two."""
    return _unpacked(*_packed(np.random.default_rng(1).normal(size=tuple(shape))))


def save(
    name: str,
    state: Arrays,
    x: np.ndarray,
    outputs: Mapping[str, Sequence[np.ndarray]],
    about: Mapping[str, Any],
) -> None:
    """Write the case ``name``; README.md says what its entries are."""
    arrays = {"input": x, **state}
    packed = {key: _packed(value) for key, value in arrays.items()}
    for key, (steps, exponent) in packed.items():
        assert np.array_equal(_unpacked(steps, exponent), arrays[key]), key
    keys = [[key, list(steps.shape), exponent] for key, (steps, exponent) in packed.items()]
    entries = {f"{kind}/{i}": y for kind, ys in outputs.items() for i, y in enumerate(ys)}
    np.savez_compressed(
        HERE / f"{name}.npz",
        about=json.dumps({**about, "keys": keys}, sort_keys=True),
        steps=np.concatenate([steps.ravel() for steps, _ in packed.values()]),
        **entries,
    )


def load(path: Path) -> tuple[dict[str, Any], Arrays, np.ndarray, dict[str, list[np.ndarray]]]:
    """Return about, state, input and outputs of a case, all float32 but the truth."""
    with np.load(path) as file:
        entries = {key: file[key] for key in file.files}
    about = json.loads(str(entries["about"]))
    arrays, start = {}, 0
    for key, shape, exponent in about.pop("keys"):
        end = start + int(np.prod(shape))
        arrays[key] = _unpacked(entries["steps"][start:end].reshape(shape), exponent)
        start = end
    outputs: dict[str, list[np.ndarray]] = {}
    for key, value in entries.items():
        kind, slash, _ = key.partition("/")
        if slash:
            outputs.setdefault(kind, []).append(value)
    return about, arrays, arrays.pop("input"), outputs
