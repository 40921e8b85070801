"""Names in the graph of an ONNX file, and the order of its nodes that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from reparam.errors import GraphError
from reparam.graph.files_tensors import subgraphs_of

_TOLD = 4  # nodes of a cycle that a message names

Scopes = tuple[set[str], ...]


def check_names(model: Any) -> int:
    """Refuse a model whose names contradict each other; return how many graphs were sorted.

    A graph whose nodes are in no order that ONNX allows is put into one, in place: each node
    after those that it reads from, otherwise as it was.

    Raises:
        GraphError: a name is given twice or never, or the nodes read each other in a circle.
    """
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        if opsets.setdefault(entry.domain, entry.version) != entry.version:
            raise _contradiction(f"two versions of the operator set '{entry.domain}'")
    known = set()
    for function in model.functions:
        key = (function.domain, function.name, getattr(function, "overload", ""))
        if key in known:
            raise _contradiction(f"two functions '{function.domain}::{function.name}'")
        known.add(key)
    order = _Ordering()
    order.check(model.graph, ())
    for function in model.functions:
        order.check_function(function)
    return order.sorted


def named(node: Any) -> str:
    """Return how a message speaks of a node."""
    if node.name:
        return f"node '{node.name}' ({node.op_type})"
    outputs = ", ".join(f"'{name}'" for name in node.output if name)
    return f"the {node.op_type} that gives {outputs or 'nothing'}"


class _Ordering:
    """Checks the names of graphs, inner ones first, and sorts nodes where that is needed."""

    def __init__(self) -> None:
        self.sorted = 0

    def check(self, graph: Any, outer: Scopes) -> set[str]:
        """Return the names that a graph reads from outside of it."""
        where = f"graph '{graph.name}'"
        initializers = [tensor.name for tensor in graph.initializer]
        inputs = [value.name for value in graph.input]
        for names, what in ((inputs, "inputs"), (initializers, "initializers")):
            if "" in names:
                raise _contradiction(f"one of the {what} of {where} has no name")
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise _contradiction(f"two {what} of {where} have the name '{twice}'")
        given = {*initializers, *inputs}
        return self._check_nodes(graph.node, given, [v.name for v in graph.output], outer, where)

    def check_function(self, function: Any) -> None:
        """The same for a function, which sees nothing from outside."""
        where = f"function '{function.domain}::{function.name}'"
        self._check_nodes(function.node, set(function.input), function.output, (), where)

    def _check_nodes(
        self, nodes: Any, given: set[str], outputs: Sequence[str], outer: Scopes, where: str
    ) -> set[str]:
        makers = _makers(nodes, given, where)
        scopes = (*outer, given | makers.keys())
        free: set[str] = set()
        needs: list[set[int]] = []
        for node in nodes:
            reads = set(node.input)
            for subgraph in subgraphs_of(node) if node.attribute else ():
                reads |= self.check(subgraph, scopes)
            reads.discard("")
            needs.append({makers[name] for name in reads if name in makers})
            if len(needs[-1]) == len(reads):
                continue  # all are made here
            unmade = [name for name in reads if name not in makers and name not in given]
            for name in unmade:
                if not any(name in scope for scope in outer):
                    raise _contradiction(f"{named(node)} reads '{name}', which nothing gives")
            free.update(unmade)
        for name in outputs:
            if name not in makers and name not in given:
                raise _contradiction(f"nothing in {where} gives its output '{name}'")
        if any(max(made, default=-1) >= index for index, made in enumerate(needs)):
            self._sort(nodes, needs, where)
        return free

    def _sort(self, nodes: Any, needs: Sequence[set[int]], where: str) -> None:
        order = _order(needs)
        if len(order) < len(nodes):
            circle = [nodes[index] for index in _circle(needs, set(order))]
            told = f"{len(circle)} {'nodes' if circle[1:] else 'node'}: " + " reads from ".join(
                named(node) for node in circle[:_TOLD]
            )
            told += " ..." if len(circle) > _TOLD else f" reads from {named(circle[0])}"
            raise GraphError(
                f"{where} has a cycle", found=told, why="no order of its nodes can be computed"
            )
        ordered = [nodes[index] for index in order]
        del nodes[:]
        nodes.extend(ordered)
        self.sorted += 1


def _makers(nodes: Any, given: set[str], where: str) -> dict[str, int]:
    """Return which node gives each value."""
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in makers:
                other = "itself" if makers[name] == index else named(nodes[makers[name]])
                raise _contradiction(f"{named(node)} gives '{name}', and so does {other}")
            if name in given:
                raise _contradiction(
                    f"{named(node)} gives '{name}', which is an input or initializer of {where}"
                )
            makers[name] = index
    return makers


def _order(needs: Sequence[set[int]]) -> list[int]:
    """Return the order that is closest to the present one; nodes of a cycle are left out."""
    readers: list[list[int]] = [[] for _ in needs]
    missing = [len(made) for made in needs]
    for index, made in enumerate(needs):
        for maker in made:
            readers[maker].append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order = []
    while ready:
        order.append(heappop(ready))
        for reader in readers[order[-1]]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    return order


def _circle(needs: Sequence[set[int]], done: set[int]) -> Iterable[int]:
    """Return the nodes of one cycle, each of which reads from the next."""
    path = [next(index for index in range(len(needs)) if index not in done)]
    seen = {path[0]: 0}
    while True:
        following = min(needs[path[-1]] - done)
        if following in seen:
            return path[seen[following] :]
        seen[following] = len(path)
        path.append(following)


def _contradiction(found: str) -> GraphError:
    return GraphError(
        "the graph contradicts itself", found=found, why="a name has to be given exactly once"
    )
