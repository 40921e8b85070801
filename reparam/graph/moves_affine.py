"""Runs of factors and shifts, and where they can go: down into all readers, or up into the maker.

A run vanishes, and what it multiplied and added is carried (:mod:`reparam.graph.moves_carrying`)
past nodes that let it through, until nodes with weights take it.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from reparam.errors import NotFusibleError
from reparam.graph.constants import Constants
from reparam.graph.forms import Form, Shaped
from reparam.graph.laws import Scaling
from reparam.graph.moves_carrying import Scalings, backward, broadened, forward
from reparam.graph.moves_plan import ASK_ONLY_THE_SHAPE, Change
from reparam.graph.regions import nodes_of
from reparam.graph.rules import RULES, Reading

if TYPE_CHECKING:
    import onnx_ir as ir

_FACTORS = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Neg", "Sub"})
_KERNELS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOST_NODES = 64
"""Nodes of one move; more than any network needed, so a walk over all runs stays linear."""


@dataclass(frozen=True, eq=False)
class Run:
    """Nodes in a row that multiply and add constants.

    Attributes:
        nodes: in order; each is the only reader of the one before.
        source: what the first reads.
        scaling: what they do together.
    """

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    scaling: Scaling

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def multiplies(self) -> bool:
        return bool((self.scaling.scale != 1).any())


@dataclass(frozen=True)
class Site:
    """The graph that a move is looked for in.

    Attributes:
        places: of its nodes, in their order.
        frozen: nodes that are left whole.
    """

    constants: Constants
    places: Mapping[ir.Node, int]
    frozen: Collection[ir.Node]

    def reading(self, node: ir.Node, operators: Collection[str]) -> Reading | None:
        """Return what a node of one of these operators reads, and its law."""
        if (
            node.op_type not in operators
            or node.domain not in ("", "ai.onnx")
            or node in self.frozen
            or node not in self.places
        ):
            return None
        try:
            readings = RULES[node.op_type](node, self.constants)
        except NotFusibleError:
            return None
        return readings[0] if len(readings) == 1 and len(readings[0].operands) == 1 else None

    def factor(self, node: ir.Node) -> tuple[ir.Value, Scaling] | None:
        """Return what a node reads, and what it multiplies that by and adds."""
        reading = self.reading(node, _FACTORS)
        if reading is None or not isinstance(reading.law, Scaling):
            return None
        return reading.operands[0], broadened(reading.law)

    def read_by(self, value: ir.Value) -> list[ir.Node] | None:
        """Return who reads a value for more than its shape; None where it has to be there."""
        if value.is_graph_output():
            return None
        nodes = [use.node for use in value.uses()]
        if any(node not in self.places for node in nodes):
            return None  # a node of a subgraph
        return [node for node in nodes if node.op_type not in ASK_ONLY_THE_SHAPE]

    def run_at(self, node: ir.Node) -> Run | None:
        """Return the run that begins at a node."""
        first = self.factor(node)
        if first is None or not _is_float(node):
            return None
        source, scaling = first
        maker = source.producer()
        alone = maker is not None and self.read_by(source) == [node]
        if maker is not None and alone and self.factor(maker):
            return None  # it begins before
        nodes = [node]
        while len(nodes) < MOST_NODES:
            following = self.read_by(nodes[-1].outputs[0]) or []
            found = self.factor(following[0]) if len(following) == 1 else None
            if found is None:
                break
            try:
                scaling = then(scaling, found[1])
            except NotFusibleError:
                break
            nodes.append(following[0])
        return Run(tuple(nodes), source, scaling)


def _is_float(node: ir.Node) -> bool:
    dtype = node.outputs[0].dtype
    return dtype is not None and dtype.is_floating_point()


def then(first: Scaling, second: Scaling) -> Scaling:
    """Return one factor and shift, and then another.

    Raises:
        NotFusibleError: they are along different axes.
    """
    if None not in (first.axis, second.axis) and first.axis != second.axis:
        raise NotFusibleError("factors for each channel are along different axes")
    axis = second.axis if first.axis is None else first.axis
    return broadened(
        Scaling(first.scale * second.scale, first.shift * second.scale + second.shift, axis)
    )


def sunk(run: Run, site: Site) -> list[Change] | None:
    """Return the changes that take a run down into everything that reads it.

        before:  x - BatchNormalization -+- Reshape - MatMul - Add
                                         |- AveragePool - Conv
        after:   x ----------------------+- Reshape - MatMul - Add
                                         |- AveragePool - Conv

    Exact when: all readers can take it; a padded convolution takes no shift.

    Raises:
        NotFusibleError: one cannot.
    """
    given: dict[ir.Value, Scaling] = {run.output: run.scaling}
    changes = [Change(node, gone=True) for node in run.nodes]
    added = 0
    for node in _downwards(run.output, given, site):
        reading = site.reading(node, _KERNELS | _FACTORS)
        taken = None if reading is None else _into(node, reading, given, run, site)
        if taken is None:
            given.update(forward(node, given, site.constants))
            changes.append(Change(node))
        else:
            changes.append(taken[0])
            added += taken[1]
    return changes if added < len(run.nodes) else None


def _downwards(start: ir.Value, given: Scalings, site: Site) -> Iterator[ir.Node]:
    """Yield the readers of all that is in ``given``, which grows, in the order of the graph."""
    waiting: list[tuple[int, int]] = []
    by_place: dict[int, ir.Node] = {}
    seen: set[ir.Value] = set()
    fresh = [start]
    for count in range(MOST_NODES + 1):
        for value in fresh:
            seen.add(value)
            reading = site.read_by(value)
            if reading is None:
                raise NotFusibleError(f"'{value.name}' has to be there as it is")
            for node in reading:
                if id(node) not in by_place:
                    by_place[id(node)] = node
                    heapq.heappush(waiting, (site.places[node], id(node)))
        if not waiting:
            return
        if count == MOST_NODES:
            raise NotFusibleError(f"more than {MOST_NODES} nodes read it")
        node = by_place[heapq.heappop(waiting)[1]]
        if node in site.frozen or node.domain not in ("", "ai.onnx"):
            raise NotFusibleError(f"{node.op_type} does not take a factor for each channel")
        yield node
        fresh = [value for value in node.outputs if value in given and value not in seen]


def _into(
    node: ir.Node, reading: Reading, given: Scalings, run: Run, site: Site
) -> tuple[Change, int] | None:
    """Return a node that takes what its operand is scaled by, and how many nodes that adds."""
    value, law = reading.operands[0], reading.law
    if value not in given or sum(operand in given for operand in node.inputs) != 1:
        return None
    scaling = given[value]
    if isinstance(law, Scaling) and node.op_type == "BatchNormalization":
        whole = then(scaling, broadened(law))
        return _normalising(node, broadened(law), whole, site), 0
    shaped = scaling.shape([Shaped(None, None, zero_bias=True)])
    start = Form(value, shaped, run.nodes[-1], scaling, (Form.itself(value),))
    form = _form(node, reading, start)
    return Change(node, form=form), _added(node, form, site)


def _form(node: ir.Node, reading: Reading, part: Form) -> Form:
    shaped = reading.law.shape([part.shaped])
    cost = float(reading.law.cost())
    form = Form(part.source, shaped, node, reading.law, (part,), cost, cost)
    if form.after > Form(part.source, reading.law.shape([Form.itself(part.source).shaped]), node,
                         reading.law, (), cost, cost).after * (1 + 1e-9):  # fmt: skip
        raise NotFusibleError(f"the {node.op_type} would cost more")
    return form


def _added(node: ir.Node, form: Form, site: Site) -> int:
    """Return how many nodes more a form takes; a shift goes into an addition that follows."""
    added = nodes_of(form) - 1
    following = site.read_by(node.outputs[0])
    if added and node.op_type == "MatMul" and following and len(following) == 1:
        found = site.factor(following[0])
        added -= found is not None and not (found[1].scale != 1).any()
    return added


def _normalising(node: ir.Node, own: Scaling, whole: Scaling, site: Site) -> Change:
    """Return a BatchNormalization that does ``whole``, with the mean and variance it has."""
    gamma, _, mean, _ = (site.constants.exact(v) for v in node.inputs[1:5] if v is not None)
    safe = np.where(own.scale == 0, 1.0, own.scale)
    if (whole.scale[own.scale == 0] != 0).any():
        raise NotFusibleError("a BatchNormalization of nothing")
    factor = np.where(own.scale == 0, 1.0, whole.scale / safe)
    return Change(node, vectors=(gamma * factor, whole.shift + mean * whole.scale))


def hoisted(run: Run, site: Site) -> list[Change] | None:
    """Return the changes that take a run up into what makes its operand.

        before:  x - MatMul - Flatten - BatchNormalization - y
        after:   x - MatMul - Add - Flatten -------------- y

    Exact when: everything between is read by the run alone, and lets it through.

    Raises:
        NotFusibleError: it does not.
    """
    wanted: dict[ir.Value, Scaling] = {}
    changes = [Change(node, gone=True) for node in reversed(run.nodes)]
    added = 0
    waiting: list[tuple[int, int, ir.Node]] = []
    _want({run.source: run.scaling}, run.nodes[0], wanted, waiting, site)
    while waiting:
        node = heapq.heappop(waiting)[2]
        if len(changes) > MOST_NODES:
            raise NotFusibleError(f"more than {MOST_NODES} nodes make it")
        reading = site.reading(node, _KERNELS | {"Add", "BatchNormalization"})
        taken = None if reading is None else _onto(node, reading, wanted, site)
        if taken is not None:
            change, more, rest = taken
            changes.append(change)
            added += more
        else:
            rest = backward(node, wanted, site.constants)
            changes.append(Change(node))
        _want(rest, node, wanted, waiting, site)
    saved = len(run.nodes) - added
    if saved < 0 or (saved == 0 and not run.multiplies):
        return None
    return sorted(changes, key=lambda change: site.places[change.node])


def _want(
    more: Scalings,
    reader: ir.Node,
    wanted: dict[ir.Value, Scaling],
    waiting: list[tuple[int, int, ir.Node]],
    site: Site,
) -> None:
    """Ask the makers of values for them scaled; the last maker of all is looked at first."""
    for value, scaling in more.items():
        if not ((scaling.scale != 1).any() or scaling.shift.any()):
            continue
        maker = value.producer()
        if maker not in site.places or maker in site.frozen or value in wanted:
            raise NotFusibleError(f"what makes '{value.name}' cannot be changed")
        if site.read_by(value) != [reader]:
            raise NotFusibleError(f"'{value.name}' has other readers")
        assert maker is not None
        if not any(output in wanted for output in maker.outputs):
            heapq.heappush(waiting, (-site.places[maker], id(maker), maker))
        wanted[value] = scaling


def _onto(
    node: ir.Node, reading: Reading, wanted: Scalings, site: Site
) -> tuple[Change, int, Scalings] | None:
    """Return a node that makes its output scaled, the nodes that adds, and what is left to do."""
    scaling, law, value = wanted[node.outputs[0]], reading.law, reading.operands[0]
    if isinstance(law, Scaling):
        own = broadened(law)
        if node.op_type == "BatchNormalization":
            return _normalising(node, own, then(own, scaling), site), 0, {}
        if (own.scale != 1).any():
            return None
        shift = then(own, scaling)
        left = replace(shift, scale=np.ones_like(shift.scale))
        shaped = left.shape([Shaped(None, None, zero_bias=True)])
        form = Form(value, shaped, node, left, (Form.itself(value),))
        rest = broadened(Scaling(scaling.scale, np.zeros(()), scaling.axis))
        return Change(node, form=form), nodes_of(form) - 1, {value: rest}
    start = _form(node, reading, Form.itself(value))
    shaped = scaling.shape([start.shaped])
    form = Form(value, shaped, node, scaling, (start,), 0.0, start.before)
    return Change(node, form=form), nodes_of(form) - 1, {}
