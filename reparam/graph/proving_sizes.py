"""Which shapes a rewrite is proved on: as small as shows both its border and its interior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, prod
from typing import TYPE_CHECKING

from reparam.graph.evaluation import Constants
from reparam.graph.evaluation_calls import call_of, integers

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = tuple[int | None, ...]
Sizes = tuple[int, ...]

_WINDOWED = frozenset({"Conv", "ConvTranspose", "AveragePool", "MaxPool"})
_SPATIAL = _WINDOWED | {"BatchNormalization", "GlobalAveragePool"}
_SIZE_BOUND = frozenset({"Reshape", "Flatten", "Expand", "Shape", "Size", "GlobalAveragePool"})
_SIZE_BOUND |= {"ReduceMean", "ScatterND", "Gather"}
IMAGE_BY_IMAGE = _WINDOWED | {"BatchNormalization", "Relu", "Neg", "Identity", "Dropout"}
IMAGE_BY_IMAGE |= {"Add", "Sub", "Sum", "Mul", "Div"}
"""Operators that never move anything from one image of a batch to another."""
_ALONG_AN_AXIS = frozenset({"Slice", "Split", "Concat"})
_MOST_SIZES = 4
_MOST_ELEMENTS = 1 << 22  # of one source image at its own size, above which a smaller one is tried


class Reach:
    """How far nodes look along each spatial axis, in elements of what they read.

    Attributes:
        extent: elements that one output sees.
        jump: elements from one output to the next.
    """

    def __init__(self, nodes: Sequence[ir.Node], opset: int, constants: Constants, axes: int):
        self.extent = [Fraction(1)] * axes
        self.jump = [Fraction(1)] * axes
        self._axes = axes
        self._known: dict[ir.Value, list[tuple[Fraction, Fraction]]] = {}
        for node in nodes:
            self._walk(node, opset, constants)

    def _walk(self, node: ir.Node, opset: int, constants: Constants) -> None:
        start = [(Fraction(1), Fraction(1))] * self._axes
        read = [self._known[v] for v in node.inputs if v in self._known] or [start]
        seen = [
            (max(at[axis][0] for at in read), max(at[axis][1] for at in read))
            for axis in range(self._axes)
        ]
        kernel = _kernel(node, constants)
        if len(kernel) == self._axes and kernel:
            call = call_of(node, opset)
            ones = (1,) * self._axes
            geometry = zip(
                seen, kernel, call.ints("strides", ones), call.ints("dilations", ones), strict=True
            )
            wider = _narrowed if node.op_type == "ConvTranspose" else _widened
            seen = [wider(at, (k - 1) * d, s) for at, k, s, d in geometry]
        if node.op_type == "Pad":
            cropped = zip(seen, _cropped(node, opset, constants, self._axes), strict=True)
            seen = [(extent + more, jump) for (extent, jump), more in cropped]
        self._known.update(dict.fromkeys(node.outputs, seen))
        for axis, (extent, jump) in enumerate(seen):
            self.extent[axis] = max(self.extent[axis], extent)
            self.jump[axis] = max(self.jump[axis], jump)


def _widened(seen: tuple[Fraction, Fraction], more: int, stride: int) -> tuple[Fraction, Fraction]:
    extent, jump = seen
    return extent + more * jump, jump * stride


def _narrowed(seen: tuple[Fraction, Fraction], more: int, stride: int) -> tuple[Fraction, Fraction]:
    """Of a transposed convolution, whose outputs lie between its inputs."""
    extent, jump = seen
    return extent + ceil(Fraction(more, stride)) * jump, jump / stride


def _kernel(node: ir.Node, constants: Constants) -> tuple[int, ...]:
    if node.op_type not in _WINDOWED:
        return ()
    if "kernel_shape" in node.attributes:
        return tuple(node.attributes["kernel_shape"].as_ints())
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    known = None if weight is None else constants.get(weight)
    return () if known is None else known.shape[2:]


def _cropped(node: ir.Node, opset: int, constants: Constants, axes: int) -> list[int]:
    """Return what a Pad with negative pads takes off each of the last axes."""
    call = call_of(node, opset)
    flat = call.ints("pads", call.ints("paddings", ()))
    if opset >= 11 and len(node.inputs) > 1 and node.inputs[1] is not None:
        known = constants.get(node.inputs[1])
        flat = () if known is None else integers(known)
    half = len(flat) // 2
    taken = [max(-a, 0) + max(-b, 0) for a, b in zip(flat[:half], flat[half:], strict=True)]
    return ([0] * axes + taken)[-axes:] if axes else []


def candidates(
    nodes: Sequence[ir.Node], shapes: Sequence[Shape], opset: int, constants: Constants
) -> Iterator[list[tuple[Sizes, ...]]]:
    """Yield ways to choose the sizes: each several rounds, of one size (batch apart) a source.

    The first that the nodes can be evaluated on is the one to take. Axes that nothing in the nodes
    fixes are made small; a known size keeps what it leaves when divided by the strides.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    reach = Reach(nodes, opset, constants, max(rank - 2, 0))
    spatial, middle = frozenset(range(2, rank)), frozenset(range(1, rank - 1))
    ways = [spatial, middle, frozenset[int]()]
    if not any(node.op_type in _SPATIAL for node in nodes) and _multiplies(nodes):
        ways = [middle, spatial, frozenset[int]()]
    if _is_size_bound(nodes, opset) and all(_fits(shape) for shape in shapes):
        ways = [ways[-1], *ways[:-1]]
    for free in dict.fromkeys(ways):
        rounds = (
            tuple(_sizes(shape, free, reach, number) for shape in shapes)
            for number in range(_rounds(reach))
        )
        yield list(dict.fromkeys(rounds))


