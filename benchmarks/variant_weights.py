"""Random checkpoints of every variant in which activations stay of one size.

Statistics are as far from fresh as in the tests: gamma of both signs, mean of order 1, variance
in [0.2, 3]. But gamma takes the variance out again and makes up for what branches, ReLUs and
gates do to the power of a signal, as training sees to. So a deep network neither amplifies
rounding until its outputs decide nothing, nor forgets what its first blocks computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reparam import save_checkpoint
from reparam.models import cspresnet_layout, repvgg_layout
from reparam.models.layout import Block, ConvBN, Layout, Shape

_STATISTICS = ("_mean", "_variance")
_MEAN_SQUARE = 1 + 1 / 12  # of uniform(0.5, 1.5)
_GATE = 0.293  # mean square of the sigmoid of a standard normal number


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
    shapes = layout.shapes()
    gains = _gains(layout)
    variances = {
        key: rng.uniform(0.2, 3.0, shape)
        for key, shape in shapes.items()
        if key.endswith("_variance")
    }
    arrays = {}
    for key, shape in shapes.items():
        prefix, _, leaf = key.rpartition(".")
        variance = variances.get(f"{prefix}._variance")
        if leaf == "_variance":
            values = variances[key]
        elif leaf == "alpha":
            values = rng.uniform(0.5, 1.5, shape)
        elif leaf == "weight" and variance is not None:
            signs = rng.choice([-1.0, 1.0], shape)
            values = rng.uniform(0.5, 1.5, shape) * signs * np.sqrt(variance)
            values *= gains[prefix] / _MEAN_SQUARE**0.5
        else:
            values = rng.standard_normal(shape, dtype=np.float32)
            values *= np.float32(_deviation(key, shape))
        arrays[key] = np.asarray(values, dtype=np.float32)
    return arrays


def _gains(layout: Layout) -> dict[str, float]:
    """Return the factor of gamma of each BatchNorm, by its prefix.

    A ReLU halves the power of what is symmetric about 0 and a gate takes its mean square of it;
    both are made up for. Branches share, and the blocks that are added to their input of
    CSPResNet's stages come in at half the amplitude, so that the sum grows slowly.
    """
    shapes = layout.shapes()
    gated = {part.prefix for part in layout.blocks if f"{part.prefix}.se.up.bias" in shapes}
    gains: dict[str, float] = {}
    for part in layout.parts:
        if isinstance(part, ConvBN):
            gate = _GATE if part.prefix.endswith(".conv3") and "stages" in part.prefix else 1.0
            gains[f"{part.prefix}.bn"] = (2 / gate) ** 0.5
        elif isinstance(part, Block):
            norms = [key.removesuffix("._mean") for key in part.train_time() if "._mean" in key]
            gate = _GATE if part.prefix in gated else 1.0
            residual = 0.5 if ".blocks." in part.prefix else 1.0
            share = residual * (2 / gate / len(norms)) ** 0.5
            gains |= dict.fromkeys(norms, share)
    return gains


def _deviation(key: str, shape: Shape) -> float:
    """Return the standard deviation of a weight, bias or mean."""
    if len(shape) == 1:
        return 1.0 if key.endswith(("_mean", "up.bias", "fc.bias")) else 0.3
    fan_in = prod(shape[1:]) if len(shape) == 4 else shape[0]
    # The logits of a gate come from means of growing size; its bias is to have its say.
    return float((0.1 if key.endswith(("up.weight", "fc.weight")) else 1.0) * fan_in**-0.5)


def _learned(shapes: Mapping[str, Shape]) -> int:
    return sum(prod(shape) for key, shape in shapes.items() if not key.endswith(_STATISTICS))


def _folded(layout: Layout) -> int:
    """Return the parameters that go where the BatchNorms outside blocks are folded too.

    Gamma and beta of each become the bias of its convolution.
    """
    return sum(part.weight[0] for part in layout.parts if isinstance(part, ConvBN))
