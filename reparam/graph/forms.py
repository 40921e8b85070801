"""What is known of a value in a graph: that it is one convolution of an earlier value.

A form carries the geometry and whether the bias is exactly zero, and no other numbers: those are
computed once, for the forms that are chosen, by :mod:`reparam.graph.numbers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

from reparam.conv.geometry import Geometry

if TYPE_CHECKING:
    import onnx_ir as ir

    from reparam.graph.numbers import Numbers

OLDEST, NEWEST = 4, 4
"""Sources of which a value keeps a form, beside itself; two lose a quarter of what can be saved."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A convolution of which only the outputs are scaled, shifted or added.

    It is transposed, or its padding depends on the size of the input.

    Attributes:
        key: what is equal of two that may be added.
        macs: for one position of the input.
    """

    key: tuple[object, ...]
    macs: int


@dataclass(frozen=True, slots=True)
class Shaped:
    """What a law makes of its parts, without numbers.

    Attributes:
        axis: the channel axis; None while one factor and one shift serve every element.
        geometry: of the convolution, with no spatial axis for a linear layer; None while there
            is a factor and a shift for each channel and no kernel.
        zero_bias: nothing is added to any channel.
        opaque: of a convolution whose geometry is left as it is; None for all others.
    """

    axis: int | None
    geometry: Geometry | None
    zero_bias: bool
    opaque: Opaque | None = None


class Law(Protocol):
    """What one node does to the forms of the values it reads."""

    def shape(self, parts: Sequence[Shaped]) -> Shaped:
        """Return what comes out. Raises NotFusibleError where that is not one convolution."""

    def numbers(self, parts: Sequence[Numbers]) -> Numbers:
        """Return the same in numbers; only called where ``shape`` did not refuse."""

    def cost(self) -> int:
        """Return the multiply-accumulates of the node for one output position."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A value equals ``shaped`` of ``source``.

    Attributes:
        source: the value it starts from.
        shaped: what of it.
        node: whose output the value is; None for the value itself, and so is ``law``.
        law: of the node.
        parts: the forms, with the same source, of what the node reads.
        cost: MACs of the node at one position of the source.
        before: MACs of all nodes behind it, at one position of the source; what two branches
            share counts twice.
    """

    source: ir.Value
    shaped: Shaped
    node: ir.Node | None = None
    law: Law | None = None
    parts: tuple[Form, ...] = ()
    cost: float = 0.0
    before: float = 0.0

    @classmethod
    def itself(cls, value: ir.Value) -> Form:
        """Return the form that says nothing: the value is itself."""
        return cls(value, Shaped(None, None, zero_bias=True))

    @property
    def after(self) -> float:
        """MACs of the one convolution, at one position of the source."""
        geometry = self.shaped.geometry
        if self.shaped.opaque is not None:
            return float(self.shaped.opaque.macs)
        return 0.0 if geometry is None else geometry.macs / thinning(geometry)

    def behind(self) -> Iterator[Form]:
        """Yield this form and every form it is made of, each once; the value itself not."""
        seen, waiting = {id(self)}, [self]
        while waiting:
            form = waiting.pop()
            if form.node is None:
                continue
            yield form
            for part in form.parts:
                if id(part) not in seen:
                    seen.add(id(part))
                    waiting.append(part)


def thinning(geometry: Geometry | None) -> int:
    """Return how many positions of the input there are for one of the output."""
    return 1 if geometry is None else prod(geometry.stride)
