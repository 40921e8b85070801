"""Random checkpoints of every variant in which activations stay of one size.

Statistics are as far from fresh as in the tests: gamma of both signs, mean of order 1, variance
in [0.2, 3]. But gamma takes the variance out again and shares itself among the branches of a
block, as training sees to, so that a deep network neither dies out nor amplifies rounding: with
gamma independent of the variance, the outputs of the deep variants would decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reparam import save_checkpoint
from reparam.models import cspresnet_layout, repvgg_layout
from reparam.models.layout import ConvBN, Layout, Shape

_STATISTICS = ("_mean", "_variance")


def _layouts() -> dict[str, Layout]:
    found = {
        name: repvgg_layout.layout(repvgg_layout.Structure.of(**variant))
        for name, variant in repvgg_layout.VARIANTS.items()
    }
    for name, variant in cspresnet_layout.VARIANTS.items():
        layers = cspresnet_layout.scaled(cspresnet_layout.LAYERS, variant["depth_mult"])
        channels = cspresnet_layout.scaled(cspresnet_layout.CHANNELS, variant["width_mult"])
        for alpha in (False, True):
            for stem in (False, True):
                structure = cspresnet_layout.Structure(layers, channels, stem, alpha)
                options = "+alpha" * alpha + "+stem" * stem
                found[f"{name}{options}"] = cspresnet_layout.layout(structure)
    return found


CHECKPOINTS = _layouts()


def write_checkpoint(name: str, path: Path) -> dict[str, Any]:
    """Write random weights of the variant ``name``; return what there is to count in them."""
    layout = CHECKPOINTS[name]
    shapes = layout.shapes()
    save_checkpoint(path, random_weights(layout))
    return {
        "blocks": len(layout.blocks),
        "convolutions": sum(len(shape) == 4 for shape in shapes.values()),
        "parameters": _learned(shapes),
        "parameters_deploy": _learned(layout.shapes(deploy=True)) - _folded(layout),
        "file_bytes": path.stat().st_size,
    }


def random_weights(layout: Layout, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Return float32 weights for every key of the train-time form."""
    rng = np.random.default_rng(seed)
    branches = {
        key: len(block.branches) + any(name.endswith("_mean") for name in block.others)
        for block in layout.blocks
        for key in block.train_time()
    }
    shapes = layout.shapes()
    variances = {
        key: rng.uniform(0.2, 3.0, shape)
        for key, shape in shapes.items()
        if key.endswith("_variance")
    }
    arrays = {}
    for key, shape in shapes.items():
        variance = variances.get(f"{key.rpartition('.')[0]}._variance")
        if key.endswith("_variance"):
            values = variance
        elif key.endswith("alpha"):
            values = rng.uniform(0.2, 1.2, shape)
        elif variance is not None and not key.endswith("_mean"):
            values = _affine(key, variance, branches.get(key, 1), rng)
        else:
            values = rng.standard_normal(shape, dtype=np.float32)
            fan_in = {4: prod(shape[1:]), 2: shape[0]}.get(len(shape), 1)
            values *= np.float32(fan_in**-0.5)
        arrays[key] = np.asarray(values, dtype=np.float32)
    return arrays


def _affine(
    key: str, variance: np.ndarray[Any, Any], branches: int, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Return gamma or beta of a BatchNorm whose branch is one of ``branches``."""
    if key.endswith("bias"):
        return rng.normal(size=variance.shape) / np.sqrt(branches)
    signs = rng.choice([-1.0, 1.0], variance.shape)
    return rng.uniform(0.5, 1.5, variance.shape) * signs * np.sqrt(variance / branches)


def _learned(shapes: Mapping[str, Shape]) -> int:
    return sum(prod(shape) for key, shape in shapes.items() if not key.endswith(_STATISTICS))


def _folded(layout: Layout) -> int:
    """Return the parameters that go where the BatchNorms outside blocks are folded too.

    Gamma and beta of each become the bias of its convolution.
    """
    return sum(part.weight[0] for part in layout.parts if isinstance(part, ConvBN))
