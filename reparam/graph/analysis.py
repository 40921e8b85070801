"""The walk: every value of a graph, and the forms it is known to have.

Linear in the nodes: a node looks at the forms of what it reads, of which there are at most eight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from reparam.errors import NotFusibleError
from reparam.graph.computing import numbers_of
from reparam.graph.constants import Constants
from reparam.graph.forms import NEWEST, OLDEST, Form, thinning
from reparam.graph.laws import BorderFilling, Scaling
from reparam.graph.rules import RULES, SCALING, Reading

if TYPE_CHECKING:
    import onnx_ir as ir

GROWTH = 64.0
"""A form that costs this many times what it replaces is dropped. What follows it may be cheaper:
the 1x1 convolution before an average over 5x5 costs 25 times more by itself, and nothing in a sum
with another 5x5."""
_SMALL = 64  # MACs for each channel: pooling and padding cost none of their own, and may be kept


@dataclass(frozen=True)
class Refusal:
    """Why a node does not continue a form.

    Attributes:
        node: of the graph.
        source: name of the value that the form starts from; None where no form would do.
        error: the law that refused, and why.
    """

    node: ir.Node
    source: str | None
    error: NotFusibleError


@dataclass
class Analysis:
    """What is known of the values of a graph.

    Attributes:
        nodes: position of each node in the graph.
        values: position of the node that makes a value; inputs are before all.
        forms: of each value, the value itself not among them.
        refusals: by node, in the order found.
    """

    constants: Constants
    frozen: Mapping[ir.Node, str]
    nodes: dict[ir.Node, int] = field(default_factory=dict)
    values: dict[ir.Value, int] = field(default_factory=dict)
    forms: dict[ir.Value, tuple[Form, ...]] = field(default_factory=dict)
    refusals: dict[ir.Node, list[Refusal]] = field(default_factory=dict)
    _passed: dict[ir.Value, tuple[Form, ...]] = field(default_factory=dict)

    def passed(self, value: ir.Value) -> tuple[Form, ...]:
        """Return the forms that what reads a value may continue, oldest source first.

        A value that is read by something else than linear nodes, or is an output of the graph,
        has to be there, and only itself can be continued.
        """
        found = self._passed.get(value)
        if found is None:
            known = () if self.has_to_be_there(value) else self.forms.get(value, ())
            itself = () if known and self._is_between_factors(value) else (Form.itself(value),)
            found = self._passed[value] = (*known, *itself)
        return found

    def _is_between_factors(self, value: ir.Value) -> bool:
        """Whether a value stands between two nodes that scale and shift, and is read there alone.

        Nothing begins there that would not be better begun before.
        """
        node, uses = value.producer(), list(value.uses())
        if node is None or len(uses) != 1 or node.op_type not in SCALING:
            return False
        reader = uses[0].node
        moving = [v for v in reader.inputs if v is not None and not self.constants.known(v)]
        own = [v for v in node.inputs if v is not None and not self.constants.known(v)]
        return reader.op_type in SCALING and len(moving) == 1 and len(own) == 1

    def has_to_be_there(self, value: ir.Value) -> bool:
        """Whether something needs a value that no form replaces."""
        return value.is_graph_output() or any(
            use.node not in self.nodes or not self.is_linear(use.node) for use in value.uses()
        )

    def is_linear(self, node: ir.Node) -> bool:
        """Whether there is a rule for a node."""
        return node.op_type in RULES and node.domain in ("", "ai.onnx") and node not in self.frozen


def analyse(
    graph: ir.Graph, constants: Constants, frozen: Mapping[ir.Node, str] | None = None
) -> Analysis:
    """Return the forms of every value of a graph, in one walk.

    Args:
        graph: with its nodes in topological order.
        constants: of it.
        frozen: nodes that are left whole, linear or not, and why.
    """
    found = Analysis(constants, frozen or {})
    for index, node in enumerate(graph):
        found.nodes[node] = index
        for output in node.outputs:
            found.values[output] = index
    for node in graph:
        if found.is_linear(node):
            _visit(node, found)
    return found


def extend(analysis: Analysis, node: ir.Node, index: int) -> None:
    """Take in a new node, at a position in the order of the graph."""
    analysis.nodes[node] = index
    for output in node.outputs:
        analysis.values[output] = index
    if analysis.is_linear(node):
        _visit(node, analysis)


def forget(analysis: Analysis, node: ir.Node) -> None:
    """Undo :func:`extend`."""
    analysis.nodes.pop(node)
    for output in node.outputs:
        analysis.values.pop(output)
        analysis.forms.pop(output, None)


def readings_of(node: ir.Node, analysis: Analysis) -> list[Reading]:
    """Return what a node reads and the laws of its outputs; a refusal is recorded."""
    try:
        return RULES[node.op_type](node, analysis.constants)
    except NotFusibleError as error:
        analysis.refusals.setdefault(node, []).append(Refusal(node, None, error))
        return []


def _visit(node: ir.Node, analysis: Analysis) -> None:
    if node.outputs[0].dtype is not None and not node.outputs[0].dtype.is_floating_point():
        return  # shapes and indices are computed with the same operators
    found: dict[ir.Value, dict[ir.Value, Form]] = {}
    for reading in readings_of(node, analysis):
        forms = found.setdefault(reading.output, {})
        for parts in combinations(reading, analysis):
            try:
                form = _extended(node, reading, parts)
            except NotFusibleError as error:
                refusal = Refusal(node, parts[0].source.name, error)
                analysis.refusals.setdefault(node, []).append(refusal)
                continue
            if form.after <= GROWTH * form.before or _is_small(form):
                forms[form.source] = form
    for output, forms in found.items():
        if forms:
            analysis.forms[output] = _bounded(forms, analysis)


def combinations(reading: Reading, analysis: Analysis) -> Iterator[tuple[Form, ...]]:
    """Yield the forms of what a node reads that have the same source, for each source."""
    passed = [analysis.passed(value) for value in reading.operands]
    if len(passed) == 1:
        yield from product(*passed)
        return
    by_source = [{form.source: form for form in forms} for forms in passed]
    for source in by_source[0]:
        if all(source in forms for forms in by_source[1:]):
            yield tuple(forms[source] for forms in by_source)


def _extended(node: ir.Node, reading: Reading, parts: tuple[Form, ...]) -> Form:
    law = reading.law
    shaped = law.shape([part.shaped for part in parts])
    if isinstance(law, BorderFilling):
        law.need_same_border(numbers_of(parts[0]))
    for inner in reading.through:
        nothing = Scaling(np.ones(()), np.zeros(()))
        last = parts[0]
        parts = (Form(last.source, last.shaped, inner, nothing, parts, 0.0, last.before),)
    cost = law.cost() / thinning(shaped.geometry)
    before = cost + sum(part.before for part in parts)
    return Form(parts[0].source, shaped, node, law, parts, cost, before)


def _is_small(form: Form) -> bool:
    geometry = form.shaped.geometry
    return geometry is None or geometry.macs <= _SMALL * geometry.out_channels


def _bounded(forms: dict[ir.Value, Form], analysis: Analysis) -> tuple[Form, ...]:
    ranked = sorted(forms.values(), key=lambda form: analysis.values.get(form.source, -1))
    if len(ranked) <= OLDEST + NEWEST:
        return tuple(ranked)
    return (*ranked[:OLDEST], *ranked[-NEWEST:])
