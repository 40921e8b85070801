"""What every graph of the tests is made of: values, weights of any kind, nodes, the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graph.truth import Array, Quantity, constant, fed, run_node

DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
WEIGHTS = ("initializer", "constant", "identity", "reshape", "transpose", "cast", "chain")
"""How a weight is given. Two more are no constants: "overridable", an initializer that is also an
input of the graph, and "fed", an input alone."""

_SIZES = {"first": (2, 13, 12, 11), "second": (3, 18, 15, 17)}  # of open axes, by their place


class Value(str):
    """The name of a value; its repr is the name alone, so that calls print as a program."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class GraphBase:
    """A graph under construction.

    Every node is evaluated at once on a seeded probe, so shapes are known without formulas.
    Weights are drawn for each call from the seed and the number of the call.

    Args:
        opset: 9 to 21; operators take the form they have there.
        seed: of weights and probes.
        dtype: of inputs and weights: float32, float16, bfloat16.
        weights: how weights are given, one of ``WEIGHTS``.
    """

    def __init__(
        self, opset: int = 17, seed: int = 0, dtype: str = "float32", weights: str = "initializer"
    ) -> None:
        self.opset, self.seed, self.dtype, self.weights = opset, seed, dtype, weights
        self.nodes: list[Any] = []
        self.quantities: dict[str, Quantity] = {}
        self.initializers: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        self.outputs: list[str] = []
        self._fed_weights: dict[str, Array] = {}
        self._types: dict[str, int] = {}
        self._count = 0
        self._draws = 0

    # values

    def input(self, name: str, shape: Sequence[int | str | None], dtype: str = "") -> Value:
        """Declare an input; None and names are open axes."""
        axes = [f"{name}_{i}" if n is None else n for i, n in enumerate(shape)]
        kind = TensorProto.BOOL if dtype == "bool" else DTYPES[dtype or self.dtype]
        self.inputs[name] = helper.make_tensor_value_info(name, kind, axes)
        probe = self.feeds(only=name)[name]
        self.quantities[name] = fed(probe)
        self._types[name] = kind
        return Value(name)

    def shape(self, value: str) -> tuple[int, ...]:
        """Return the shape of a value on the first probe."""
        return tuple(self.quantities[value].value.shape)

    def channels(self, value: str, axis: int = 1) -> int:
        return self.shape(value)[axis]

    def output(self, *values: str) -> None:
        """Make values outputs of the graph, interior ones too."""
        self.outputs += values

    def node(self, op: str, *inputs: Any, count: int = 1, **attributes: Any) -> Any:
        """Add a node of any operator; arrays and numbers become weights.

        Returns:
            Its output, or a tuple of ``count`` outputs.
        """
        names = [self.constant(part) if _is_number(part) else part or "" for part in inputs]
        while names and not names[-1]:
            names.pop()
        outputs = [self._name() for _ in range(count)]
        made = helper.make_node(op, names, outputs, name=f"{op}_{len(self.nodes)}", **attributes)
        given = [self.quantities[name] if name else None for name in names]
        self.nodes.append(made)
        results = run_node(made, given, self.opset, self.quantities)
        self.quantities.update(zip(outputs, results, strict=False))
        return outputs[0] if count == 1 else tuple(outputs)

    @property
    def open_axes(self) -> bool:
        """Whether an input has axes of open size."""
        kinds = (value.type.tensor_type.shape.dim for value in self.inputs.values())
        return any(axis.dim_param for axes in kinds for axis in axes)

    # weights

    def rng(self) -> np.random.Generator:
        self._draws += 1
        return np.random.default_rng((self.seed, self._draws))

    def weight(self, shape: int | Sequence[int], kind: str = "") -> Value:
        """Return a seeded normal weight, of about one for a sum over all axes but the first."""
        axes = (shape,) if isinstance(shape, int) else tuple(shape)
        spread = np.sqrt(max(1.0, float(np.prod(axes[1:]))))
        return self.constant(self.rng().normal(size=axes) / spread, kind)

    def constant(self, array: Any, kind: str = "", dtype: str = "") -> Value:
        """Return a weight with the given numbers, given to the graph as ``kind`` says."""
        kind, array = kind or self.weights, np.asarray(array)
        if array.dtype.kind in "iub":
            return self._stored(array.astype(np.int64) if array.dtype.kind != "b" else array, kind)
        array = array.astype(_numpy_type(dtype or self.dtype))
        if kind == "identity":
            return self.node("Identity", self._stored(array))
        if kind == "reshape":
            return self.node("Reshape", self._stored(array.reshape(-1)), _shape_of(array))
        if kind == "transpose" and array.ndim:
            return self.node("Transpose", self._stored(array.T), perm=[*range(array.ndim)][::-1])
        if kind == "cast":
            return self._cast(array)
        if kind == "chain":
            flat = self.node("Transpose", self._stored(array.reshape(1, -1).T, "constant"),
                             perm=[1, 0])  # fmt: skip
            return self.node("Identity", self.node("Reshape", flat, _shape_of(array)))
        plain = kind if kind in ("constant", "overridable", "fed") else "initializer"
        return self._stored(array, plain)

    def _cast(self, array: Array) -> Value:
        """A weight stored in half the bits, or in twice as many where it already has half."""
        narrow = np.float16 if self.dtype == "float32" else np.float32
        stored = self._stored(array.astype(narrow))
        return self.node("Cast", stored, to=DTYPES[self.dtype])

    def _stored(self, array: Array, kind: str = "initializer") -> Value:
        name = self._name()
        tensor = numpy_helper.from_array(array, name) if array.dtype != _numpy_type(
            "bfloat16") else _bfloat16(array, name)  # fmt: skip
        self.quantities[name] = constant(array)
        if kind == "constant":
            made = helper.make_node("Constant", [], [name], name=f"Constant_{name}", value=tensor)
            self.nodes.append(made)
            return name
        if kind in ("overridable", "fed"):
            shape = list(array.shape)
            self.inputs[name] = helper.make_tensor_value_info(name, tensor.data_type, shape)
            self.quantities[name] = fed(array)
        if kind == "fed":
            self._fed_weights[name] = array
        else:
            self.initializers[name] = tensor
        return name

    def _name(self) -> Value:
        self._count += 1
        return Value(f"v{self._count}")

    # the model

    def model(self) -> onnx.ModelProto:
        """Return the model; the checker has seen it, shapes and types included."""
        kinds = self._output_types()
        outputs = [helper.make_tensor_value_info(name, kinds[name], None) for name in self.outputs]
        graph = helper.make_graph(
            self.nodes, "built", list(self.inputs.values()), outputs,
            list(self.initializers.values()),
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset)]
        ir_version = max(4, helper.find_min_ir_version_for(opsets))
        made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        inferred = onnx.shape_inference.infer_shapes(made).graph.output
        for place, value in enumerate(inferred):
            made.graph.output[place].CopyFrom(value)
            # Names that inference made up: onnxruntime makes up the same ones for other sizes.
            for axis in made.graph.output[place].type.tensor_type.shape.dim:
                if axis.dim_param.startswith("unk__"):
                    axis.Clear()
        onnx.checker.check_model(made, full_check=self.dtype != "bfloat16")
        return made

    def ir(self) -> Any:
        """Return the model as an ``onnx_ir.Model``."""
        import onnx_ir

        return onnx_ir.serde.deserialize_model(self.model())

    def _output_types(self) -> dict[str, int]:
        return {
            name: self._types.get(name, DTYPES[self.dtype])
            if self.quantities[name].value.dtype.kind == "f"
            else TensorProto.INT64
            for name in self.outputs
        }

    def feeds(self, probe: str = "first", only: str = "") -> dict[str, Array]:
        """Return a seeded normal value for every input that needs one.

        Args:
            probe: "first" or "second": which sizes open axes take.
            only: the one input that is wanted.
        """
        names = [only] if only else [n for n in self.inputs if n not in self.initializers]
        return {name: self._feed(name, probe) for name in names}

    def _feed(self, name: str, probe: str) -> Array:
        if name in self._fed_weights:
            return self._fed_weights[name]
        tensor = self.inputs[name].type.tensor_type
        shape = [
            axis.dim_value if axis.HasField("dim_value") else _SIZES[probe][min(place, 3)]
            for place, axis in enumerate(tensor.shape.dim)
        ]
        if tensor.elem_type == TensorProto.BOOL:
            return np.array(True)
        seed = (self.seed, len(name), *name.encode(), len(probe))
        kind = next(k for k, v in DTYPES.items() if v == tensor.elem_type)
        return np.random.default_rng(seed).normal(size=shape).astype(_numpy_type(kind))


def _is_number(part: Any) -> bool:
    return isinstance(part, int | float | np.ndarray | np.generic | list | tuple)


def _shape_of(array: Array) -> Array:
    return np.array(array.shape, np.int64)


def _numpy_type(dtype: str) -> Any:
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def _bfloat16(array: Array, name: str) -> Any:
    raw = array.view(np.uint16).tobytes()
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, raw, raw=True)


def op_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Return the nodes of each operator in the graph, Constant aside."""
    ops: Iterable[str] = (node.op_type for node in model.graph.node if node.op_type != "Constant")
    counts: dict[str, int] = {}
    for op in ops:
        counts[op] = counts.get(op, 0) + 1
    return counts


def described(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {op}" for op, count in sorted(counts.items()))
