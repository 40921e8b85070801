"""A network that float32 computes exactly by luck makes no right candidate wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from reparam.adapters.paddle_models import in_float64
from reparam.equivalence.networks import compare_run
from reparam.equivalence.records import DIFFERENT, EQUAL


@dataclass
class Network:
    layer: Any
    wide: Any
    channels: int = 1


class Cancelling(paddle.nn.Layer):
    """a * x - b * x + x / 1024 with equal a and b: exact in float32, and all of it cancels."""

    def __init__(self):
        super().__init__()
        for name in ("a", "b"):
            one = paddle.nn.initializer.Constant(1.0)
            parameter = self.create_parameter([1], attr=paddle.ParamAttr(initializer=one))
            setattr(self, name, parameter)

    def forward(self, x):
        return self.a * x - self.b * x + x / 1024


def verdict(factor):
    layer = Cancelling()
    layer.eval()
    network = Network(layer, in_float64(layer))
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)

    def candidate(values):
        return [np.float32(factor) * values - values + values / np.float32(1024)]

    return compare_run("network", network, candidate, [("numbers", x)]).verdict


def test_one_rounding_of_a_weight_is_no_difference():
    assert verdict(1 + 2**-23) == EQUAL


def test_more_than_roundings_is_one():
    assert verdict(1 + 2**-18) == DIFFERENT
