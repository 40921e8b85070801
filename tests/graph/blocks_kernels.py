"""Blocks of kernels of several sizes: RepLKNet, UniRepLKNet, ACNet, DBB, OREPA, ECB, RepNeXt."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.graph.builder import GraphBuilder, Value
from tests.graph.cases import Build, Registry, conv_bn

KERNELS = Registry()
block = KERNELS.add

_IMAGE = (None, 8, None, None)


@block("ReparamLargeKernelConv", "16", "2 Conv, 2 BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 0, 13), conv_bn(g, x, 0, 5)))


@block("ReparamLargeKernelConv of timm, squeeze-excite and GELU", "16b",
       "4 Conv, 2 BN, 2 Add, GAP, Relu, Sigmoid, 3 Mul, Div, Erf",
       "3 Conv, Add, GAP, Relu, Sigmoid, 3 Mul, Div, Erf")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 20, 20))
    y = g.add(conv_bn(g, x, 0, 7, stride=2), conv_bn(g, x, 0, 3, stride=2))
    g.output(g.gelu(g.squeeze_excite(y)))


_DILATED = {  # kernel: the smaller kernels beside it, (size, dilation)
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}


def _dilated(size: int, outer: bool) -> Build:
    def build(g: GraphBuilder) -> None:
        x = g.input("x", _IMAGE)
        branches = [conv_bn(g, x, 0, size)]
        for kernel, dilation in _DILATED[size]:
            branches.append(conv_bn(g, x, 0, kernel, dilation=dilation))
        y = g.add(*branches)
        g.output(g.bn(y) if outer else y)

    return build


for _size, _more in _DILATED.items():
    _convs = len(_more) + 1
    KERNELS.add(f"DilatedReparamBlock {_size}", "17b",
                f"{_convs} Conv, {_convs} BN, {_convs - 1} Add", "Conv",
                )(_dilated(_size, outer=False))  # fmt: skip
KERNELS.add("UniRepLKNet's block, norm behind it", "17", "6 Conv, 7 BN, 5 Add", "Conv")(
    _dilated(13, outer=True)
)


def cross(g: GraphBuilder, x: Value, size: int = 3, stride: int = 1, padding: int = 1) -> Value:
    """A square, a column and a row, each with its BatchNorm."""
    less = padding - size // 2
    square = g.bn(g.conv(x, 8, size, padding=padding, stride=stride))
    column = g.bn(g.conv(x, 8, (size, 1), padding=(padding, less), stride=stride))
    row = g.bn(g.conv(x, 8, (1, size), padding=(less, padding), stride=stride))
    return g.add(square, column, row)


@block("ACBlock", "18", "3 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(cross(g, g.input("x", _IMAGE))))


@block("ACBlock, padding wider than the kernel", "18", "3 Conv, 3 BN, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    g.output(cross(g, g.input("x", _IMAGE), padding=2, stride=2))


@block("ACBlock that crops", "18", "3 Conv, 3 BN, 2 Slice, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    column = g.bn(g.conv(g.slice(x, 1, -1, axis=3), 8, (3, 1)))
    row = g.bn(g.conv(g.slice(x, 1, -1, axis=2), 8, (1, 3)))
    g.output(g.add(g.bn(g.conv(x, 8, 3)), column, row))


@block("ACBlock of PaddleSlim", "18b", "3 Conv, 3 BN, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    g.output(cross(g, g.input("x", _IMAGE), 5, padding=2))


def equal_shift(g: GraphBuilder, x: Value, value: float) -> Value:
    """A BatchNorm whose shift is the same number for all channels."""
    gamma, _, _, variance = g.norm_parameters(g.channels(x))
    beta, mean = (g.constant(np.full(g.channels(x), n)) for n in (value, 0.0))
    return g.bn(x, parameters=(gamma, beta, mean, variance))


@block("DiverseBranchBlock, one number around", "19",
       "5 Conv, 6 BN, 2 Pad, AveragePool, 3 Add, Relu", "Conv, Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    first = g.pad(equal_shift(g, g.conv(x, 8, 1), 0.5), 1, value=0.5)
    second = g.pad(equal_shift(g, g.conv(x, 8, 1), -0.25), 1, value=-0.25)
    wide = g.bn(g.conv(first, 8, 3))
    mean = g.bn(g.average_pool(second, 3))
    g.output(g.relu(g.add(conv_bn(g, x, 8, 3), conv_bn(g, x, 8, 1), wide, mean)))


def border(g: GraphBuilder, y: Value, shift: np.ndarray, *, scattered: bool) -> Value:
    """BNAndPadLayer of DBB: ``shift`` around ``y`` (1, 8, 6, 6), written into a zero border."""
    if not scattered:
        side, top = (np.broadcast_to(shift.reshape(1, 8, 1, 1), (1, 8, *size))
                     for size in ((6, 1), (1, 8)))  # fmt: skip
        rows = g.concat(g.constant(side), y, g.constant(side), axis=3)
        return g.concat(g.constant(top), rows, g.constant(top), axis=2)
    padded = g.pad(y, 1)
    grid = np.stack(np.meshgrid([0], range(8), range(8), range(8), indexing="ij"), -1)
    for cut in ((slice(0, 1), ...), (slice(7, 8), ...)):
        rows = grid[:, :, cut[0]]
        columns = grid[:, :, :, cut[0]]
        for indices in (rows, columns):
            values = np.broadcast_to(shift.reshape(1, 8, 1, 1), indices.shape[:-1])
            index = g.constant(indices.copy(), "initializer")
            padded = g.node("ScatterND", padded, index, g.constant(values.copy()))
    return padded


def padded_with_its_bias(g: GraphBuilder, *, scattered: bool) -> None:
    x = g.input("x", (1, 8, 6, 6))
    shift = g.rng().normal(size=8)
    bias = g.constant(shift)
    y = border(g, g.conv(x, 8, 1, bias=bias), shift, scattered=scattered)
    g.output(g.add(conv_bn(g, x, 8, 3), g.bn(g.conv(y, 8, 3))))


@block("DiverseBranchBlock, a border of constants", "19", "3 Conv, 2 BN, 2 Concat, Add", "Conv")
def _(g: GraphBuilder) -> None:
    padded_with_its_bias(g, scattered=False)


@block("DiverseBranchBlock, a border written by ScatterND", "19",
       "3 Conv, 2 BN, Pad, 4 ScatterND, Add", "Conv", since=11)  # fmt: skip
def _(g: GraphBuilder) -> None:
    padded_with_its_bias(g, scattered=True)


@block("DiverseBranchBlock, nothing padded", "19", "4 Conv, 5 BN, AveragePool, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(g.bn(g.conv(x, 8, 1)), 8, 3))
    mean = g.bn(g.average_pool(g.bn(g.conv(x, 8, 1)), 3))
    g.output(g.add(g.bn(g.conv(x, 8, 3)), wide, mean))


@block("DiverseBranchBlock, depthwise, average", "19", "Conv, 2 BN, AveragePool, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 0, 3), g.bn(g.average_pool(x, 3, padding=1))))


@block("IdentityBasedConv1x1: a kernel plus the identity", "19b", "Conv, BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    unit = g.constant(np.eye(8).reshape(8, 8, 1, 1))
    weight = g.add(g.weight((8, 8, 1, 1)), unit)
    g.output(g.bn(g.conv(x, weight=weight)))


def _weighted(g: GraphBuilder, size: int = 3) -> Value:
    """OREPA's kernel: several kernels, each times a number for each output, added."""
    parts = []
    for _ in range(3):
        factor = g.reshape(g.weight(8), [8, 1, 1, 1])
        parts.append(g.mul(g.weight((8, 8, size, size)), factor))
    return g.add(*parts)


