"""A move: old nodes, the new ones in their place, the proof, and the swap.

Between the ends of a move, values are other ones than before (they lack a factor, or have it
already); only what is read outside has to be equal, and that is what is proved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.conv.operators import Array
from reparam.conv.rounding import round_once
from reparam.errors import NotFusibleError
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.forms import Form
from reparam.graph.idioms import QUANTIZED, quantizes_more
from reparam.graph.proving import Proof, prove
from reparam.graph.regions import Region
from reparam.graph.rewriting import FLOATS, Writer

if TYPE_CHECKING:
    import onnx_ir as ir

ASK_ONLY_THE_SHAPE = ("Shape", "Size")


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of one node.

    Attributes:
        node: the old one.
        form: of its output, by which it is written anew; None where it is copied.
        vectors: new gamma and beta of a BatchNormalization.
        gone: nothing takes its place but what it reads.
    """

    node: ir.Node
    form: Form | None = None
    vectors: tuple[Array, Array] | None = None
    gone: bool = False


class Plan:
    """The changes of one move; nothing is in the graph until :meth:`splice`.

    Args:
        graph: that it is for.
        constants: of the graph.
        changes: each after those that make what it reads.
        kind: the pass that it belongs to.
    """

    def __init__(
        self, graph: ir.Graph, constants: Constants, changes: Sequence[Change], kind: str
    ) -> None:
        self.graph, self.constants, self.kind = graph, constants, kind
        self.old = [change.node for change in changes]
        self.new: list[list[ir.Node]] = []
        self.now: dict[ir.Value, ir.Value] = {}
        self.flushed = 0
        self.stored = "float32"
        self._changes = changes
        self._made: list[ir.Value] = []
        self._writers: list[Writer] = []

    @property
    def made(self) -> list[ir.Node]:
        """The new nodes, in order."""
        return [node for nodes in self.new for node in nodes]

    def write(self) -> None:
        """Make the new nodes.

        Raises:
            NotFusibleError: a weight does not fit the dtype, or is not finite; an output of the
                graph would be a value that has a name of its own; or onnxruntime would round
                weights to 8 bits that it does not now.
            NotEquivalentError: the numbers are not of what was foreseen.
        """
        for change in self._changes:
            self.new.append(self._written(change))
        ours = {output for node in self.made for output in node.outputs}
        for old, new in self.now.items():
            if old.is_graph_output() and new not in ours:
                raise NotFusibleError(f"the output '{old.name}' would be '{new.name}'")
        if quantizes_more(self.old, self.made, self.now):
            raise NotFusibleError(QUANTIZED)

    def _written(self, change: Change) -> list[ir.Node]:
        node = change.node
        if change.gone:
            value = next(v for v in node.inputs if v is not None and not self.constants.known(v))
            self.now[node.outputs[0]] = self._after(value)
            return []
        if change.form is not None:
            return self._by_form(change.form, node)
        copied = self._copy(node)
        if change.vectors is not None:
            for index, array in enumerate(change.vectors, 1):
                copied.replace_input_with(index, self._constant(node, index, array))
        return [copied]

    def _after(self, value: ir.Value) -> ir.Value:
        return self.now.get(value, value)

    def _copy(self, node: ir.Node) -> ir.Node:
        import onnx_ir

        copied = onnx_ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else self._after(value) for value in node.inputs],
            node.attributes,
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
            name=self.constants.unused_node(node.name or node.op_type),
        )
        for old, new in zip(node.outputs, copied.outputs, strict=True):
            new.name = self.constants.unused(old.name or node.op_type)
            new.shape, new.type = old.shape, old.type
            self.now[old] = new
        return copied

    def _by_form(self, form: Form, node: ir.Node) -> list[ir.Node]:
        output = node.outputs[0]
        region = Region(output, form, (node,), self.kind, form.before, form.after, 1, 0.0)
        source = self._after(form.source)
        writer = Writer(region, self.constants, source)
        self._writers.append(writer)
        writer.write()
        self.stored = writer.dtype.name
        self.flushed += writer.flushed
        result = writer.nodes[-1].outputs[0] if writer.nodes else source
        for made in writer.nodes:
            made.outputs[0].shape, made.outputs[0].type = output.shape, output.type
        self.now[output] = result
        return writer.nodes

    def _constant(self, node: ir.Node, index: int, array: Array) -> ir.Value:
        old = node.inputs[index]
        assert old is not None  # its law was read
        assert old.const_value is not None
        dtype = old.const_value.dtype.numpy()
        if dtype.name not in FLOATS:
            raise NotFusibleError(f"the dtype {dtype} is not one that weights are kept in")
        stored, flushed = round_once(array, np.dtype(dtype))
        self.stored = dtype.name
        self.flushed += flushed
        value = self.constants.register(f"{node.outputs[0].name}.{index}", stored, exact=array)
        self._made.append(value)
        return value

    def prove(self) -> Proof:
        """Return whether everything that is read outside is what it was, where it is furthest off.

        Raises:
            NotFusibleError: there is no saying.
        """
        sources = self.sources()
        shapes = [tuple(size if isinstance(size, int) else None for size in value.shape or ())
                  for value in sources]  # fmt: skip
        proofs = []
        for output in self.ends():
            try:
                proofs.append(prove(
                    self.old, self.made, sources, output, self.now[output],
                    opset=self.constants.opset, stored=self.stored, shape=shapes,
                    exact=self.constants.unrounded(self.old),
                ))  # fmt: skip
            except NotEvaluableError as error:
                raise NotFusibleError(
                    f"what makes '{output.name}' cannot be proved equal", found=str(error)
                ) from error
        if not proofs:
            raise NotFusibleError("nothing reads what the nodes make")
        return max(proofs, key=lambda proof: (not proof.holds, proof.ratio))

    def sources(self) -> list[ir.Value]:
        """Return what the nodes read from outside, constants apart.

        Raises:
            NotFusibleError: it is nothing that a probe can be.
        """
        inside = {output for node in self.old for output in node.outputs}
        found: dict[ir.Value, None] = {}
        for node in self.old:
            for value in node.inputs:
                if value is None or value in inside or self.constants.known(value):
                    continue
                if value.shape is None or not _is_float(value):
                    raise NotFusibleError(
                        f"'{value.name}' is not one that probes can stand for",
                        found=f"{value.dtype}, shape {value.shape}",
                    )
                found[value] = None
        return list(found)

    def ends(self) -> list[ir.Value]:
        """Return the values that are read outside, for more than their shape."""
        inside = set(self.old)
        return [
            output
            for node in self.old
            for output in node.outputs
            if output.is_graph_output()
            or any(u.node not in inside and u.node.op_type not in ASK_ONLY_THE_SHAPE
                   for u in output.uses())
        ]  # fmt: skip

    def splice(self) -> None:
        """Put the new nodes in the place of the old ones."""
        names = {}
        for node, new in zip(self.old, self.new, strict=True):
            if new:
                self.graph.insert_before(node, new)
        for old, new_value in self.now.items():
            if old.is_graph_output() or new_value not in names:
                names[new_value] = old.name
        ours = {output for node in self.made for output in node.outputs}
        for old, new_value in self.now.items():
            old.replace_all_uses_with(new_value, replace_graph_outputs=True)
        for node in reversed(self.old):
            self.graph.remove(node, safe=True)
        for new_value, name in names.items():
            if new_value in ours:
                new_value.name = name

    def discard(self) -> None:
        """Take the new nodes off what they read, and the new constants out again."""
        for writer in self._writers:
            writer.discard(self.graph)
        for node in self.made:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        for value in self._made:
            self.graph.initializers.pop(value.name or "", None)

    def is_provable(self) -> bool:
        """Whether probes can stand for all that the nodes read."""
        try:
            return bool(self.sources())
        except NotFusibleError:
            return False

    def macs(self) -> float:
        """Return the MACs of what is written anew, at one position of each; they stay."""
        return sum(change.form.before for change in self._changes if change.form is not None)

    def counts(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Return how many nodes of each operator there were, and are, copies apart."""
        copies = {id(c.node) for c in self._changes if c.form is None and not c.gone}
        old = Counter(node.op_type for node in self.old if id(node) not in copies)
        new: Counter[str] = Counter()
        for change, nodes in zip(self._changes, self.new, strict=True):
            if id(change.node) not in copies:
                new.update(node.op_type for node in nodes)
        return old, new


def _is_float(value: ir.Value) -> bool:
    dtype: Any = value.dtype
    return dtype is not None and bool(dtype.is_floating_point())
