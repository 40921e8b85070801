"""A region written down: numbers rounded once, new nodes, and the proof before the swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.conv.geometry import Geometry
from reparam.conv.operators import Array, Conv
from reparam.conv.rounding import round_once
from reparam.errors import NotEquivalentError, NotFusibleError
from reparam.graph import readers
from reparam.graph.computing import numbers_of
from reparam.graph.constants import Constants
from reparam.graph.evaluation_calls import NotEvaluableError
from reparam.graph.forms import Form
from reparam.graph.numbers import Kept, Numbers, Pointwise
from reparam.graph.proving import Proof, prove
from reparam.graph.regions import Region, is_gemm, needs_a_node

if TYPE_CHECKING:
    import onnx_ir as ir

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Written:
    """What became of a region.

    Attributes:
        nodes: that stand in its place; none where it did nothing.
        proof: that they do the same.
        flushed: values that would have been subnormal, and are zero.
    """

    nodes: tuple[ir.Node, ...]
    proof: Proof
    flushed: int


class Writer:
    """Writes the nodes of one region; nothing is in the graph until :meth:`splice`.

    Args:
        region: as it was chosen.
        constants: of the graph.
        source: what stands now where the region's source stood.
    """

    def __init__(self, region: Region, constants: Constants, source: ir.Value) -> None:
        self.region, self.constants, self.source = region, constants, source
        self.nodes: list[ir.Node] = []
        self.made: list[ir.Value] = []
        self.flushed = 0
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def write(self) -> None:
        """Make the nodes.

        Raises:
            NotFusibleError: a weight does not fit the dtype, or is not finite.
            NotEquivalentError: the numbers are not of what was foreseen.
        """
        form = self.region.form
        self.dtype = _float_of(self.region)
        numbers = numbers_of(form)
        _audit(form, numbers)
        if isinstance(numbers, Conv):
            if form.shaped.geometry is not None and form.shaped.geometry.kernel:
                self._conv(numbers)
            else:
                self._linear(numbers, form)
        elif isinstance(numbers, Kept):
            self._kept(numbers, form)
        else:
            self._pointwise(numbers, form)

    def prove(self) -> Proof:
        """Return whether the nodes do what the region does.

        Raises:
            NotFusibleError: there is no saying.
        """
        try:
            return prove(
                self.region.nodes, self.nodes, self.source, self.region.output, self._result(),
                opset=self.constants.opset, stored=self.dtype.name, shape=_shape_of(self.region),
                exact=self.constants.unrounded(self.region.nodes),
            )  # fmt: skip
        except NotEvaluableError as error:
            raise NotFusibleError(
                f"what makes '{self.region.output.name}' cannot be proved equal", found=str(error)
            ) from error

    def splice(self, graph: ir.Graph) -> ir.Value:
        """Put the nodes in the place of the region; return the value that they make."""
        output, result = self.region.output, self._result()
        if self.nodes:
            graph.insert_before(self.region.nodes[-1], self.nodes)
            result.shape, result.type = output.shape, output.type
        name, is_output = output.name, output.is_graph_output()
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        for node in reversed(self.region.nodes):
            graph.remove(node, safe=True)
        if self.nodes or is_output:
            result.name = name
        return result

    def discard(self, graph: ir.Graph) -> None:
        """Take the new constants out again."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        for value in self.made:
            graph.initializers.pop(value.name or "", None)

    def _result(self) -> ir.Value:
        return self.nodes[-1].outputs[0] if self.nodes else self.source

    def _node(
        self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: int | Sequence[int]
    ) -> ir.Value:
        import onnx_ir

        base = self.region.output.name or op_type
        last = self.region.nodes[-1]
        node = onnx_ir.Node(
            "",
            op_type,
            inputs,
            [
                onnx_ir.AttrInt64(key, value)
                if isinstance(value, int)
                else onnx_ir.AttrInt64s(key, value)
                for key, value in attributes.items()
            ],
            name=self.constants.unused_node(last.name or base),
        )
        made, output = node.outputs[0], self.region.output
        made.name = self.constants.unused(f"{base}.{op_type.lower()}")
        made.type = output.type  # a product before its sum has type and shape of the sum
        made.shape = None if output.shape is None else output.shape.copy()
        self.nodes.append(node)
        return made

    def _constant(self, what: str, array: Array) -> ir.Value:
        """Return an initializer with these numbers; one that the region reads keeps its name."""
        stored, flushed = round_once(array, self.dtype)
        held = self._held(stored)
        if held is not None:
            return held
        self.flushed += flushed
        base = f"{self.region.output.name}.{what}"
        value = self.constants.register(base, stored, exact=array)
        self.made.append(value)
        return value

    def _held(self, stored: Array) -> ir.Value | None:
        """Return a constant that the region reads and that is the same, bit for bit."""
        for value in (value for node in self.region.nodes for value in node.inputs):
            if value is None or self.constants.shape(value) != stored.shape:
                continue
            found = self.constants.get(value)
            if found is not None and found.dtype == stored.dtype and _same_bits(found, stored):
                return value
        return None

    def _conv(self, conv: Conv) -> None:
        inputs = [self.source, self._constant("weight", conv.weight)]
        if conv.bias.any():
            inputs.append(self._constant("bias", conv.bias))
        pads = [pair[0] for pair in conv.padding] + [pair[1] for pair in conv.padding]
        self._node(
            "Conv", inputs, kernel_shape=list(conv.kernel), strides=list(conv.stride),
            dilations=list(conv.dilation), pads=pads, group=conv.groups,
        )  # fmt: skip

    def _linear(self, conv: Conv, form: Form) -> None:
        matrix = conv.weight[..., 0]
        if is_gemm(form):
            held = self._held(round_once(matrix.T, self.dtype)[0])
            weight = self._constant("weight", matrix) if held is None else held
            inputs = [self.source, weight]
            if conv.bias.any() or self.constants.opset < 11:
                inputs.append(self._constant("bias", conv.bias))
            self._node("Gemm", inputs, transB=int(held is None))
            return
        product = self._node("MatMul", [self.source, self._constant("weight", matrix.T)])
        if conv.bias.any():
            self._node("Add", [product, self._constant("bias", conv.bias)])

    def _kept(self, numbers: Kept, form: Form) -> None:
        first = next(part.node for part in form.behind() if part.shaped.opaque and part.cost)
        assert first is not None
        inputs = [self.source, self._constant("weight", numbers.weight)]
        if numbers.bias.any():
            inputs.append(self._constant("bias", numbers.bias))
        value = self._node(first.op_type, inputs)
        node = value.producer()
        assert node is not None
        for attribute in first.attributes.values():
            node.attributes.add(attribute)

    def _pointwise(self, numbers: Pointwise, form: Form) -> None:
        value, rank = self.source, readers.rank_of(self.source)
        axis = form.shaped.axis
        trailing = 0 if axis is None or rank is None else rank - axis - 1

        def operand(what: str, array: Array) -> ir.Value:
            shape = (array.size, *(1,) * trailing) if array.ndim else ()
            return self._constant(what, np.asarray(array).reshape(shape))

        left = numbers.stored(self.dtype)
        if (left.scale != 1).any():
            value = self._node("Mul", [value, operand("scale", numbers.scale)])
        if (left.shift != 0).any():
            self._node("Add", [value, operand("shift", numbers.shift)])
        if not self.nodes and needs_a_node(self.source, self.region.output):
            self._node("Identity", [value])


