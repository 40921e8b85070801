"""Constants of a graph: which values are one, in every run, and what they are in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reparam.conv.operators import given_away
from reparam.errors import NotFusibleError

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]

_REMEMBERED = 1 << 21  # elements in all, 16 MB; vectors are remembered beyond it
_VECTOR = 1 << 14


class Constants:
    """The constants of a model, and the new ones that fusing makes.

    What fusing computed is remembered in float64, so that a second round does not round again;
    of a large model only as much as does not matter for its memory.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.opset = int(graph.opset_imports.get("", 0))
        self._graph = graph
        self._exact: dict[ir.Value, Array] = {}
        self._held: dict[ir.Value, Array] = {}
        self._holding = False
        self._rounded: set[ir.Value] = set()
        self._room = _REMEMBERED
        nodes = list(graph.all_nodes())
        # a name inside must not be one outside too
        self._taken = _Names(value.name for node in nodes for value in node.outputs)
        for scope in (graph, *graph.subgraphs()):
            self._taken.add(v.name for v in scope.inputs)
            self._taken.add(scope.initializers)
        self._nodes = _Names(node.name for node in nodes)

    def known(self, value: ir.Value | None) -> bool:
        """Whether a value is the same in every run; an input may be overridden."""
        return (
            value is not None
            and value.is_initializer()
            and value.const_value is not None
            and not value.is_graph_input()
        )

    def get(self, value: ir.Value | None) -> Array | None:
        """Return a constant as it is stored, None where it is not known."""
        if value is None or not self.known(value):
            return None
        assert value.const_value is not None
        return value.const_value.numpy()

    def exact(self, value: ir.Value) -> Array:
        """Return a constant in float64.

        Raises:
            NotFusibleError: it holds texts or complex numbers, in a graph of mixed-up types.
        """
        found = self._exact.get(value, self._held.get(value))
        if found is None:
            stored = self.get(value)
            assert stored is not None  # the caller has asked whether it is known
            if stored.dtype.kind in "OSUc":
                raise NotFusibleError(f"the constant '{value.name}' holds no real numbers")
            found = given_away(stored.astype(np.float64, order="C"))
            if self._holding:
                self._held[value] = found
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Read each constant once while one region is written and proved."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            self._held.clear()

    def unrounded(self, nodes: Iterable[ir.Node]) -> dict[ir.Value, Array]:
        """Return, of the constants that nodes read, what need not be read again.

        Among them are those that were rounded here, as they were before.
        """
        read = {value for node in nodes for value in node.inputs if value is not None}
        known = (self._held, self._exact)
        return {value: found[value] for value in read for found in known if value in found}

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the shape of a constant without reading it."""
        if value is None or not self.known(value):
            return None
        assert value.const_value is not None
        return tuple(int(size) for size in value.const_value.shape.numpy())

    def register(self, base: str, array: Array, exact: Array | None = None) -> ir.Value:
        """Return a new initializer, named ``base`` or, if that is taken, nearly so.

        Args:
            base: what to name it.
            array: what is stored.
            exact: the same before it was rounded.
        """
        return self._add(self.unused(base), array, exact)

    def stand_in(self, value: ir.Value, array: Array, exact: Array | None = None) -> ir.Value:
        """Put a new initializer of the same name in the place of what a node computes.

        Args:
            value: an output of a node that is taken out next.
            array: what is stored.
            exact: the same before it was rounded.
        """
        constant = self._add(value.name or self.unused("constant"), array, exact)
        value.replace_all_uses_with(constant)
        return constant

    def _add(self, name: str, array: Array, exact: Array | None) -> ir.Value:
        import onnx_ir

        tensor = onnx_ir.tensor(np.asarray(array, order="C"), name=name)
        value = onnx_ir.Value(
            name=name,
            shape=onnx_ir.Shape(array.shape),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        if exact is None:
            return value
        self._rounded.add(value)
        if exact.size <= _VECTOR or exact.size <= self._room:
            self._exact[value] = exact
            self._room -= exact.size
        return value

    def is_rounded(self, value: ir.Value) -> bool:
        """Whether a constant was computed here, and what is stored may be off by a rounding."""
        return value in self._rounded

    def unused(self, base: str) -> str:
        """Return a name that nothing in the graph has, and take it."""
        return self._taken.unused(base)

    def unused_node(self, base: str) -> str:
        """Return a name that no node of the graph has, and take it."""
        return self._nodes.unused(base)


class _Names:
    """Names that are taken. A new one costs the same, however many like it there are."""

    def __init__(self, names: Iterable[str | None]) -> None:
        self._taken = set(names)
        self._last: dict[str, int] = {}

    def add(self, names: Iterable[str | None]) -> None:
        self._taken.update(names)

    def unused(self, base: str) -> str:
        name, number = base, self._last.get(base, 0)
        while name in self._taken:
            number += 1
            name = f"{base}.{number}"
        self._last[base] = number
        self._taken.add(name)
        return name
