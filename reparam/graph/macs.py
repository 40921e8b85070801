"""Multiply-accumulates of a graph for one image, in H and W where those are open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

from reparam.graph import readers

if TYPE_CHECKING:
    import onnx_ir as ir

COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LETTERS = {3: ("L",), 4: ("H", "W"), 5: ("D", "H", "W")}
_MADE_UP = re.compile(r"unk__\d+")  # names that shape inference gives
_NAME = re.compile(r"[A-Za-z]\w{0,15}")
_POOLS = ("AveragePool", "MaxPool", "LpPool")
# Operators whose output has as many positions as their input; of Pad that is nearly so.
_KEEPING = (
    "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Div", "Dropout",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LRN", "LeakyRelu", "Log", "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow",
    "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Split", "Sqrt", "Sub", "Sum",
    "Tanh", "ThresholdedRelu",
)  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """The size of one axis: a number, or a part of an open one.

    Attributes:
        number: of positions, or the part.
        of: name of the open axis; empty where the size is known.
    """

    number: Fraction
    of: str = ""

    def __str__(self) -> str:
        if not self.of:
            return f"{int(self.number):,}"
        above, below = self.number.numerator, self.number.denominator
        return (f"{above}" if above > 1 else "") + self.of + (f"/{below}" if below > 1 else "")


Extent = tuple[Axis, ...]
"""The axes of a value on which a convolution is repeated: all but the batch and the channels."""


@dataclass
class Macs:
    """A number of MACs for one image.

    Attributes:
        terms: factors by the open axes that each is multiplied with.
        unknown: nodes whose MACs are not in it, since a size is not known.
    """

    terms: dict[tuple[str, ...], float] = field(default_factory=dict)
    unknown: int = 0

    def add(self, each: float, extent: Iterable[Axis]) -> None:
        """Add ``each`` for every position."""
        axes = list(extent)
        key = tuple(axis.of for axis in axes if axis.of)
        number = each * float(prod((axis.number for axis in axes), start=Fraction(1)))
        self.terms[key] = self.terms.get(key, 0.0) + number

    def __str__(self) -> str:
        ranked = sorted(self.terms.items(), key=lambda term: (-len(term[0]), term[0]))
        told = [" x ".join((f"{number:,.0f}", *of)) for of, number in ranked if number]
        return " + ".join(told) or "0"

    def to_json(self) -> dict[str, object]:
        """Return values that JSON knows."""
        terms = [{"factor": n, "times": list(of)} for of, n in sorted(self.terms.items())]
        return {"text": str(self), "terms": terms, "nodes_of_unknown_size": self.unknown}


def macs_of(graph: ir.Graph) -> Macs:
    """Return the MACs of the convolutions and matrix products of a graph, for one image.

    The sizes of open axes are told as parts of those of the input, without the fractions of a
    position that rounding takes away.
    """
    total, sizes = Macs(), Sizes()
    for node in graph:
        if node.op_type in COUNTED and node.domain in ("", "ai.onnx"):
            found = _macs_of_node(node, sizes)
            if found is None:
                total.unknown += 1
            else:
                total.add(*found)
    return total


def _macs_of_node(node: ir.Node, sizes: Sizes) -> tuple[float, Extent] | None:
    value, weight = node.inputs[:2]
    shape = _known_shape(weight)
    if value is None or weight is None:
        return None
    if node.op_type == "Gemm":
        return None if shape is None else (float(prod(shape)), ())
    if node.op_type == "MatMul":
        return _macs_of_product(value, weight, sizes)
    where = node.outputs[0] if node.op_type == "Conv" else value
    extent = sizes.of(where, 1)
    return None if shape is None or extent is None else (float(prod(shape)), extent)


def _macs_of_product(
    value: ir.Value, weight: ir.Value, sizes: Sizes
) -> tuple[float, Extent] | None:
    ranks = readers.rank_of(value), readers.rank_of(weight)
    if ranks[0] is None or ranks[1] is None or min(ranks[0], ranks[1]) < 2:
        return None
    if ranks[1] == 2:
        shape, rows = _known_shape(weight), sizes.of(value, ranks[0] - 1)
        return None if shape is None or rows is None else (float(prod(shape)), rows)
    columns = readers.size_of(weight, -1)
    rest = sizes.of(value, 0)
    return None if columns is None or rest is None or ranks[0] < ranks[1] else (columns, rest)


def _known_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape if isinstance(size, int))


class Sizes:
    """Sizes of values, found from those that read and make them where they are open."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, Extent | None] = {}

    def of(self, value: ir.Value, channels: int | None) -> Extent | None:
        """Return the axes of a value but the first and that of the channels; None if not known."""
        if value.shape is not None:
            axes = [
                _stated(size, axis, len(value.shape), value)
                for axis, size in enumerate(value.shape)
                if axis not in (0, channels)
            ]
            if all(axis is not None for axis in axes):
                return tuple(axis for axis in axes if axis is not None)
        return self._of_image(value) if channels == 1 else None

    def _of_image(self, value: ir.Value) -> Extent | None:
        """Return the axes after the second, from the first value upstream of which they are known.

        Walks without recursion: graphs are deep.
        """
        path: list[tuple[ir.Value, ir.Node]] = []
        extent: Extent | None = None
        current = value
        while True:
            if current in self._found:
                extent = self._found[current]
                break
            extent = _stated_image(current)
            node = current.producer()
            if extent is not None or node is None:
                self._found[current] = extent
                break
            before = _upstream(node)
            if before is None:
                self._found[current] = None
                break
            path.append((current, node))
            current = before
        for passed, node in reversed(path):
            extent = None if extent is None else _after(node, extent)
            self._found[passed] = extent
        return extent


