"""Depthwise blocks: MobileOne, RepMixer, RepViT, RepGhost, PP-LCNet and their kin."""

from __future__ import annotations

from typing import Any

from tests.graph.builder import GraphBuilder, Value
from tests.graph.cases import Registry, conv_bn

MOBILE = Registry()
block = MOBILE.add

_IMAGE = (None, 8, None, None)


def mobile_one(
    g: GraphBuilder, x: Value, out: int = 0, kernel: int = 3, many: int = 4, skip: bool = True,
    **geometry: Any,
) -> Value:  # fmt: skip
    """``many`` kernels, a 1x1 beside kernels that are larger, the input; each with a BatchNorm."""
    branches = [g.bn(x)] if skip else []
    if kernel > 1:
        branches.append(conv_bn(g, x, out, 1, **geometry))
    branches += [conv_bn(g, x, out, kernel, **geometry) for _ in range(many)]
    return g.add(*branches)


@block("MobileOne, depthwise", "13", "5 Conv, 6 BN, 5 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(mobile_one(g, g.input("x", _IMAGE))))


@block("MobileOne, depthwise, stride 2", "13", "5 Conv, 5 BN, 4 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(mobile_one(g, g.input("x", _IMAGE), skip=False, stride=2)))


@block("MobileOne, pointwise", "13", "4 Conv, 5 BN, 4 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(mobile_one(g, g.input("x", _IMAGE), 8, 1)))


@block("MobileOne of timm, norm only", "13b", "Conv, 2 BN, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(mobile_one(g, g.input("x", _IMAGE), many=0)))


@block("MobileOne of mmpretrain, squeeze-excite", "13c",
       "6 Conv, 5 BN, 4 Add, GAP, 2 Relu, Sigmoid, Mul",
       "3 Conv, GAP, 2 Relu, Sigmoid, Mul")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.squeeze_excite(mobile_one(g, g.input("x", _IMAGE), 8, many=3))))


@block("MobileOne of PaddleDetection", "13d", "6 Conv, 8 BN, 6 Add, 2 Relu", "2 Conv, 2 Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    deep = g.relu(mobile_one(g, x, many=2, bias=True))
    g.output(g.relu(mobile_one(g, deep, 8, 1, many=3, bias=True)))


def mixer(g: GraphBuilder, x: Value, factor: Value, **geometry: Any) -> Value:
    """x + factor * (mixer(x) - norm(x))"""
    mixed = mobile_one(g, x, many=1, **geometry)
    return g.add(x, g.mul(factor, g.sub(mixed, g.bn(x))))


@block("RepMixer of FastViT", "14", "2 Conv, 4 BN, 3 Add, Sub, Mul", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(mixer(g, x, g.per_channel(x)))


@block("RepMixer of timm, gamma reshaped", "14b", "2 Conv, 4 BN, 3 Add, Sub, Mul, Reshape", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    gamma = g.reshape(g.weight(8), [-1, 1, 1])
    g.output(mixer(g, x, gamma))


@block("RepMixer of MobileCLIP's text", "14c", "2 Conv, 4 BN, 3 Add, Sub, Mul", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 8, 1, 20))
    row = g.bn(g.depthwise(x, (1, 11), padding=(0, 5)))
    mixed = g.add(g.bn(x), g.bn(g.depthwise(x, (1, 1))), row)
    g.output(g.add(x, g.mul(g.per_channel(x), g.sub(mixed, g.bn(x)))))


@block("FastViT's first block", "14", "5 Conv, 5 BN, 5 Add, Sub, 4 Mul, Div, Erf",
       "4 Conv, 2 Add, 2 Mul, Div, Erf")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = mixer(g, x, g.per_channel(x))
    hidden = g.conv(conv_bn(g, y, 0, 7), 24, 1, bias=True)
    out = g.conv(g.gelu(hidden), 8, 1, bias=True)
    g.output(g.add(y, g.mul(g.per_channel(out), out)))


@block("RepCPE of FastViT", "15", "Conv, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(g.depthwise(x, 7, padding=3, bias=True), x))


@block("RepCPE of iFormer", "15", "Conv, BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(x, conv_bn(g, x, 0, 7)))


@block("RepVGGDW of RepViT", "20", "2 Conv, 2 BN, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.bn(g.add(conv_bn(g, x, 0, 3), g.depthwise(x, 1, bias=True), x)))


@block("RepVggDw of timm, legacy", "20b", "2 Conv, 2 BN, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 0, 3), conv_bn(g, x, 0, 1), x))


@block("RepDWConv of PP-LCNetV4", "20c", "2 Conv, 2 BN, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.bn(g.add(conv_bn(g, x, 0, 3), g.depthwise(x, 1), x)))


@block("Residual of RepViT", "21", "Conv, BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(x, conv_bn(g, x, 0, 3)))


def ghost(g: GraphBuilder, x: Value, *, norm: bool) -> Value:
    first = g.relu(conv_bn(g, x, 8, 1))
    beside = g.bn(first) if norm else first
    return g.relu(g.add(conv_bn(g, first, 0, 3), beside))


@block("RepGhost", "23", "2 Conv, 3 BN, Add, 2 Relu", "2 Conv, 2 Relu")
def _(g: GraphBuilder) -> None:
    g.output(ghost(g, g.input("x", _IMAGE), norm=True))


@block("RepGhost, bare identity", "23", "2 Conv, 2 BN, Add, 2 Relu", "2 Conv, 2 Relu")
def _(g: GraphBuilder) -> None:
    g.output(ghost(g, g.input("x", _IMAGE), norm=False))


@block("GhostNetV3", "24", "7 Conv, 8 BN, 6 Add, 2 Relu, Concat", "2 Conv, 2 Relu, Concat")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 12, None, None))
    first = g.relu(mobile_one(g, x, 8, 1, many=3, skip=False))
    cheap = g.relu(mobile_one(g, first, many=3))
    g.output(g.concat(first, cheap))


@block("GhostBottleneckV3, depthwise", "24", "4 Conv, 4 BN, 3 Add", "Conv")
def _(g: GraphBuilder) -> None:
    g.output(mobile_one(g, g.input("x", _IMAGE), many=3, skip=False, stride=2))


@block("PP-LCNetV2", "25", "4 Conv, 4 BN, 2 Add, 2 Relu", "2 Conv, 2 Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    deep = g.relu(g.add(*(conv_bn(g, x, 0, kernel) for kernel in (5, 3, 1))))
    g.output(g.relu(conv_bn(g, deep, 12, 1)))


@block("PP-LCNetV2, stride 2", "25", "2 Conv, 2 BN, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.add(*(conv_bn(g, x, 0, kernel, stride=2) for kernel in (5, 3)))))


def lab(g: GraphBuilder, x: Value) -> Value:
    """LearnableAffineBlock: scale * x + bias, a number each."""
    return g.add(g.mul(g.scalar(shape=[1]), x), g.scalar(shape=[1]))


@block("LearnableRepLayer of PP-LCNetV3", "26",
       "5 Conv, 6 BN, 7 Add, 3 Mul, HardSigmoid", "Conv, HardSigmoid, 2 Mul, Add")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = lab(g, mobile_one(g, g.input("x", _IMAGE)))
    g.output(lab(g, g.hard_swish(y)))


@block("LearnableRepLayer, stride 2", "26", "5 Conv, 5 BN, 5 Add, Mul", "Conv")
def _(g: GraphBuilder) -> None:
    g.output(lab(g, mobile_one(g, g.input("x", _IMAGE), skip=False, stride=2)))


@block("SlimRepBlock of PaddleSlim", "36", "5 Conv, 6 BN, 5 Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    column = g.bn(g.conv(x, 8, (3, 1), padding=(1, 0)))
    row = g.bn(g.conv(x, 8, (1, 3), padding=(0, 1)))
    kernels = [conv_bn(g, x, 8, 3), conv_bn(g, x, 8, 3), conv_bn(g, x, 8, 1)]
    g.output(g.add(*kernels, column, row, g.bn(x)))
