"""Convolutions that read the same value, made one with a Split behind it.

    before:  x -+- Conv 1x1 (O1) -- a          after:  x -- Conv 1x1 (O1 + O2) -- Split -+- a
                +- Conv 1x1 (O2) -- b                                                    +- b

Exact when: they have one geometry and no groups: each output channel is computed as before. Off by
default, since it rarely pays: the Split copies what the convolutions have written.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.proving import prove

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger("reparam.graph")
_SIZES_ARE_AN_INPUT = 13  # of a Split, from this version of the operator set on


def merge_siblings(graph: ir.Graph, constants: Constants) -> int:
    """Merge the convolutions of the main graph that read one value; return how many went.

    Each merger is proved before it is made.
    """
    groups: dict[Hashable, list[ir.Node]] = {}
    for node in graph:
        key = _key(node, constants)
        if key is not None:
            groups.setdefault(key, []).append(node)
    return sum(_merge(graph, group, constants) for group in groups.values() if len(group) > 1)


def _key(node: ir.Node, constants: Constants) -> Hashable:
    """Return what siblings have in common, None for what has none."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return None
    weight = node.inputs[1]
    shape = constants.shape(weight)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if shape is None or readers.integer(node, "group", 1) != 1:
        return None
    if bias is not None and not constants.known(bias):
        return None
    assert weight is not None  # its shape is known
    axes = len(shape) - 2
    return (
        node.inputs[0],
        shape[1:],
        weight.dtype,
        readers.text(node, "auto_pad", "NOTSET"),
        readers.integers(node, "pads") or (0,) * (2 * axes),
        readers.per_axis(node, "strides", axes),
        readers.per_axis(node, "dilations", axes),
    )


def _merge(graph: ir.Graph, siblings: Sequence[ir.Node], constants: Constants) -> int:
    """Put one convolution and a Split in the place of several; return how many fewer there are."""
    made = _Merged(siblings, constants)
    if not made.is_proved():
        made.discard(graph)
        return 0
    graph.insert_before(siblings[0], [made.conv, made.split])
    for old, new in zip(siblings, made.split.outputs, strict=True):
        output = old.outputs[0]
        name = output.name
        new.shape, new.type = output.shape, output.type
        output.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(old, safe=True)
        new.name = name
    return len(siblings) - 1


class _Merged:
    """The one convolution of several, and the Split of what it makes; not in the graph yet."""

    def __init__(self, siblings: Sequence[ir.Node], constants: Constants) -> None:
        import onnx_ir

        self._siblings, self._constants = siblings, constants
        first = siblings[0]
        sizes = [len(self._stored(node, 1)) for node in siblings]
        inputs = [first.inputs[0], self._joined("weight", 1)]
        if any(len(node.inputs) > 2 and node.inputs[2] is not None for node in siblings):
            inputs.append(self._joined("bias", 2))
        self.made = [value for value in inputs[1:] if value is not None]
        self.conv: ir.Node = onnx_ir.node(
            "Conv", inputs, attributes=dict(first.attributes),
            name=constants.unused_node(first.name or "Conv"),
        )  # fmt: skip
        whole = self.conv.outputs[0]
        whole.name = constants.unused(f"{first.outputs[0].name}.siblings")
        whole.type = first.outputs[0].type
        self.split = self._split(whole, sizes)

    def _split(self, whole: ir.Value, sizes: Sequence[int]) -> ir.Node:
        import onnx_ir

        attributes: dict[str, Any] = {"axis": 1}
        inputs = [whole]
        if self._constants.opset < _SIZES_ARE_AN_INPUT:
            attributes["split"] = list(sizes)
        else:
            base = f"{whole.name}.sizes"
            inputs.append(self._constants.register(base, np.array(sizes, np.int64)))
            self.made.append(inputs[1])
        return onnx_ir.node(
            "Split", inputs, attributes=attributes, num_outputs=len(sizes),
            name=self._constants.unused_node(f"{self.conv.name}.split"),
        )  # fmt: skip

    def _stored(self, node: ir.Node, place: int) -> np.ndarray[Any, Any]:
        value = node.inputs[place] if place < len(node.inputs) else None
        found = self._constants.get(value)
        if found is None:  # no bias
            weight = self._stored(node, 1)
            return np.zeros(len(weight), weight.dtype)
        return found

    def _joined(self, what: str, place: int) -> ir.Value:
        arrays = [self._stored(node, place) for node in self._siblings]
        values = [node.inputs[place] if place < len(node.inputs) else None
                  for node in self._siblings]  # fmt: skip
        exact = [
            array.astype(np.float64) if value is None else self._constants.exact(value)
            for value, array in zip(values, arrays, strict=True)
        ]
        rounded = any(value is not None and self._constants.is_rounded(value) for value in values)
        return self._constants.register(
            f"{self._siblings[0].outputs[0].name}.siblings.{what}",
            np.concatenate(arrays),
            np.concatenate(exact) if rounded else None,
        )

    def is_proved(self) -> bool:
        """Whether each output is what it was."""
        source = self.conv.inputs[0]
        if source is None or source.shape is None:
            return False
        shape = tuple(size if isinstance(size, int) else None for size in source.shape)
        dtype = self._stored(self._siblings[0], 1).dtype.name
        try:
            return all(
                prove(
                    [old], [self.conv, self.split], source, old.outputs[0], new,
                    opset=self._constants.opset, stored=dtype, shape=shape,
                ).holds
                for old, new in zip(self._siblings, self.split.outputs, strict=True)
            )  # fmt: skip
        except NotEvaluableError as error:
            log.debug("%s is left: %s", self._siblings[0].name, error)
            return False

    def discard(self, graph: ir.Graph) -> None:
        """Take the new constants out again."""
        for node in (self.split, self.conv):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        for value in self.made:
            graph.initializers.pop(value.name or "", None)
