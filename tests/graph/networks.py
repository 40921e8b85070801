"""Small networks as ONNX files, for what reads and writes files; and a fuser that is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.graph import laws
from tests.graph.builder import GraphBuilder

OPEN = ("n", 8, "h", "w")
CLOSED = ("n", 8, 14, 14)


def repvgg(shape: Any = CLOSED, **options: Any) -> onnx.ModelProto:
    """Return two blocks, the second of stride 2: 4 Conv, 5 BatchNorm, 3 Add, 2 Relu."""
    g = GraphBuilder(**options)
    x = g.input("x", shape)
    y = g.add(g.bn(g.conv(x, 8, 3, padding=1)), g.bn(g.conv(x, 8, 1)), g.bn(x))
    y = g.relu(y)
    z = g.add(g.bn(g.conv(y, 16, 3, padding=1, stride=2)), g.bn(g.conv(y, 16, 1, stride=2)))
    g.output(g.relu(z))
    return g.model()


def nothing(shape: Any = CLOSED, **options: Any) -> onnx.ModelProto:
    """Return a network in which nothing can be fused."""
    g = GraphBuilder(**options)
    g.output(g.relu(g.conv(g.relu(g.conv(g.input("x", shape), 8, 3, padding=1)), 8, 1)))
    return g.model()


def low_rank(shape: Any = CLOSED) -> onnx.ModelProto:
    """Return a depthwise 3x3 and a dense 1x1: as one convolution they cost nearly five times."""
    g = GraphBuilder()
    g.output(g.relu(g.conv(g.depthwise(g.input("x", shape), 3), 8, 1)))
    return g.model()


def saved(folder: Path, model: onnx.ModelProto, name: str = "net.onnx", **said: str) -> Path:
    """Write a model, with what it says of itself; return the path."""
    onnx.helper.set_model_props(model, said)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def forget_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the law of factors and shifts forget the shift: a wrong fuser."""
    right = laws.Scaling.numbers

    def wrong(self: laws.Scaling, parts: Any) -> Any:
        return right(replace(self, shift=np.zeros_like(self.shift)), parts)

    monkeypatch.setattr(laws.Scaling, "numbers", wrong)
