"""What the scripts of this folder share: random states, and one file for each recorded block.

Knows NumPy alone, so that it runs in the environment of any original implementation.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MEANS, VARIANCES = ("running_mean", "_mean"), ("running_var", "_variance")
COUNTER = "num_batches_tracked"

Arrays = dict[str, np.ndarray]


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Return float32 values for a state dict, as training leaves them.

    Gamma has both signs, means are of order 1 and variances in [0.2, 3]; a counter of PyTorch is
    an int64. Anything that belongs to no BatchNorm is normal, kernels divided by sqrt(fan-in).
    """
    rng = np.random.default_rng(seed)
    return {key: _random(key, shape, shapes, rng) for key, shape in shapes.items()}


def _random(
    key: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], rng: Any
) -> np.ndarray:
    stem, _, last = key.rpartition(".")
    dot = f"{stem}." if stem else ""
    if last == COUNTER:
        return np.array(1000, dtype=np.int64)
    if last in VARIANCES:
        return rng.uniform(0.2, 3.0, shape).astype(np.float32)
    in_norm = any(f"{dot}{mean}" in shapes for mean in MEANS)
    if in_norm and last == "weight":
        return (rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)).astype(np.float32)
    fan_in = np.prod(shape[1:]) if len(shape) > 1 and last == "weight" else 1.0
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def random_input(channels: int, seed: int, size: tuple[int, int] = (7, 9)) -> np.ndarray:
    """Return a float64 input (1, channels, H, W), standard normal, that float32 holds exactly."""
    values = np.random.default_rng(seed + 1).normal(size=(1, channels, *size))
    return values.astype(np.float32).astype(np.float64)


def save(
    slug: str,
    state: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    *,
    family: str,
    epsilon: float,
    source: str,
    layer: str,
    prefix: str = "block.",
    **geometry: Any,
) -> None:
    """Write one case; README.md says what its entries are."""
    about = {"family": family, "epsilon": epsilon, "source": source, "layer": layer, **geometry}
    entries = {f"state/{prefix}{key}": value for key, value in state.items()}
    about_text = np.array(json.dumps(about))
    np.savez_compressed(HERE / f"{slug}.npz", about=about_text, x=x, y=y, **entries)


def without_init(package: str, *subpackages: str) -> None:
    """Make modules of ``package`` importable without running what the package itself imports."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    root = Path(found.origin).parent
    for name in (package, *(f"{package}.{one}" for one in subpackages)):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
