"""Random checkpoints of detectors of the zoo that still tell one place of an image from another.

As ``tests.golden.detectors.weights`` draws them: each BatchNorm gets the statistics that it sees
while images run through, a little off.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.detectors.weights import Choose, chooser, images, predicting, random_state

GAIN = 0.15  # of gamma: with larger ones other images than the calibrating ones run away
CALIBRATION = (2, 3, 192, 192)

Arrays = dict[str, np.ndarray]


def built(name: str) -> Any:
    """Return the network registered as ``name``, answering with its maps, in such weights."""
    import paddle

    from reparam import create_model

    layer = create_model(name, head="raw")
    layer.eval()
    with paddle.no_grad():
        found = layer.state_dict()
        state = random_state({key: tuple(value.shape) for key, value in found.items()}, name)
        for key in state:
            if key.endswith(".bn.weight"):
                state[key] *= np.float32(GAIN)
        state["yolo_head.proj_conv.weight"] = found["yolo_head.proj_conv.weight"].numpy()
        layer.set_state_dict(state)
        x = images(CALIBRATION, 7, (1, 4, 16)).astype(np.float32)
        settle(layer, x, chooser(state, name))
        state = {key: value.numpy() for key, value in layer.state_dict().items()}
        layer.set_state_dict(predicting(state, maps_of(layer, x), name, 2.5, -8.0))
    return layer


def settle(layer: Any, x: np.ndarray, choose: Choose) -> None:
    """Give every BatchNorm the statistics that ``choose`` makes of what it sees of ``x``."""
    import paddle

    def hook(prefix: str, convolution: Any) -> Any:
        def before(norm: Any, inputs: Any) -> Any:
            seen = inputs[0].numpy()
            chosen = choose(prefix, seen.mean(axis=(0, 2, 3)), seen.var(axis=(0, 2, 3)))
            factor, mean, variance = (paddle.to_tensor(one.astype(np.float32)) for one in chosen)
            convolution.weight.set_value(convolution.weight * factor.reshape([-1, 1, 1, 1]))
            norm._mean.set_value(mean)
            norm._variance.set_value(variance)
            return (inputs[0] * factor.reshape([1, -1, 1, 1]),)

        return before

    parts = [(key, part) for key, part in layer.named_sublayers() if hasattr(part, "bn")]
    hooks = [p.bn.register_forward_pre_hook(hook(f"{key}.bn", p.conv)) for key, p in parts]
    layer(paddle.to_tensor(x))
    for one in hooks:
        one.remove()


def maps_of(layer: Any, x: np.ndarray) -> Arrays:
    """Return the maps cls0, reg0, cls1, ... of ``x``."""
    import paddle

    with paddle.no_grad():
        maps = layer(paddle.to_tensor(x))
    return {f"{('cls', 'reg')[i % 2]}{i // 2}": one.numpy() for i, one in enumerate(maps)}


def let_pass(layer: Any, x: np.ndarray, count: int, threshold: float) -> None:
    """Shift the biases of class logits until ``count`` scores of ``x`` are above a threshold."""
    maps = maps_of(layer, x)
    logits = np.sort(np.concatenate([v.ravel() for k, v in maps.items() if k[:3] == "cls"]))
    between = float(logits[-count] + logits[-count - 1]) / 2
    shift = math.log(threshold / (1 - threshold)) - between
    for part in layer.yolo_head.pred_cls:
        part.bias.set_value(part.bias + shift)


def write(layer: Any, path: Path) -> None:
    from reparam import save_checkpoint

    save_checkpoint(path, {key: value.numpy() for key, value in layer.state_dict().items()})
