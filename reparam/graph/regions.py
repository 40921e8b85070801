"""Regions: the nodes that one operator replaces, what that saves, and which of them to take."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import lcm, prod
from typing import TYPE_CHECKING

import numpy as np

from reparam.conv.geometry import Geometry
from reparam.conv.operators import Array
from reparam.graph import readers
from reparam.graph.analysis import Analysis
from reparam.graph.computing import numbers_of
from reparam.graph.forms import Form
from reparam.graph.idioms import is_quantized_by_runtime
from reparam.graph.numbers import Pointwise

if TYPE_CHECKING:
    import onnx_ir as ir

NODE_COST = 20
"""A node costs about as much time as this many MACs for each element that it writes. Counting
nodes alone picks badly on chains of narrow 1x1 convolutions."""
_LARGE = 1 << 14  # pixels of the largest side of an image that is thought of
NOMINAL = 64  # taken for the size of an open axis where two regions are weighed; 1 for the batch

BRANCHES, BATCH_NORM, BIAS, SCALE, CHAIN = (
    "fuse-branches", "fold-batchnorm", "fold-bias", "fold-scale", "fuse-chains",
)  # fmt: skip
KINDS = (BRANCHES, BATCH_NORM, BIAS, SCALE, CHAIN)
_JOINS = ("Add", "Sub", "Sum", "Concat")


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes that one operator replaces.

    Attributes:
        output: the value that it makes; it keeps its name.
        form: of that value, with the source that it reads.
        nodes: replaced, in the order of the graph.
        kind: one of ``KINDS``: a pass that can be switched off.
        before: MACs at one position of the source.
        after: the same for the one operator.
        nodes_after: what it takes to write it: a MatMul with a bias is two nodes.
        gain: what is saved, in MACs, nodes counted as ``NODE_COST`` for each element.
    """

    output: ir.Value
    form: Form
    nodes: tuple[ir.Node, ...]
    kind: str
    before: float
    after: float
    nodes_after: int
    gain: float

    @property
    def free(self) -> bool:
        """Whether it costs no more than its most expensive node, so no part of it is better."""
        return self.after <= max(form.cost for form in self.form.behind()) * (1 + 1e-9)


Ends = tuple["ir.Value", "ir.Value"]
"""Where a region ends and where it starts."""


def choose(
    graph: ir.Graph,
    analysis: Analysis,
    *,
    allow_macs: float = 1.0,
    kinds: Collection[str] = KINDS,
    avoid: Collection[Ends] = (),
) -> list[Region]:
    """Return the regions to rewrite, none of which overlap, in the order of the graph.

    From the last node to the first, the largest region that ends there is taken if it costs no
    more than its most expensive node; no region inside is looked at then, which keeps the walk
    linear. Others are weighed against each other, by what they save.

    Args:
        graph: the nodes.
        analysis: of it.
        allow_macs: how many times the MACs of what it replaces a region may cost.
        kinds: of regions that are wanted.
        avoid: regions that are not.
    """
    taken: set[ir.Node] = set()
    disputed: set[ir.Node] = set()
    chosen: list[Region] = []
    contested: list[Region] = []
    for node in reversed(graph):
        if node in taken:
            continue
        for output in node.outputs:
            found = [
                region
                for region in candidates(output, analysis, allow_macs, taken)
                if region.kind in kinds and (output, region.form.source) not in avoid
            ]
            if not found:
                continue
            best = max(found, key=lambda region: region.gain)
            if best.free and node not in disputed:
                chosen.append(best)
                taken.update(best.nodes)
            else:
                contested += found
                disputed.update(*(region.nodes for region in found))
    for region in sorted(contested, key=lambda region: -region.gain):
        if taken.isdisjoint(region.nodes):
            chosen.append(region)
            taken.update(region.nodes)
    return sorted(chosen, key=lambda region: analysis.nodes[region.nodes[-1]])


def candidates(
    output: ir.Value, analysis: Analysis, allow_macs: float, taken: Collection[ir.Node] = ()
) -> Iterator[Region]:
    """Yield the regions that end at a value, and save something."""
    for form in analysis.forms.get(output, ()):
        if form.after > allow_macs * form.before * (1 + 1e-9):
            continue  # what two branches share counts twice there, so this is no less than right
        nodes = closed(form, output, analysis, taken)
        region = None if nodes is None else _region(output, form, nodes, allow_macs)
        if region is not None and _costs_no_more(form, allow_macs):
            yield region


def closed(
    form: Form, output: ir.Value, analysis: Analysis, taken: Collection[ir.Node] = ()
) -> tuple[ir.Node, ...] | None:
    """Return the nodes behind a form, or None where something else reads what is inside.

    The last nodes are looked at first: whoever reads a value comes after it, so the first value
    with a reader outside ends the walk.
    """
    inside: set[ir.Node] = set()
    if form.node is None:
        return None
    waiting = [(-analysis.nodes[form.node], id(form), form)]
    while waiting:
        _, _, form = heapq.heappop(waiting)
        node = form.node
        assert node is not None  # only those with a node wait
        if node in inside:
            continue
        if node in taken or not _is_inside(node, output, inside):
            return None
        inside.add(node)
        for part in form.parts:
            if part.node is not None and part.node not in inside:
                heapq.heappush(waiting, (-analysis.nodes[part.node], id(part), part))
    return tuple(sorted(inside, key=analysis.nodes.__getitem__))


def _is_inside(node: ir.Node, output: ir.Value, inside: Collection[ir.Node]) -> bool:
    return all(
        value is output
        or (not value.is_graph_output() and all(use.node in inside for use in value.uses()))
        for value in node.outputs
    )


