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
from reparam.models import (
    cspresnet_layout,
    mobileone_layout,
    pplcnetv2_layout,
    pplcnetv3_layout,
    repvgg_layout,
)
from reparam.models.layout import Block, ConvBN, Layout, Shape

_STATISTICS = ("_mean", "_variance")
_MEAN_SQUARE = 1 + 1 / 12  # of uniform(0.5, 1.5)
_GATE = 0.293  # mean square of the sigmoid of a standard normal number
_HARD_SWISH = (
    0.43  # of the power that hard swish keeps: 0.36 of a standard normal number, 0.5 of larger
)
_LAST_OF_GATE = ("up", "expand", "se.conv2", "attn.fc")  # its second convolution, or the only one


def _layouts() -> dict[str, Layout]:
    families = (repvgg_layout, mobileone_layout, pplcnetv2_layout, pplcnetv3_layout)
    found = {
        name: family.layout(family.Structure.of(**variant))
        for family in families
        for name, variant in family.VARIANTS.items()
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
        "convolutions": _convolutions(shapes),
        "convolutions_deploy": _convolutions(layout.shapes(deploy=True)),
        "parameters": _learned(shapes),
        "parameters_deploy": _learned(layout.shapes(deploy=True)) - _folded(layout) - _gone(name),
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
        elif leaf == "scale":
            values = rng.uniform(0.8, 1.2, shape) * rng.choice([-1.0, 1.0], shape)
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

    An activation and a gate take a part of the power of what is symmetric about 0, which is made
    up for. Branches share. What is added to its input comes in at half the amplitude, so that the
    sum grows slowly.
    """
    shapes = layout.shapes()
    gains: dict[str, float] = {}
    for part in layout.parts:
        if isinstance(part, ConvBN):
            gains[f"{part.prefix}.bn"] = _amplitude(part.prefix, shapes)
        elif isinstance(part, Block):
            norms = [key.removesuffix("._mean") for key in part.train_time() if "._mean" in key]
            share = _amplitude(part.prefix, shapes) / len(norms) ** 0.5
            gains |= dict.fromkeys(norms, share)
    return gains


def _amplitude(prefix: str, shapes: Mapping[str, Shape]) -> float:
    """Return what the layers at ``prefix`` multiply a signal by, for it to stay of one size."""
    module, _, name = prefix.rpartition(".")
    gated_here = f"{prefix}.se.up.bias" in shapes or f"{prefix}.se.expand.bias" in shapes
    gated_before = f"{module}.se.conv2.bias" in shapes and name in ("pw_conv", "pw_conv_1")
    after_attention = "stages" in prefix and name == "conv3"
    gate = _GATE if gated_here or gated_before or after_attention else 1.0
    kept = 0.5  # of the power, by the activation
    if f"{prefix}.lab.scale" in shapes:
        strided = name == "dw_conv" and f"{prefix}.identity.weight" not in shapes
        kept = 1.0 if strided and "layer_list.0.weight" in shapes else _HARD_SWISH
    added = ".blocks." in prefix and prefix.endswith("conv2")
    added |= prefix.startswith("stages.3.") and name == "pw_conv" and ".0." not in prefix
    return (0.5 if added else 1.0) / (gate * kept) ** 0.5


def _deviation(key: str, shape: Shape) -> float:
    """Return the standard deviation of a weight, bias or mean."""
    if len(shape) == 1:
        gate = tuple(f"{name}.bias" for name in _LAST_OF_GATE)
        return 1.0 if key.endswith(("_mean", *gate)) else 0.3
    fan_in = prod(shape[1:]) if len(shape) == 4 else shape[0]
    # The logits of a gate come from means of growing size; its bias is to have its say.
    gate = tuple(f"{name}.weight" for name in _LAST_OF_GATE)
    return float((0.1 if key.endswith(gate) else 1.0) * fan_in**-0.5)


def _learned(shapes: Mapping[str, Shape]) -> int:
    return sum(prod(shape) for key, shape in shapes.items() if not key.endswith(_STATISTICS))


def _convolutions(shapes: Mapping[str, Shape]) -> int:
    return sum(len(shape) == 4 for shape in shapes.values())


def _folded(layout: Layout) -> int:
    """Return the parameters that go where the BatchNorms outside blocks are folded too.

    Gamma and beta of each become the bias of its convolution.
    """
    return sum(part.weight[0] for part in layout.parts if isinstance(part, ConvBN))


def _gone(name: str) -> int:
    """Return how many parameters of the deploy form its file has not.

    PP-LCNetV3: the affines that fused convolutions hold, and in a detector those after activations
    that PaddleOCR leaves out, where the stride is 2. PP-LCNetV2's file has one more, the factor of
    dropout in evaluation.
    """
    if name.startswith("pplcnetv2"):
        return -1
    if not name.startswith("pplcnetv3"):
        return 0
    structure = pplcnetv3_layout.Structure.of(**pplcnetv3_layout.VARIANTS[name])
    idle = [block for block in structure.blocks() if block.kind.stride == 2]
    return 2 * len(pplcnetv3_layout.layout(structure).blocks) + 2 * len(idle)
