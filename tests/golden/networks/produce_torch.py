"""Record networks of ml-mobileone; README.md says where this runs.

python produce_torch.py FOLDER_OF_MOBILEONE
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from recording import Arrays, image, random_state, save

SPELLING = {"running_mean": "_mean", "running_var": "_variance"}  # PyTorch's and Paddle's
COUNTER = "num_batches_tracked"
# 1e-5 as Paddle's operator holds it, so that both compute the same function in float64 too.
EPSILON = float(np.float32(1e-5))


def renamed(key: str) -> str:
    stem, _, leaf = key.rpartition(".")
    return f"{stem}.{SPELLING.get(leaf, leaf)}"


def record(name: str, network: Any, convert: Any, size: tuple[int, ...], about: Any) -> None:
    """Write what the network computes in train-time form, and after its own conversion."""
    network.eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = EPSILON
    own = {key: value for key, value in network.state_dict().items() if COUNTER not in key}
    # A linear layer is (O, I) in PyTorch and (I, O) in Paddle.
    shapes = {renamed(k): tuple(v.T.shape if v.ndim == 2 else v.shape) for k, v in own.items()}
    state: Arrays = random_state(shapes, name)
    for key, tensor in own.items():
        value = state[renamed(key)]
        tensor.copy_(torch.from_numpy(value.T.copy() if value.ndim == 2 else value))
    x = image(size)
    outputs = {"output32": run(network, x), "deployed32": run(convert(network), x)}
    outputs["output"] = run(network.double(), x.astype(np.float64))
    save(name, state, x, outputs, about)


def run(network: Any, x: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        return [network(torch.from_numpy(x)).numpy()]


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    from mobileone import MobileOne, reparameterize_model

    sizes = {"num_blocks_per_stage": [1, 2, 3, 1], "num_classes": 10}
    for name, settings in {
        "apple_mobileone": {
            "width_multipliers": [0.125, 0.125, 0.0625, 0.0625],
            "num_conv_branches": 3,
        },
        "apple_mobileone_se": {
            "width_multipliers": [0.25, 0.125, 0.125, 0.0625],
            "use_se": True,
        },
    }.items():
        given = {**sizes, **settings}
        source = "ml-mobileone, mobileone.py"
        about = {"model": "mobileone", "settings": given, "source": source}
        record(name, MobileOne(**given), reparameterize_model, (1, 3, 48, 37), about)


if __name__ == "__main__":
    main(sys.argv[1])