def _region(
    output: ir.Value, form: Form, nodes: tuple[ir.Node, ...], allow_macs: float
) -> Region | None:
    costs: dict[ir.Node, float] = {}
    for part in form.behind():
        assert part.node is not None
        costs[part.node] = part.cost
    before, after = sum(costs.values()), form.after
    written = nodes_of(form) or int(needs_a_node(form.source, output))
    saved = len(nodes) - written
    if form.shaped.geometry is not None and before == 0:
        return None  # pooling and padding without a kernel must not become a convolution
    if saved < 0 or (saved == 0 and after >= before):
        return None
    if is_quantized_by_runtime(form, nodes, output):
        return None
    kind = _kind(nodes, form)
    if kind == CHAIN and after >= before and any(n.op_type == "AveragePool" for n in nodes):
        return None  # as many products in a larger kernel: a node fewer, and no time saved
    positions = _positions(form.source)
    allowed = before * allow_macs  # what the caller allows is no loss
    gain = positions * (allowed - after) + NODE_COST * saved * _elements(output, form)
    if gain <= 0:
        return None
    return Region(output, form, nodes, kind, before, after, written, gain)


def nodes_of(form: Form) -> int:
    """Return how many nodes write a form down."""
    shaped = form.shaped
    if shaped.opaque is not None:
        return 1
    if shaped.geometry is None:
        numbers = numbers_of(form)
        assert isinstance(numbers, Pointwise)
        if form.source.dtype is not None:
            numbers = numbers.stored(form.source.dtype.numpy())
        return int((numbers.scale != 1).any()) + int((numbers.shift != 0).any())
    if shaped.geometry.kernel or is_gemm(form):
        return 1
    return 1 if shaped.zero_bias else 2


def needs_a_node(source: ir.Value, output: ir.Value) -> bool:
    """Whether a source that is the output already cannot take its name: it has to keep its own."""
    own = source.producer() is None or source.is_graph_output()
    return own and output.is_graph_output()


def is_gemm(form: Form) -> bool:
    """Whether a linear layer reads rows, so that one Gemm does it."""
    return readers.rank_of(form.source) == 2


def _kind(nodes: tuple[ir.Node, ...], form: Form) -> str:
    operators = {node.op_type for node in nodes}
    if any(len(part.parts) > 1 for part in form.behind()) or "Split" in operators:
        return BRANCHES
    if "BatchNormalization" in operators:
        return BATCH_NORM
    kernels = sum(part.cost > 0 for part in form.behind())
    if kernels > 1 or operators & {"Pad", "AveragePool"}:
        return CHAIN
    return BIAS if operators & {"Add", "Sub", "Sum"} else SCALE


def _costs_no_more(form: Form, allow_macs: float) -> bool:
    """Whether a form costs no more than the nodes behind it, whatever the size of the image.

    For one position of the source a Pad costs nothing, and a stride leaves the same share of every
    size. For a whole image neither is so: a convolution that takes over the padding of its result
    computes there what was not computed before, and of a row of two a stride of three leaves one.
    """
    final = form.shaped.geometry
    each = {part.node: part for part in form.behind() if part.cost and part.law is not None}
    terms = [(p.law.cost(), p.shaped.geometry) for p in each.values() if p.law is not None]
    if not terms or final is None:
        return form.after <= allow_macs * sum(p.cost for p in each.values()) * (1 + 1e-9)
    kernels = [geometry for _, geometry in terms if geometry is not None]
    counts = [
        _counts(axis, readers.size_of(form.source, axis + 2), [final, *kernels])
        for axis in range(len(final.kernel))
    ]
    macs = [
        cost * reduce(np.multiply.outer, (axis[place] for axis in counts), np.ones(()))
        for place, cost in enumerate([final.macs, *(cost for cost, _ in terms)])
    ]
    return bool((macs[0] <= allow_macs * sum(macs[1:]) * (1 + 1e-9)).all())


def _counts(axis: int, size: int | None, kernels: Sequence[Geometry]) -> Array:
    """Return how many positions each kernel has along an axis, for each size that may decide.

    With a known size there is one. Of open ones, those with one remainder by the stride have counts
    that grow in a straight line, so MACs, a product of lines, are furthest apart at its ends: the
    smallest image that all kernels fit in, and a large one.

    Returns:
        Shape (kernels, sizes).
    """
    stride = lcm(*(kernel.stride[axis] for kernel in kernels))
    shrink = np.array([[kernel.shrink[axis]] for kernel in kernels])
    if size is None:
        smallest = max(1, int(shrink.max()) + 1) + np.arange(stride)
        sizes = np.concatenate([smallest, smallest + _LARGE // stride * stride])
    else:
        sizes = np.array([size])
    steps = np.array([[kernel.stride[axis]] for kernel in kernels])
    counts: Array = np.maximum((sizes - shrink - 1) // steps + 1, 0).astype(np.float64)
    return counts


def _positions(value: ir.Value) -> float:
    """Return about how many positions a value has, for one image of the batch."""
    if value.shape is None:
        return float(NOMINAL)
    sizes = [size if isinstance(size, int) else NOMINAL for size in value.shape][2:]
    return float(prod(sizes))


def _elements(output: ir.Value, form: Form) -> float:
    """Return about how many elements a node writes, for one image of the batch."""
    shape = output.shape
    if shape is not None and all(isinstance(size, int) for size in shape[1:]):
        return float(prod(int(size) for size in shape[1:] if isinstance(size, int)))
    geometry = form.shaped.geometry
    if geometry is not None:
        each = max(geometry.out_channels // max(prod(geometry.stride), 1), 1)
    else:
        each = readers.size_of(form.source, 1) or 1
    return each * _positions(form.source)
