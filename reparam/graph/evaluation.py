"""What ONNX nodes mean, in float64: the oracle that every rewrite of a graph is checked against.

Written from the specification alone. It shares no code with the rules that fuse, so that a wrong
rule cannot hide behind a wrong meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.graph.evaluation_calls import (
    Array,
    Call,
    CountRule,
    Inputs,
    NotEvaluableError,
    as_array,
    call_of,
)
from reparam.graph.evaluation_rules import (
    MAGNITUDES,
    MIXED,
    PRODUCTS,
    ROUNDINGS,
    RULES,
    magnitude,
)

if TYPE_CHECKING:
    import onnx_ir as ir

Values = dict["ir.Value", Array]
Fallback = Callable[["ir.Node", Inputs], Sequence[Array]]
Watch = Callable[[str, Inputs, Sequence[Array]], None]


@dataclass(frozen=True)
class Step:
    """One node, ready to be evaluated."""

    node: ir.Node
    call: Call | None
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]


class Constants:
    """Constant values in float64, each read once, however often and by whom it is needed.

    Args:
        exact: of some, what they were before they were rounded to what is stored.
    """

    def __init__(self, exact: Mapping[ir.Value, Array] | None = None) -> None:
        self._plain: dict[ir.Value, Array | None] = dict(exact or {})
        self._magnitudes: dict[ir.Value, Array] = {}

    def get(self, value: ir.Value) -> Array | None:
        """Return what ``value`` is in every run, or None.

        An initializer that is a graph input too may be overridden by who runs the graph.
        """
        if value not in self._plain:
            known = self.has(value)
            self._plain[value] = as_array(value.const_value) if known else None
        return self._plain[value]

    def has(self, value: ir.Value) -> bool:
        """Whether ``value`` is the same in every run; nothing is read."""
        return value.const_value is not None and not value.is_graph_input()

    def forget(self, value: ir.Value) -> None:
        """Let go of what was read of ``value``; it is read again when it is asked for."""
        self._plain.pop(value, None)
        self._magnitudes.pop(value, None)

    def magnitude(self, value: ir.Value) -> Array | None:
        if value not in self._magnitudes:
            plain = self.get(value)
            if plain is None:
                return None
            self._magnitudes[value] = magnitude(plain)
        return self._magnitudes[value]


class Program:
    """Nodes made ready once, to be evaluated on any number of inputs.

    Args:
        nodes: in an order in which each comes after what it reads.
        opset: version of the standard domain.
        constants: shared between programs that read the same ones.
        fallback: evaluates a node that has no rule here, from its inputs in float64.

    Attributes:
        watch: is told of every node: operator, inputs, outputs. It may raise.

    Raises:
        NotEvaluableError: a node has no rule, and there is no fallback.
    """

    def __init__(
        self,
        nodes: Sequence[ir.Node],
        opset: int,
        constants: Constants | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.constants = Constants() if constants is None else constants
        self._fallback = fallback
        self.watch: Watch | None = None
        self._steps = [self._step(node, opset) for node in nodes]
        self._fixed = self._constant_values()

    def _step(self, node: ir.Node, opset: int) -> Step:
        known = node.op_type in RULES and node.domain in ("", "ai.onnx")
        if not known and self._fallback is None:
            raise NotEvaluableError(f"{node.op_type}: no such operator is known here")
        call = call_of(node, opset) if known else None
        return Step(node, call, tuple(node.inputs), tuple(node.outputs))

    def _constant_values(self) -> set[ir.Value | None]:
        """Return the constants, and the values that are computed from nothing else."""
        fixed: set[ir.Value | None] = {None}
        for step in self._steps:
            fixed.update(v for v in step.inputs if v is not None and self.constants.has(v))
            if fixed.issuperset(step.inputs):
                fixed.update(step.outputs)
        return fixed

    def constant_sizes(self) -> Iterator[tuple[ir.Value, int]]:
        """Yield the constants that the nodes read, and how many elements each has."""
        for step in self._steps:
            for value in step.inputs:
                if value is not None and self.constants.has(value):
                    yield value, int(value.const_value.size)  # type: ignore[union-attr]

    def values(self, feeds: Mapping[ir.Value, Array], keep: Collection[ir.Value] | None = None
    ) -> Values:  # fmt: skip
        """Return every value, by what the nodes mean.

        Args:
            feeds: what the nodes read and is no constant; floats in any width.
            keep: return these alone, and let go of the others as early as possible.

        Raises:
            NotEvaluableError: shapes do not fit, or a node is in a mode that has no rule.
        """
        left = self._readers() if keep is not None else None
        known: Values = {value: np.asarray(array) for value, array in feeds.items()}
        for step in self._steps:
            inputs = self._gather(step, known, self.constants.get)
            with np.errstate(all="ignore"):  # what is not finite is for the reader to find
                found = self._apply(step, inputs)
            known.update(zip(step.outputs, found, strict=False))
            if self.watch is not None:
                self.watch(step.node.op_type, inputs, found)
            if left is not None and keep is not None:
                self._let_go(known, step, left, keep)
        return known

    def magnitudes(
        self,
        plain: Mapping[ir.Value, Array],
        feeds: Mapping[ir.Value, Array],
        constants: Callable[[ir.Value], Array | None] | None = None,
    ) -> Values:
        """Return, for every value, the sum of the magnitudes that it is made of.

        Every constant and every value is replaced by its absolute value and nothing cancels: what
        rounding errors are relative to. Source: Higham 2002, section 3.1.

        Args:
            plain: what :meth:`values` returned.
            feeds: what it was given.
            constants: magnitudes of the constants, if they are others than their own.

        Raises:
            NotEvaluableError: an operator has no bound of this kind.
        """
        look_up = self.constants.magnitude if constants is None else constants
        known: Values = {value: magnitude(np.asarray(array)) for value, array in feeds.items()}
        for step in self._steps:
            inputs = self._gather(step, known, look_up)
            with np.errstate(all="ignore"):
                found = self._magnitude(step, inputs, plain)
            known.update(zip(step.outputs, found, strict=False))
        return known

    def _magnitude(
        self, step: Step, inputs: Inputs, plain: Mapping[ir.Value, Array]
    ) -> tuple[Array, ...]:
        operator = step.node.op_type
        if operator == "Div" and step.inputs[1] not in self._fixed:
            raise NotEvaluableError("Div: by what is no constant has no magnitude")
        if operator in MIXED:
            given = self._gather(step, plain, self.constants.get)
            return _guarded(step, MIXED[operator], inputs, given)
        if operator not in MAGNITUDES:
            raise NotEvaluableError(f"{operator}: has no magnitude")
        return _guarded(step, MAGNITUDES[operator], inputs)

    def roundings(self, plain: Mapping[ir.Value, Array]) -> dict[ir.Value, int]:
        """Return, for every value, the roundings on the longest path to one of its elements."""
        return self._count(plain, 0, ROUNDINGS)

    def stored_factors(self, plain: Mapping[ir.Value, Array]) -> dict[ir.Value, int]:
        """Return, for every value, how many constants are multiplied on the way to it."""
        return self._count(plain, 1, {})

    def _count(
        self, plain: Mapping[ir.Value, Array], of_constant: int, own: Mapping[str, int | CountRule]
    ) -> dict[ir.Value, int]:
        counts: dict[ir.Value, int] = {}
        for step in self._steps:
            inputs = self._gather(step, plain, self.constants.get)
            each = [
                counts.get(v, of_constant if v in self._fixed else 0)
                for v, array in zip(step.inputs, inputs, strict=True)
                if v is not None and array is not None and array.dtype.kind == "f"
            ]
            combine = sum if step.node.op_type in PRODUCTS else max
            rule = own.get(step.node.op_type, 0)
            more = rule if isinstance(rule, int) else rule(_called(step), inputs)
            start = combine(each) if each else of_constant
            counts.update(dict.fromkeys(step.outputs, start + more))
        return counts

    def _gather(
        self,
        step: Step,
        known: Mapping[ir.Value, Array],
        constant: Callable[[ir.Value], Array | None],
    ) -> list[Array | None]:
        inputs: list[Array | None] = []
        for value in step.inputs:
            found = None if value is None else known.get(value)
            if value is not None and found is None:
                found = constant(value)
                if found is None and value.name != "":
                    raise NotEvaluableError(f"{step.node.op_type}: '{value.name}' is not known")
            inputs.append(found)
        return inputs

    def _apply(self, step: Step, inputs: Inputs) -> tuple[Array, ...]:
        if step.call is None:
            assert self._fallback is not None  # or the step would not have been made
            return tuple(self._fallback(step.node, inputs))
        try:
            return _guarded(step, RULES[step.node.op_type], inputs)
        except NotEvaluableError:
            if self._fallback is None:
                raise
            return tuple(self._fallback(step.node, inputs))

    def _let_go(
        self, known: Values, step: Step, left: Counter[ir.Value], keep: Collection[ir.Value]
    ) -> None:
        left.subtract(value for value in step.inputs if value is not None)
        for value in (*step.inputs, *step.outputs):
            if value is not None and left[value] <= 0 and value not in keep:
                known.pop(value, None)
                self.constants.forget(value)

    def _readers(self) -> Counter[ir.Value]:
        return Counter(v for step in self._steps for v in step.inputs if v is not None)


def _guarded(step: Step, rule: Callable[..., Any], *inputs: Inputs) -> tuple[Array, ...]:
    """Apply a rule; shapes that NumPy refuses are a node that has no meaning."""
    try:
        found = rule(_called(step), *inputs)
    except (ValueError, IndexError, TypeError, ArithmeticError, AssertionError) as error:
        where = step.node.name or (step.outputs[0].name if step.outputs else "")
        raise NotEvaluableError(f"{step.node.op_type} '{where}': {error}") from error
    return found if isinstance(found, tuple) else (found,)


def _called(step: Step) -> Call:
    assert step.call is not None  # a step without one is the fallback's
    return step.call


def evaluate(nodes: Sequence[ir.Node], feeds: Mapping[ir.Value, Array], opset: int) -> Values:
    """Return every value that ``nodes`` make of ``feeds``, in float64.

    Args:
        nodes: in an order in which each comes after what it reads.
        feeds: what they read and is no constant.
        opset: version of the standard domain.

    Raises:
        NotEvaluableError: an operator, a mode or a shape that has no meaning here.
    """
    return Program(nodes, opset).values({v: _wide(a) for v, a in feeds.items()})


def evaluate_magnitude(
    nodes: Sequence[ir.Node], feeds: Mapping[ir.Value, Array], opset: int
) -> Values:
    """Return the same with every constant and every value replaced by its absolute value.

    Raises:
        NotEvaluableError: as :func:`evaluate`, or an operator has no bound of this kind.
    """
    program, wide = Program(nodes, opset), {v: _wide(a) for v, a in feeds.items()}
    return program.magnitudes(program.values(wide), wide)


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
