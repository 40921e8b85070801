"""Regions of a graph, built from blocks of the algebra: the old nodes, and the one new node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from reparam.conv import Affine, AvgPool, BatchNorm, Block, Conv, Identity, Parallel, Sequential
from reparam.conv.rounding import round_once
from reparam.graph.proving import Proof, prove

OPSET = 17


@dataclass
class Region:
    """Old nodes and new ones, both from ``source``.

    Attributes:
        shape: of the source; None is open.
        stored: dtype of the constants.
    """

    shape: tuple[int | None, ...]
    stored: str = "float32"
    opset: int = OPSET
    source: ir.Value = field(default_factory=lambda: ir.Value(name="source"))
    before: list[ir.Node] = field(default_factory=list)
    after: list[ir.Node] = field(default_factory=list)

    def constant(self, array: Any, dtype: str | None = None) -> ir.Value:
        values = np.asarray(array)
        if values.dtype.kind == "f":
            values, _ = round_once(values.astype(np.float64), _dtype(dtype or self.stored))
        return ir.Value(name="c", const_value=ir.tensor(values))

    def node(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Node:
        node = ir.node(operator, list(inputs), attributes)
        node.outputs[0].name = f"v{id(node)}"
        return node

    def old(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        self.before.append(self.node(operator, *inputs, **attributes))
        return self.before[-1].outputs[0]

    def new(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        self.after.append(self.node(operator, *inputs, **attributes))
        return self.after[-1].outputs[0]

    def proof(self, **options: Any) -> Proof:
        outputs = (nodes[-1].outputs[0] if nodes else self.source for nodes in
                   (self.before, self.after))  # fmt: skip
        return prove(
            self.before,
            self.after,
            self.source,
            *outputs,
            opset=self.opset,
            stored=self.stored,
            shape=self.shape,
            **options,
        )


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return name


def geometry(conv: Conv) -> dict[str, Any]:
    """Return the attributes of the Conv node that is ``conv``."""
    return {
        "strides": list(conv.stride),
        "dilations": list(conv.dilation),
        "pads": [p[0] for p in conv.padding] + [p[1] for p in conv.padding],
        "group": conv.groups,
    }


def emit(region: Region, block: Block, x: ir.Value, axes: int = 2) -> ir.Value:
    """Append the nodes of ``block`` to the old ones; return what they make of ``x``."""
    if isinstance(block, Sequential):
        for part in block.parts:
            x = emit(region, part, x, axes)
        return x
    if isinstance(block, Parallel):
        values = [emit(region, part, x, axes) for part in block.branches.values()]
        return values[0] if len(values) == 1 else region.old("Sum", *values)
    if isinstance(block, Conv):
        weight, bias = region.constant(block.weight), region.constant(block.bias)
        return region.old("Conv", x, weight, bias, **geometry(block))
    if isinstance(block, BatchNorm):
        arrays = (block.gamma, block.beta, block.mean, block.variance)
        constants = [region.constant(array) for array in arrays]
        return region.old("BatchNormalization", x, *constants, epsilon=block.epsilon)
    if isinstance(block, Affine):
        column = (-1,) + (1,) * axes
        scaled = region.old("Mul", x, region.constant(block.scale.reshape(column)))
        return region.old("Add", scaled, region.constant(block.shift.reshape(column)))
    if isinstance(block, AvgPool):
        pads = [p[0] for p in block.padding] + [p[1] for p in block.padding]
        return region.old(
            "AveragePool",
            x,
            kernel_shape=list(block.kernel),
            strides=list(block.stride),
            pads=pads,
            count_include_pad=int(block.count_include_pad),
        )
    assert isinstance(block, Identity)
    return region.old("Identity", x)


def stored_block(block: Block, dtype: str = "float32") -> Block:
    """Return ``block`` with the constants that a file of that dtype holds of it."""
    if isinstance(block, Sequential):
        return Sequential(*(stored_block(part, dtype) for part in block.parts))
    if isinstance(block, Parallel):
        return Parallel({name: stored_block(b, dtype) for name, b in block.branches.items()})
    names = {Conv: ("weight", "bias"), Affine: ("scale", "shift")}
    names |= {BatchNorm: ("gamma", "beta", "mean", "variance")}
    rounded = {
        name: round_once(getattr(block, name), _dtype(dtype))[0].astype(np.float64)
        for name in names.get(type(block), ())
    }
    if isinstance(block, BatchNorm):
        rounded["epsilon"] = float(np.float32(block.epsilon))
    return replace(block, **rounded) if rounded else block


def region_of(
    block: Block,
    fused: Conv,
    *,
    stored: str = "float32",
    sizes: Sequence[int | None] | None = None,
) -> Region:
    """Return the nodes of ``block``, and the Conv that is ``fused``, rounded to ``stored``."""
    axes = len(fused.kernel)
    region = Region((None, fused.in_channels, *(sizes or (None,) * axes)), stored)
    emit(region, block, region.source, axes)
    weight, bias = region.constant(fused.weight), region.constant(fused.bias)
    region.new("Conv", region.source, weight, bias, **geometry(fused))
    return region