def _same_bits(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    bits = f"u{one.dtype.itemsize}"
    first, second = np.ravel(one).view(bits), np.ravel(other).view(bits)
    # most that differ do so at once, and the rest need not be looked at
    return np.array_equal(first[:64], second[:64]) and np.array_equal(first, second)


def _audit(form: Form, numbers: Numbers) -> None:
    """Hold the numbers against what was foreseen without them.

    Raises:
        NotEquivalentError: they differ; nothing is swapped then.
    """
    geometry = form.shaped.geometry
    if isinstance(numbers, Conv) and geometry is not None:
        found = Geometry.of(numbers)
        if not geometry.kernel:
            one = (1,)
            geometry = Geometry(
                geometry.in_channels,
                geometry.out_channels,
                one,
                one,
                one,
                ((0, 0),),
                geometry.groups,
            )
        if found == geometry:
            return
        raise NotEquivalentError(
            "the convolution computed is not the one foreseen",
            found=f"{found}; foreseen {geometry}",
        )
    if (geometry is None) == isinstance(numbers, Conv):
        raise NotEquivalentError("there is a kernel where none was foreseen, or none where one was")


def _float_of(region: Region) -> np.dtype[Any]:
    for value in (region.output, region.form.source):
        if value.dtype is not None:
            dtype: np.dtype[Any] = value.dtype.numpy()
            if dtype.name in FLOATS:
                return dtype
            raise NotFusibleError(
                f"the dtype of '{value.name}' is not one that weights are kept in",
                found=f"{dtype.name}; needed: one of {', '.join(FLOATS)}",
            )
    raise NotFusibleError(f"the dtype of '{region.output.name}' is not known")


def _shape_of(region: Region) -> tuple[int | None, ...]:
    """Return the shape of the source, as far as the graph or the form tells."""
    source, shaped = region.form.source, region.form.shaped
    if source.shape is not None:
        known = [size if isinstance(size, int) else None for size in source.shape]
    else:
        axes = len(shaped.geometry.kernel) if shaped.geometry is not None else 0
        known = [None] * (2 + axes)
    if shaped.geometry is not None and shaped.axis is not None and shaped.axis < len(known):
        known[shaped.axis] = shaped.geometry.in_channels
    return tuple(known)
