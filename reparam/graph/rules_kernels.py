"""The laws of nodes that have a kernel: convolutions, linear layers, pooling and padding."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from reparam.conv.geometry import Geometry
from reparam.conv.operators import Conv
from reparam.errors import NotFusibleError
from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.forms import Opaque
from reparam.graph.laws import Convolving, Keeping
from reparam.graph.numbers import Kept

if TYPE_CHECKING:
    import onnx_ir as ir


def convolution(node: ir.Node, constants: Constants) -> Convolving | Keeping | None:
    """Return the law of a Conv with constant weights."""
    weight, bias = _weights(node, constants)
    shape = constants.shape(weight)
    if weight is None or shape is None:
        raise NotFusibleError("the weight of the convolution is not a constant")
    if not 3 <= len(shape) <= 5 or 0 in shape:
        raise NotFusibleError(f"a convolution with a weight of shape {shape}")
    axes, groups = len(shape) - 2, readers.integer(node, "group", 1)
    dilation = readers.dilation_of(node, shape[2:])
    stride = readers.per_axis(node, "strides", axes)
    extent = tuple((k - 1) * d + 1 for k, d in zip(shape[2:], dilation, strict=True))
    pads = readers.padding_of(node, extent, stride)
    if pads is None:
        return _keeping(node, constants, shape[0])
    geometry = Geometry(shape[1] * groups, shape[0], shape[2:], stride, dilation, pads, groups)

    def make() -> Conv:
        added = None if bias is None else constants.exact(bias)
        return Conv.of(
            constants.exact(weight), added,
            stride=stride, dilation=dilation, padding=pads, groups=groups,
        )  # fmt: skip

    return Convolving(geometry, make, _is_zero(bias, constants), macs=geometry.macs)


def _weights(node: ir.Node, constants: Constants) -> tuple[ir.Value | None, ir.Value | None]:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not constants.known(bias):
        raise NotFusibleError("the bias is not a constant")
    return node.inputs[1], bias


def _is_zero(bias: ir.Value | None, constants: Constants) -> bool:
    return bias is None or not constants.exact(bias).any()


def transposed_convolution(node: ir.Node, constants: Constants) -> Keeping | None:
    """Return the law of a ConvTranspose with constant weights."""
    weight, _ = _weights(node, constants)
    shape = constants.shape(weight)
    if weight is None or shape is None or len(shape) < 3 or 0 in shape:
        raise NotFusibleError("the weight of the transposed convolution is not a constant")
    out = shape[1] * readers.integer(node, "group", 1)
    return _keeping(node, constants, out)


def _keeping(node: ir.Node, constants: Constants, out: int) -> Keeping:
    """Return the law of a convolution whose geometry is left as it is."""
    weight, bias = _weights(node, constants)
    shape = constants.shape(weight)
    assert weight is not None  # the caller has looked
    assert shape is not None
    # Weights of equal shape with equal attributes are added one to one.
    attributes = sorted((name, str(a.value)) for name, a in node.attributes.items())
    key = (node.op_type, shape, *attributes)

    def make() -> Kept:
        added = np.zeros(out) if bias is None else constants.exact(bias)
        groups = readers.integer(node, "group", 1)
        return Kept(constants.exact(weight), added, groups, node.op_type == "ConvTranspose")

    return Keeping(Opaque(key, prod(shape)), make, _is_zero(bias, constants))


def gemm(node: ir.Node, constants: Constants) -> Convolving | None:
    """Return the law of a Gemm whose second operand is constant: a linear layer."""
    weight, bias = _weights(node, constants)
    shape = constants.shape(weight)
    if readers.integer(node, "transA", 0) or constants.known(node.inputs[0]):
        raise NotFusibleError("the first operand of the Gemm is not a batch of rows")
    if weight is None or shape is None or len(shape) != 2 or 0 in shape:
        raise NotFusibleError("the weight of the linear layer is not a constant")
    turned = readers.integer(node, "transB", 0)
    out, into = shape if turned else shape[::-1]
    if bias is not None and (constants.shape(bias) or ()) not in (
        (),
        (1,),
        (out,),
        (1, out),
        (1, 1),
    ):
        raise NotFusibleError("what the Gemm adds is another number for each row")
    alpha, beta = readers.number(node, "alpha", 1.0), readers.number(node, "beta", 1.0)

    def make() -> Conv:
        array = constants.exact(weight)
        added = np.zeros(1) if bias is None else beta * constants.exact(bias).reshape(-1)
        rows = array if turned else array.T
        return Conv.of(alpha * rows[..., None], np.broadcast_to(added, (out,)))

    zero = _is_zero(bias, constants) or beta == 0
    return Convolving(_linear(into, out), make, zero, axis=1, macs=into * out)


def matmul(node: ir.Node, constants: Constants) -> Convolving | None:
    """Return the law of a MatMul with a constant matrix on the right: a linear layer."""
    value, weight = node.inputs
    shape = constants.shape(weight)
    if weight is None or shape is None or constants.known(value):
        return None
    if len(shape) != 2 or 0 in shape:
        raise NotFusibleError(f"a product with a constant of shape {shape} is no linear layer")
    rank = readers.rank_of(value)
    if rank is None or rank < 2:
        raise NotFusibleError("a product with a value whose axes are not known")
    into, out = shape
    return Convolving(
        _linear(into, out),
        lambda: Conv.of(constants.exact(weight).T[..., None]),
        zero_bias=True, axis=rank - 1, macs=into * out,
    )  # fmt: skip


def _linear(into: int, out: int) -> Geometry:
    return Geometry(into, out, (), (), (), (), 1)


def average_pool(node: ir.Node, _: Constants) -> Convolving | None:
    """Return the law of an AveragePool in which every tap counts alike.

    Exact when: padding counts in the mean or there is none, and no window is cut off at the end.
    """
    kernel = readers.integers(node, "kernel_shape") or ()
    axes, channels = len(kernel), readers.size_of(node.inputs[0], 1)
    stride = readers.per_axis(node, "strides", axes)
    dilation = readers.dilation_of(node, kernel)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    pads = readers.padding_of(node, extent, stride)
    if pads is None:
        raise NotFusibleError("how much is padded depends on the size, which is not known")
    if any(map(any, pads)) and not readers.integer(node, "count_include_pad", 0):
        raise NotFusibleError(
            "average pooling that leaves padding out of the mean is not a convolution",
            why="windows at the border divide by fewer taps than those inside",
        )
    if readers.integer(node, "ceil_mode", 0) and not _divides(node, extent, stride, pads):
        raise NotFusibleError(
            "average pooling with ceil_mode may cut its last window off",
            why="such a window divides by fewer taps than the others",
        )
    if channels is None or not 1 <= axes <= 3:
        raise NotFusibleError("the channels of what is pooled are not known")
    geometry = Geometry(channels, channels, kernel, stride, dilation, pads, channels)

    def make() -> Conv:
        weight = np.full((channels, 1, *kernel), 1.0 / prod(kernel))
        return Conv.of(weight, stride=stride, dilation=dilation, padding=pads, groups=channels)

    return Convolving(geometry, make, zero_bias=True)


def _divides(
    node: ir.Node, extent: tuple[int, ...], stride: tuple[int, ...], pads: readers.Padding
) -> bool:
    sizes = [readers.size_of(node.inputs[0], 2 + axis) for axis in range(len(extent))]
    return all(
        size is not None and (size + sum(pair) - reach) % step == 0
        for size, reach, step, pair in zip(sizes, extent, stride, pads, strict=True)
    )
