"""Random checkpoints of known architectures, made without paddle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reparam.checkpoint import save_checkpoint
from reparam.models import cspresnet_layout, repvgg_layout

Arrays = dict[str, np.ndarray]


def random_array(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Statistics as training leaves them: gamma of both signs, mean not 0, variance not 1."""
    if key.endswith("_variance"):
        values = rng.uniform(0.2, 3.0, shape)
    elif key.endswith("alpha"):
        values = np.full(shape, 0.37)
    elif len(shape) == 4:
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("weight") and len(shape) == 1:
        values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    else:
        values = rng.normal(size=shape)
    return values.astype(np.float32)


def random_arrays(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {key: random_array(key, shape, rng) for key, shape in shapes.items()}


def cspresnet_arrays(seed: int = 0, *, deploy: bool = False, **settings) -> Arrays:
    """A CSPResNet small enough for tests: 2 stages, 3 RepVggBlocks."""
    chosen = {"layers": (1, 2), "channels": (8, 16, 24), "use_alpha": True, **settings}
    layout = cspresnet_layout.layout(cspresnet_layout.Structure(**chosen))
    return random_arrays(layout.shapes(deploy=deploy), seed)


def repvgg_arrays(seed: int = 0, *, deploy: bool = False, **settings) -> Arrays:
    """A RepVGG small enough for tests: 7 blocks, one of them in two groups."""
    chosen = {
        "num_blocks": (1, 2, 2, 1),
        "widths": (8, 12, 16, 20),
        "groups": {3: 2},
        "class_num": 5,
        **settings,
    }
    layout = repvgg_layout.layout(repvgg_layout.Structure(**chosen))
    return random_arrays(layout.shapes(deploy=deploy), seed)


def write(folder: Path, arrays: Arrays, name: str = "ckpt.pdparams") -> Path:
    path = folder / name
    save_checkpoint(path, arrays)
    return path