def _stated_image(value: ir.Value) -> Extent | None:
    rank = readers.rank_of(value)
    if value.shape is None or rank not in _LETTERS:
        return None
    axes = [_stated(size, axis + 2, rank, value) for axis, size in enumerate(value.shape[2:])]
    return None if None in axes else tuple(axis for axis in axes if axis is not None)


def _stated(size: object, axis: int, rank: int, value: ir.Value) -> Axis | None:
    """Return what a shape says of one axis."""
    if isinstance(size, int):
        return Axis(Fraction(size))
    letters = _LETTERS.get(rank, ())
    if value.is_graph_input() and letters and axis >= 2:
        return Axis(Fraction(1), letters[axis - 2])
    name = str(getattr(size, "value", None) or "")
    if _NAME.fullmatch(name) and not _MADE_UP.fullmatch(name) and rank not in (4, 5):
        return Axis(Fraction(1), name)
    return None


def _upstream(node: ir.Node) -> ir.Value | None:
    """Return the value whose sizes decide those of a node's output."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Concat", "Split") and readers.integer(node, "axis", 0) != 1:
        return None
    if node.op_type in _KEEPING:
        moving = [v for v in node.inputs if v is not None and v.const_value is None]
        return next((v for v in moving if not _is_one_position(v)), None)
    scaled = ("Conv", "ConvTranspose", "Resize", "Upsample", *_POOLS)
    return node.inputs[0] if node.op_type in scaled else None


def _is_one_position(value: ir.Value) -> bool:
    """Whether a value has factors for channels, which are the same at every position."""
    extent = _stated_image(value)
    return extent is not None and all(axis.number == 1 and not axis.of for axis in extent)


def _after(node: ir.Node, extent: Extent) -> Extent | None:
    factors = _factors(node, len(extent))
    if factors is None:
        return None
    return tuple(Axis(a.number * f, a.of) for a, f in zip(extent, factors, strict=True))


def _factors(node: ir.Node, axes: int) -> tuple[Fraction, ...] | None:
    """Return how many positions a node makes of one, on each axis."""
    if node.op_type in _KEEPING:
        return (Fraction(1),) * axes
    if node.op_type in ("Resize", "Upsample"):
        at = 1 if node.op_type == "Upsample" or len(node.inputs) < 3 else 2
        scales = node.inputs[at] if len(node.inputs) > at else None
        array = None if scales is None or scales.const_value is None else scales.const_value.numpy()
        if array is None or array.size != axes + 2:
            return None
        return tuple(Fraction(float(s)).limit_denominator(64) for s in array[2:])
    strides = readers.integers(node, "strides") or (1,) * axes
    if len(strides) != axes:
        return None
    upwards = node.op_type == "ConvTranspose"
    return tuple(Fraction(s) if upwards else Fraction(1, s) for s in strides)


def text_of(each: Mapping[str, float], extent: Extent | None) -> str:
    """Return MACs before and after as a table shows them: in total, or for each position."""
    before, after = each["before"], each["after"]
    if extent is None:
        return f"{before:,.0f} -> {after:,.0f} /position"
    number = float(prod((a.number for a in extent if not a.of), start=Fraction(1)))
    opened = [str(axis) for axis in extent if axis.of]
    return " x ".join((f"{before * number:,.0f} -> {after * number:,.0f}", *opened))