@block("OREPA", "30", "Conv, BN, 3 Mul, 2 Add, 3 Reshape, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.bn(g.conv(x, weight=_weighted(g), padding=1))))


@block("RepConv_OREPA of YOLOv7", "30",
       "2 Conv, 3 BN, 4 Mul, 4 Add, 3 Reshape, Sigmoid", "Conv, Mul, Sigmoid")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(x, weight=_weighted(g), padding=1), 1e-3)
    g.output(g.silu(g.add(wide, conv_bn(g, x, 8, 1, epsilon=1e-3), g.bn(x, 1e-3))))


_MASKS = {
    "sbx": [[1, 0, -1], [2, 0, -2], [1, 0, -1]],
    "sby": [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
    "lpl": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
}


def ecb(g: GraphBuilder, x: Value) -> Value:
    """The sum of ECBSR's five branches; every bias before a kernel is one number, and padded."""
    branches = [g.conv(x, 8, 3, padding=1, bias=True)]
    first = g.constant(np.full(16, 0.25))
    wide = g.pad(g.conv(x, 16, 1, bias=first), 1, value=0.25)
    branches.append(g.conv(wide, 8, 3, bias=True))
    for value, mask in zip((0.5, -0.5, 2.0), _MASKS.values(), strict=True):
        shift = g.constant(np.full(8, value))
        padded = g.pad(g.conv(x, 8, 1, bias=shift), 1, value=value)
        each = np.tile(np.array(mask, np.float32), (8, 1, 1, 1))
        weight = g.mul(g.weight((8, 1, 1, 1)), g.constant(each))
        branches.append(g.conv(padded, weight=weight, bias=g.weight(8), groups=8))
    return g.add(*branches)


@block("ECB, one number around", "31", "9 Conv, 4 Pad, 3 Mul, 4 Add, PRelu", "Conv, PRelu")
def _(g: GraphBuilder) -> None:
    y = ecb(g, g.input("x", _IMAGE))
    g.output(g.node("PRelu", y, g.constant(np.full((8, 1, 1), 0.1))))


@block("ECB with the input beside", "31", "9 Conv, 4 Pad, 3 Mul, 5 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(ecb(g, x), x))


@block("ECB as evaluated: kernels computed from constants", "31",
       "3 Conv, Transpose, Mul, Reshape, 3 Add", "Conv")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point, wide = g.weight((16, 8, 1, 1)), g.weight((8, 16, 3, 3))
    kernel = g.conv(wide, weight=g.transpose(point, [1, 0, 2, 3]))
    shift = g.constant(np.arange(16.0).reshape(1, 16, 1, 1) / 8)
    shifted = g.mul(g.constant(np.ones((1, 16, 3, 3))), shift)
    bias = g.add(g.reshape(g.conv(shifted, weight=wide), [-1]), g.weight(8))
    weight = g.add(g.weight((8, 8, 3, 3)), kernel)
    g.output(g.conv(x, weight=weight, bias=g.add(g.weight(8), bias), padding=1))


@block("RepMLP, its convolutions", "32", "4 Conv, 4 BN, 3 Add, 2 Reshape",
       "2 Conv, Add, 2 Reshape")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 7, 7))
    flat = g.reshape(x, [1, 8 * 49, 1, 1])
    full = g.reshape(g.bn(g.conv(flat, 8 * 49, 1, groups=8)), [1, 8, 7, 7])
    kernels = g.add(*(conv_bn(g, x, 0, kernel) for kernel in (1, 3, 5)))
    g.output(g.add(full, kernels))


