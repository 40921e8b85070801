"""A network with every weight off by one rounding of float32: how far that takes its outputs.

By luck a network in float32 can meet the truth more closely than its weights, rounded, can be told
apart. What one rounding of the weights does is then the yardstick: fusing rounds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.adapters.foreign_running import jittered
from reparam.adapters.paddle_models import Array, run_layer

_SEEDS = (11, 12, 13)  # of the copies


class Shaken:
    """Copies of a network, made when they are needed.

    Args:
        layer: in float32; not changed.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._copies: list[Any] = []

    def reference(self, output: int, exact: Array, truth: Array) -> Array:
        """Return the output, of several copies, that is furthest from the truth.

        Args:
            output: which one.
            exact: the input, in float64.
            truth: that output of the network itself in float64.
        """
        if not self._copies:
            self._copies = [jittered(self.layer, seed) for seed in _SEEDS]
        outputs = [run_layer(copy, exact)[output] for copy in self._copies]
        return max(outputs, key=lambda y: float(np.max(np.abs(y - truth))))
