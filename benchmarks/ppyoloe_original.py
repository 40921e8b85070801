"""paddledet's own PP-YOLOE at its full size, for benchmarks.ppyoloe_peers, which starts this.

    PYTHON -m benchmarks.ppyoloe_original NAME FOLDER [SIZE ...]

PYTHON is one that has paddledet. Writes FOLDER/NAME.pdparams, by ``paddle.save`` of the state dict,
and FOLDER/NAME.npz: images, and what it makes of them in float32 and float64.

A deep network with weights and statistics drawn at random amplifies rounding until outputs decide
nothing, or forgets its input. So each BatchNorm gets, while calibrating images run through, the
mean and variance that it sees there, both a little off, and the convolution in front is scaled for
that variance to be one drawn from [0.3, 2.5]. Gamma has both signs and is small, 0.075 to 0.225:
with larger ones activations bend so much that images a little unlike the calibrating ones run
away. Last convolutions are scaled to class logits of deviation 2.5 about -8: a few hundred scores
of a batch above a half, and in every class some above the threshold of 0.01.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from benchmarks.ppyoloe_original_settings import settings_of
from tests.golden.detectors.original import (
    DEFAULT_NMS,
    Arrays,
    answers,
    loaded,
    made,
    nudged,
    selected,
    settled,
)
from tests.golden.detectors.weights import chooser, images, predicting, random_state

SIZES = ("192x192", "160x256")
BATCHES = (1, 3)
CALIBRATION = (6, 3, 160, 192)
GAIN = 0.15
PATCHES = (1, 4, 16)
DEVIATION, CENTRE = 2.5, -8.0


def weights(settings: dict[str, Any], name: str) -> Arrays:
    network = made(settings)
    state = random_state({k: tuple(v.shape) for k, v in network.state_dict().items()}, name)
    for key in (key for key in state if key.endswith(".bn.weight")):
        state[key] *= np.float32(GAIN)
    state["yolo_head.proj_conv.weight"] = network.yolo_head.proj_conv.weight.numpy()
    x = images(CALIBRATION, 7, PATCHES)
    layer = loaded(settings, state, "float64")
    state = settled(layer, x, chooser(state, name))
    logits = {key: v for key, v in answers(layer, x).items() if key[:3] in ("cls", "reg")}
    return predicting(state, logits, name, DEVIATION, CENTRE)


def write(name: str, folder: Path, sizes: list[str]) -> None:
    settings = settings_of(name)
    state = weights(settings, name)
    plain = loaded(settings, state, "float32")
    paddle.save(plain.state_dict(), str(folder / f"{name}.pdparams"))
    shapes = [(n, 3, *map(int, size.split("x"))) for size in sizes for n in BATCHES]
    inputs = [images(shape, seed, PATCHES).astype(np.float32) for seed, shape in enumerate(shapes)]
    arrays: Arrays = {}
    for i, x in enumerate(inputs):
        arrays[f"{i}/image"] = x
        arrays |= {f"{i}/float32/{key}": value for key, value in answers(plain, x).items()}
        factors = np.random.default_rng(i).uniform(0.4, 2.5, (len(x), 2)).astype(np.float32)
        arrays[f"{i}/scale_factor"] = factors
        for what, by in (("plain", np.ones_like(factors)), ("scaled", factors)):
            rows, count = selected(plain, x, by, DEFAULT_NMS)
            arrays |= {f"{i}/{what}_rows": rows, f"{i}/{what}_count": count}
    del plain
    exact = loaded(settings, state, "float64")
    for i, x in enumerate(inputs):
        found = answers(exact, x.astype(np.float64))
        arrays |= {f"{i}/truth/{key}": value for key, value in found.items()}
    x = inputs[0].astype(np.float64)
    for key, value in answers(nudged(exact, 0), x).items():
        arrays[f"nudged/{key}"] = np.abs(value - arrays[f"0/truth/{key}"]).max()
    beside = folder / f"{name}.unfinished.npz"
    np.savez(beside, **arrays)
    beside.rename(folder / f"{name}.npz")


def main() -> None:
    name, folder, *sizes = sys.argv[1:]
    paddle.set_device("cpu")
    with paddle.no_grad():
        write(name, Path(folder), sizes or list(SIZES))


if __name__ == "__main__":
    main()