def _spatial(g: GraphBuilder, x: Value, *kernel: int, **more: Any) -> Value:
    return g.depthwise(x, kernel, padding=[k // 2 for k in kernel], **more)


def _row_then_column(g: GraphBuilder, x: Value, size: int) -> Value:
    return _spatial(g, _spatial(g, x, 1, size), size, 1)


@block("RepDWConvS of RepNeXt", "35", "4 Conv, 3 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    branches = [_spatial(g, x, *kernel, bias=True) for kernel in ((3, 3), (1, 3), (3, 1))]
    g.output(g.add(*branches, g.depthwise(x, 2, dilation=2, padding=1, bias=True)))


@block("RepDWConvS of RepNeXt, stride 2", "35", "4 Conv, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = _spatial(g, x, 3, 3, bias=True, stride=2)
    rows = _spatial(g, _spatial(g, x, 1, 3, stride=(1, 2)), 3, 1, stride=(2, 1))
    g.output(g.add(wide, rows, g.depthwise(x, 2, dilation=2, padding=1, stride=2)))


@block("RepDWConvM of RepNeXt", "35", "7 Conv, 4 Add, BN", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    branches = [_spatial(g, x, *kernel, bias=True) for kernel in ((7, 7), (5, 3), (3, 5))]
    g.output(g.bn(g.add(*branches, _row_then_column(g, x, 7), _row_then_column(g, x, 5))))
