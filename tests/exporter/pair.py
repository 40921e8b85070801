"""A RepVGG and a CSPResNet in one Layer, so that one conversion tells about both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from reparam.adapters.closeness import closeness
from reparam.adapters.paddle_models import import_paddle, in_float64, run_layer
from reparam.checkpoint import load_checkpoint
from reparam.exporter import Network, network_of
from tests.weights import cspresnet_arrays, repvgg_arrays, write

paddle = import_paddle()

OUTPUTS = ("scores", "map_4", "map_8")  # (N, 5), (N, 16, H/4, W/4), (N, 24, H/8, W/8)


class Pair(paddle.nn.Layer):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return [self.first(x), *self.second(x)]


def pair(folder: Path, *, fuse: bool = True) -> Network:
    """Both in one network that takes images of any size, 32 x 40 by default."""
    first = network_of(load_checkpoint(write(folder, repvgg_arrays(), "a.pdparams")), fuse=fuse)
    second = network_of(
        load_checkpoint(write(folder, cspresnet_arrays(), "b.pdparams")),
        fuse=fuse,
        settings={"return_idx": [0, 1]},
    )
    return replace(
        first,
        name="pair",
        original=Pair(first.original, second.original),
        exported=Pair(first.exported, second.exported),
        input_name="image",
        default_size=(32, 40),
        blocks=tuple(
            f"{part}.{prefix}"
            for part, network in (("first", first), ("second", second))
            for prefix in network.blocks
        ),
        fused=tuple(
            f"{part}.{prefix}"
            for part, network in (("first", first), ("second", second))
            for prefix in network.fused
        ),
        exact=None
        if first.exact is None
        else lambda: {
            f"{part}.{key}": value
            for part, network in (("first", first), ("second", second))
            for key, value in network.exact().items()
        },
    )


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def assert_computes(network: Network, x: np.ndarray, outputs: list[np.ndarray], **how) -> None:
    """The outputs are as close to the network in float64 as float32 is."""
    truth = run_layer(in_float64(network.original), x.astype(np.float64))
    reference = run_layer(network.original, x)
    for exact, yardstick, output in zip(truth, reference, outputs, strict=True):
        measured = closeness(exact, yardstick, output.astype(np.float32), **how)
        assert measured.verdict == "equal", measured
