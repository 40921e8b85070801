"""A graph with a name, the operators it has, and those that it should have once it is fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.graph.builder import GraphBuilder, Value

Build = Callable[[GraphBuilder], None]

_SHORT = {"BN": "BatchNormalization", "GAP": "GlobalAveragePool", "IN": "InstanceNormalization"}


@dataclass(frozen=True)
class Case:
    """One graph.

    Attributes:
        row: of the catalogue of block families, or "-".
        before: nodes of each operator as built.
        after: the same once fused.
        why: of a near miss, what keeps it from fusing further.
        settings: of the GraphBuilder, such as the opset.
        runs: whether onnxruntime's CPU has what is in it.
        since: the first opset that has what is in it.
    """

    name: str
    row: str
    build: Build
    before: dict[str, int]
    after: dict[str, int]
    why: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    runs: bool = True
    since: int = 9

    def graph(self, **settings: Any) -> GraphBuilder:
        """Return the built graph; settings given here come before those of the case."""
        g = GraphBuilder(**{**self.settings, **settings})
        self.build(g)
        return g


def counts(text: str) -> dict[str, int]:
    """Return ``{"Conv": 2, "Relu": 1}`` for "2 Conv, Relu"."""
    found = {}
    for part in filter(None, text.split(", ")):
        *number, op = part.split(" ")
        found[_SHORT.get(op, op)] = int(number[0]) if number else 1
    return found


class Registry:
    """Cases in the order in which they are declared."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def add(
        self, name: str, row: str, before: str, after: str, why: str = "", runs: bool = True,
        since: int = 9, **settings: Any,
    ) -> Callable[[Build], Build]:  # fmt: skip
        def register(build: Build) -> Build:
            self.cases.append(
                Case(name, row, build, counts(before), counts(after), why, settings, runs, since)
            )
            return build

        return register


def conv_bn(g: GraphBuilder, x: Value, out: int, kernel: int, **geometry: Any) -> Value:
    """A convolution padded to the same size, and a BatchNorm; depthwise where ``out`` is 0."""
    epsilon = geometry.pop("epsilon", 1e-5)
    geometry.setdefault("padding", kernel // 2 * geometry.get("dilation", 1))
    conv = g.conv if out else g.depthwise
    given = (out, kernel) if out else (kernel,)
    return g.bn(conv(x, *given, **geometry), epsilon)
