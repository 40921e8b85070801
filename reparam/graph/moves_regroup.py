"""Sums of several values, added in another order so that those of one source come together.

    before:  Conv(x) + r + BatchNormalization(x)      two additions, and nothing to fuse
    after:   Conv(x) + BatchNormalization(x) + r      the first of which is one convolution of x

Exact in real arithmetic; the rounding of another order is within the bound of the proof.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparam.errors import NotFusibleError
from reparam.graph.analysis import Analysis, extend, forget
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.proving import Proof, prove
from reparam.graph.regions import candidates

if TYPE_CHECKING:
    import onnx_ir as ir

_MOST = 16
"""Terms of one sum; of a longer one, that many at a time."""

Terms = tuple[int, ...]
"""Which terms of a sum come together."""


@dataclass(frozen=True, eq=False)
class Sum:
    """Additions and subtractions whose results nothing else reads.

    Attributes:
        nodes: in the order of the graph; the last makes the sum.
        terms: what is added, and with which sign.
    """

    nodes: tuple[ir.Node, ...]
    terms: tuple[tuple[ir.Value, int], ...]

    @property
    def root(self) -> ir.Node:
        return self.nodes[-1]

    @property
    def output(self) -> ir.Value:
        return self.root.outputs[0]


def sums(graph: ir.Graph, analysis: Analysis) -> list[Sum]:
    """Return the sums of three terms or more, in one walk."""
    found: list[Sum] = []
    inside: set[ir.Node] = set()
    for node in reversed(graph):
        if node in inside or not _adds(node, analysis):
            continue
        one = _sum_of(node, analysis)
        inside.update(one.nodes)
        if len(one.terms) > 2:
            found.append(one)
    return found


def _adds(node: ir.Node | None, analysis: Analysis) -> bool:
    return (
        node is not None
        and node.op_type in ("Add", "Sub")
        and node in analysis.nodes
        and analysis.is_linear(node)
        and not any(analysis.constants.known(value) for value in node.inputs)
    )


def _sum_of(root: ir.Node, analysis: Analysis) -> Sum:
    nodes = [root]
    terms = _terms_of(root, 1)
    index = 0
    while index < len(terms) and len(terms) < _MOST:
        value, sign = terms[index]
        maker = value.producer()
        alone = len(value.uses()) == 1 and not value.is_graph_output()
        if alone and maker is not None and _adds(maker, analysis):
            terms[index : index + 1] = _terms_of(maker, sign)
            nodes.append(maker)
        else:
            index += 1
    nodes.sort(key=analysis.nodes.__getitem__)
    return Sum(tuple(nodes), tuple(terms))


def _terms_of(node: ir.Node, sign: int) -> list[tuple[ir.Value, int]]:
    first, second = node.inputs
    assert first is not None  # neither operand is optional
    assert second is not None
    return [(first, sign), (second, -sign if node.op_type == "Sub" else sign)]


def groups(sum_: Sum, analysis: Analysis) -> Iterator[Terms]:
    """Yield terms made of one source, all of a source before two of them, not together already."""
    by_source: dict[ir.Value, list[int]] = {}
    for index, (value, _) in enumerate(sum_.terms):
        for form in analysis.passed(value):
            by_source.setdefault(form.source, []).append(index)
    together = {frozenset(map(id, node.inputs)) for node in sum_.nodes}
    tried: set[Terms] = set()
    for members in by_source.values():
        pairs = [(a, b) for a in members for b in members if a < b]
        for terms in dict.fromkeys([tuple(members), *pairs]):
            values = frozenset(id(sum_.terms[index][0]) for index in terms)
            if len(terms) > 1 and terms not in tried and values not in together:
                tried.add(terms)
                yield terms


class Order:
    """The same sum, with some of its terms added first.

    Args:
        graph: that it is in.
        sum_: as it is.
        terms: which to add first.
    """

    def __init__(self, graph: ir.Graph, constants: Constants, sum_: Sum, terms: Terms) -> None:
        self.graph, self.constants, self.sum = graph, constants, sum_
        self.nodes: list[ir.Node] = []
        self._taken: list[tuple[ir.Node, int, ir.Value | None]] = []
        first = [sum_.terms[index] for index in terms]
        rest = [term for index, term in enumerate(sum_.terms) if index not in terms]
        sign = max(sign for _, sign in first)
        shape = first[0][0].shape
        value = self._added([(value, sign * own) for value, own in first], shape)
        self.group = self.nodes[-1]
        self._added([(value, sign), *rest], _shape_of_all(sum_))

    def _added(self, terms: list[tuple[ir.Value, int]], shape: ir.Shape | None) -> ir.Value:
        """Add terms, of which one at least has no minus."""
        import onnx_ir

        start = next(index for index, (_, sign) in enumerate(terms) if sign > 0)
        value = terms.pop(start)[0]
        for other, sign in terms:
            operator = "Add" if sign > 0 else "Sub"
            name = self.constants.unused_node(self.sum.root.name or operator)
            node = onnx_ir.node(operator, [value, other], name=name)
            node.outputs[0].name = self.constants.unused(self.sum.output.name or operator)
            node.outputs[0].type, node.outputs[0].shape = self.sum.output.type, shape
            self.nodes.append(node)
            value = node.outputs[0]
        return value

    def makes_a_region(self, analysis: Analysis, allow_macs: float, kinds: Collection[str]) -> bool:
        """Whether what is added first is a region that may be fused."""
        value, place = self.group.outputs[0], analysis.nodes[self.sum.root]
        for node in self.nodes:
            extend(analysis, node, place)
            if node is self.group:
                break
        self._hide()
        try:
            found = candidates(value, analysis, allow_macs)
            return any(region.kind in kinds for region in found)
        finally:
            self._show()

    def _hide(self) -> None:
        """Take the old additions off the terms, which are about to have other readers."""
        self._taken = [
            (node, index, value)
            for node in self.sum.nodes
            for index, value in enumerate(node.inputs)
        ]
        for node, index, _ in self._taken:
            node.replace_input_with(index, None)

    def _show(self) -> None:
        for node, index, value in self._taken:
            node.replace_input_with(index, value)

    def prove(self) -> Proof:
        """Return whether the sum is what it was.

        Raises:
            NotFusibleError: there is no saying.
        """
        values = list(dict.fromkeys(value for value, _ in self.sum.terms))
        if any(value.shape is None for value in values):
            raise NotFusibleError("the shape of a term is not known")
        shapes = [
            tuple(size if isinstance(size, int) else None for size in value.shape or ())
            for value in values
        ]
        dtype = self.sum.output.dtype
        try:
            return prove(
                self.sum.nodes, self.nodes, values, self.sum.output, self.nodes[-1].outputs[0],
                opset=self.constants.opset, shape=shapes,
                stored="float32" if dtype is None else dtype.numpy().name,
            )  # fmt: skip
        except NotEvaluableError as error:
            raise NotFusibleError("the sum cannot be proved equal", found=str(error)) from error

    def splice(self) -> None:
        """Put the new additions in the place of the old ones."""
        output, result = self.sum.output, self.nodes[-1].outputs[0]
        self.graph.insert_before(self.sum.root, self.nodes)
        name = output.name
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        for node in reversed(self.sum.nodes):
            self.graph.remove(node, safe=True)
        result.name = name

    def discard(self, analysis: Analysis) -> None:
        """Take the new additions off what they read."""
        for node in reversed(self.nodes):
            if node in analysis.nodes:
                forget(analysis, node)
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)


def _shape_of_all(sum_: Sum) -> ir.Shape | None:
    """Return the shape of a part of the sum, None where a term may be broadcast."""
    whole = sum_.output.shape
    for value, _ in sum_.terms:
        if whole is None or value.shape is None or len(value.shape) != len(whole):
            return None
        if any(own == 1 and size != 1 for own, size in zip(value.shape, whole, strict=True)):
            return None
    return whole