def writes_places(nodes: Sequence[ir.Node]) -> bool:
    """Whether a node writes at places that are counted from the first image of a batch."""
    return any(node.op_type == "ScatterND" for node in nodes)


def _multiplies(nodes: Sequence[ir.Node]) -> bool:
    return any(node.op_type in ("MatMul", "Gemm") for node in nodes)


def _is_size_bound(nodes: Sequence[ir.Node], opset: int) -> bool:
    """Whether what the nodes do may depend on how large the input is."""
    return any(
        node.op_type in _SIZE_BOUND
        or (node.op_type in _ALONG_AN_AXIS and not _is_about_channels(node, opset))
        for node in nodes
    )


def _is_about_channels(node: ir.Node, opset: int) -> bool:
    call = call_of(node, opset)
    if node.op_type == "Slice":
        return call.ints("axes", ()) == (1,)
    return call.int("axis", 0) == 1


def _fits(shape: Shape) -> bool:
    known = [n for n in shape[1:] if n is not None and n >= 0]
    return len(known) == len(shape[1:]) and prod(known) <= _MOST_ELEMENTS


def _rounds(reach: Reach) -> int:
    return max(2, min(_MOST_SIZES, ceil(max(reach.jump, default=Fraction(1)))))


def _sizes(shape: Shape, free: frozenset[int], reach: Reach, number: int) -> Sizes:
    """Return the sizes of one source in round ``number``, without the batch axis."""
    sizes = []
    for axis, size in enumerate(shape[1:], 1):
        known = size if size is not None and size >= 0 else None  # some exporters write -1
        if known is not None and axis not in free:
            sizes.append(known)
            continue
        at = axis - 2
        inside = 0 <= at < len(reach.extent)
        jump = ceil(reach.jump[at]) if inside else 1
        # any `jump` first elements in a row hold one where a window begins, and fits inside
        least = max((ceil(reach.extent[at]) if inside else 1) + jump - 1, 2)
        if known is None:
            count = _rounds(reach)
            sizes.append(least + (number + axis) % count)
        else:
            sizes.append(_congruent(known, least, jump, number))
    return tuple(sizes)


def _congruent(known: int, least: int, jump: int, number: int) -> int:
    """Return a size of at least ``least``, and no more than ``known``, with the same remainder."""
    smallest = least + (known - least) % jump
    return min(known, smallest + number * jump)
