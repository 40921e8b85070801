"""A whole graph in float64: what it should compute, and what one rounding of its weights does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reparam.adapters.onnx_reference import evaluate_node
from reparam.conv.bounds import UNDERFLOW, UNIT_ROUNDOFF
from reparam.errors import ExportError
from reparam.graph.evaluation import Constants, Program
from reparam.graph.evaluation_calls import Array, Inputs, NotEvaluableError, widened
from reparam.graph.evaluation_rules import RULES

if TYPE_CHECKING:
    import onnx_ir as ir

MOST_MACS = 40_000_000_000
"""Multiply-accumulates of one run in float64, some seconds."""

_PRODUCTS = ("MatMul", "MatMulInteger", "Gemm")
_EVALUATED = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training")  # by onnx's reference

_LEAST = 8  # elements; a smaller array that no rule reads is a setting, such as scales of a Resize


class _Meter:
    """Stops a run that takes too long, after as many operations on any machine."""

    def __init__(self, most: int) -> None:
        self._most, self.macs = most, 0

    def __call__(self, operator: str, inputs: Inputs, found: Sequence[Array]) -> None:
        self.macs += _macs(operator, inputs, found)
        if self.macs > self._most:
            raise NotEvaluableError(f"more than {self._most / 1e9:g} GMAC, too many for float64")


def _macs(operator: str, inputs: Inputs, found: Sequence[Array]) -> int:
    x, weight = (inputs[at] if at < len(inputs) else None for at in (0, 1))
    if x is None or weight is None or not weight.size:
        return 0
    if operator in ("Conv", "ConvInteger"):
        return int(weight[0].size) * found[0].size
    if operator == "ConvTranspose":
        return int(weight[0].size) * x.size
    return int(x.shape[-1]) * found[0].size if operator in _PRODUCTS else 0


class Truth:
    """The main graph of a model, evaluated in float64.

    Nodes that :mod:`reparam.graph.evaluation` has no rule for are evaluated by onnx's reference,
    one by one.

    Args:
        model: functions in it are written out, in place.
        stored: dtype that its weights were stored in, where that is no longer theirs.
        most_macs: multiply-accumulates that one run may take.

    Attributes:
        elsewhere: operators that onnx evaluated.
        macs: multiply-accumulates of the last run.

    Raises:
        NotEvaluableError: a node cannot be evaluated, by either.
    """

    def __init__(
        self, model: ir.Model, stored: str | None = None, most_macs: int = MOST_MACS
    ) -> None:
        self._stored, self._most_macs = stored, most_macs
        self._graph = inlined(model).graph
        self._opset = model.opset_imports.get("", 1)
        self._nodes = list(self._graph)
        self.elsewhere: set[str] = set()
        self.macs = 0
        for node in self._nodes:
            if any(a.type.name in ("GRAPH", "GRAPHS") for a in node.attributes.values()):
                raise NotEvaluableError(f"{node.op_type}: has a graph of its own")
            if node.domain not in _EVALUATED:  # to be told now, not after all nodes before it ran
                raise NotEvaluableError(f"{node.domain}::{node.op_type}: no operator of onnx's")

    def outputs(self, feeds: Mapping[str, Array], moved: int | None = None) -> list[Array]:
        """Return the outputs, in the order of the graph.

        Args:
            feeds: by the names of the inputs.
            moved: a seed; every weight is then off by one rounding of its dtype, up or down.

        Raises:
            NotEvaluableError: a node cannot be evaluated.
        """
        constants = Constants() if moved is None else _Moved(self._nodes, moved, self._stored)
        program = Program(self._nodes, self._opset, constants, self._by_reference)
        program.watch = meter = _Meter(self._most_macs)
        known = {v: widened(feeds[str(v.name)]) for v in self._graph.inputs if v.name in feeds}
        known |= self._defaults(known)
        found = program.values(known, keep=set(self._graph.outputs))
        self.macs = meter.macs
        return [_output(value, found, constants) for value in self._graph.outputs]

    def _defaults(self, known: Mapping[ir.Value, Array]) -> dict[ir.Value, Array]:
        """Return what inputs are that nobody feeds: initializers that could be overridden."""
        return {
            value: widened(np.asarray(value.const_value.numpy()))
            for value in self._graph.inputs
            if value not in known and value.const_value is not None
        }

    def _by_reference(self, node: ir.Node, inputs: Inputs) -> list[Array]:
        import onnx_ir

        self.elsewhere.add(node.op_type)
        proto = onnx_ir.serde.serialize_node(node)
        given = [_declared(v, array) for v, array in zip(node.inputs, inputs, strict=True)]
        try:
            return evaluate_node(proto.SerializeToString(), given, self._opset)
        except ExportError as error:
            raise NotEvaluableError(f"{error.what}: {error.found}") from error


def _declared(value: ir.Value | None, array: Array | None) -> Array | None:
    """Return integers in the dtype that the graph declares: what saturates depends on it."""
    if value is None or array is None or value.dtype is None or array.dtype.kind not in "iu":
        return array
    declared = value.dtype.numpy()
    return array.astype(declared) if declared.kind in "iu" else array


def inlined(model: ir.Model) -> ir.Model:
    """Return ``model`` with the functions that it defines written out where they are called."""
    if model.functions:
        from onnx_ir.passes.common import InlinePass

        InlinePass()(model)
    return model


def _output(value: ir.Value, found: Mapping[ir.Value, Array], constants: Constants) -> Array:
    known = found[value] if value in found else constants.get(value)
    if known is None:
        raise NotEvaluableError(f"the output '{value.name}' is not known")
    return known


def _is_weight(node: ir.Node, value: ir.Value) -> bool:
    assert value.const_value is not None  # the caller has looked
    return node.op_type in RULES or value.const_value.size >= _LEAST


class _Moved(Constants):
    """Weights that are each off by one rounding of the dtype that they are, or were, stored in.

    What comes of it shows how much the network makes of roundings; fusing rounds weights too.
    """

    def __init__(self, nodes: list[ir.Node], seed: int, dtype: str | None) -> None:
        super().__init__()
        self._seed, self._dtype = seed, dtype
        ordered: dict[ir.Value, None] = {}
        for node in nodes:
            for value in node.inputs:
                if value is not None and self.has(value) and _is_weight(node, value):
                    ordered[value] = None
        self._seeds = {value: at for at, value in enumerate(ordered)}

    def get(self, value: ir.Value) -> Array | None:
        plain = super().get(value)
        if plain is None or plain.dtype.kind != "f" or value not in self._seeds:
            return plain
        assert value.const_value is not None  # or it would be no constant
        dtype = self._dtype or value.const_value.dtype.numpy().name
        return moved(plain, dtype, (self._seed, self._seeds[value]))


def moved(array: Array, dtype: str, seed: tuple[int, ...], roundings: int = 1) -> Array:
    """Return an array whose elements are off by roundings of ``dtype``, up or down."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=array.shape)
    if dtype not in UNIT_ROUNDOFF:
        return array
    each = np.maximum(UNIT_ROUNDOFF[dtype] * np.abs(array), UNDERFLOW[dtype])
    found: Array = array + roundings * each * signs
    return found
