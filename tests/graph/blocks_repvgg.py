"""RepVGG and what follows it: a 3x3, a 1x1 and the input itself, each with its BatchNorm."""

from __future__ import annotations

from typing import Any

from tests.graph.builder import GraphBuilder, Value
from tests.graph.cases import Registry, conv_bn

REPVGG = Registry()
block = REPVGG.add

_IMAGE = (None, 8, None, None)


def three(g: GraphBuilder, x: Value, epsilon: float = 1e-5, groups: int = 1) -> Value:
    """The sum of three branches of arXiv 2101.03697."""
    wide = conv_bn(g, x, 8, 3, epsilon=epsilon, groups=groups)
    return g.add(wide, conv_bn(g, x, 8, 1, epsilon=epsilon, groups=groups), g.bn(x, epsilon))


def two(g: GraphBuilder, x: Value, out: int = 8, epsilon: float = 1e-5, **geometry: Any) -> Value:
    wide = conv_bn(g, x, out, 3, epsilon=epsilon, **geometry)
    return g.add(wide, conv_bn(g, x, out, 1, epsilon=epsilon, **geometry))


@block("RepVGG", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(three(g, g.input("x", _IMAGE))))


@block("RepVGG, stride 2", "1", "2 Conv, 2 BN, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(two(g, g.input("x", (1, 8, 14, 15)), 12, stride=2)))


@block("RepVGG, groups", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(three(g, g.input("x", _IMAGE), groups=2)))


@block("RepVGG, three blocks", "1", "6 Conv, 8 BN, 5 Add, 3 Relu", "3 Conv, 3 Relu")
def _(g: GraphBuilder) -> None:
    y = g.relu(two(g, g.input("x", (None, 3, 32, 32)), 8, stride=2))
    g.output(g.relu(three(g, g.relu(three(g, y)))))


@block("RepVGG with squeeze-excite", "1b", "4 Conv, 3 BN, 2 Add, GAP, 2 Relu, Sigmoid, Mul",
       "3 Conv, GAP, 2 Relu, Sigmoid, Mul")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.squeeze_excite(three(g, g.input("x", _IMAGE)))))


@block("RepVGGplus, squeeze-excite last", "1b",
       "4 Conv, 3 BN, 2 Add, GAP, 2 Relu, Sigmoid, Mul",
       "3 Conv, GAP, 2 Relu, Sigmoid, Mul")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.squeeze_excite(g.relu(three(g, g.input("x", _IMAGE)))))


@block("RepVGG of mmpretrain, dilated", "2", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide, point = conv_bn(g, x, 8, 3, dilation=2), conv_bn(g, x, 8, 1)
    g.output(g.relu(g.add(g.bn(x), wide, point)))


@block("RepVGG of super-gradients, alpha", "3", "2 Conv, 3 BN, Mul, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide, point = conv_bn(g, x, 8, 3, epsilon=1e-3), conv_bn(g, x, 8, 1, epsilon=1e-3)
    g.output(g.relu(g.add(wide, g.mul(g.scalar(), point), g.bn(x, 1e-3))))


@block("RepVggBlock of timm", "4", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    identity = g.bn(x)
    branches = g.add(conv_bn(g, x, 8, 1), conv_bn(g, x, 8, 3))
    g.output(g.relu(g.add(identity, branches)))


@block("RepVGGBlock of YOLOv6, branches folded before", "5", "2 Conv, BN, 2 Add, Relu",
       "Conv, Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide, point = g.conv(x, 8, 3, padding=1, bias=True), g.conv(x, 8, 1, bias=True)
    g.output(g.relu(g.add(wide, point, g.bn(x, 1e-3))))


@block("RepConv of YOLOv7", "6", "2 Conv, 3 BN, 2 Add, Sigmoid, Mul", "Conv, Sigmoid, Mul")
def _(g: GraphBuilder) -> None:
    g.output(g.silu(three(g, g.input("x", (1, 8, 20, 20)), 1e-3)))


@block("RepConv of YOLOv7, stride 2", "6", "2 Conv, 2 BN, Add, Sigmoid, Mul", "Conv, Sigmoid, Mul")
def _(g: GraphBuilder) -> None:
    g.output(g.silu(two(g, g.input("x", (1, 8, 20, 20)), 16, 1e-3, stride=2)))


@block("RepNCSP of YOLOv9", "7", "6 Conv, 6 BN, 2 Add, 5 Sigmoid, 5 Mul, Concat",
       "5 Conv, Add, 5 Sigmoid, 5 Mul, Concat")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 16, 20, 20))
    left = g.silu(conv_bn(g, x, 8, 1, epsilon=1e-3))
    inner = g.silu(two(g, left, 8, 1e-3))
    left = g.add(left, g.silu(conv_bn(g, inner, 8, 3, epsilon=1e-3)))
    right = g.silu(conv_bn(g, x, 8, 1, epsilon=1e-3))
    g.output(g.silu(conv_bn(g, g.concat(left, right), 16, 1, epsilon=1e-3)))


@block("Conv2 of ultralytics", "8", "2 Conv, BN, Add, Sigmoid, Mul", "Conv, Sigmoid, Mul")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 20, 20))
    y = g.bn(g.add(g.conv(x, 8, 3, padding=1), g.conv(x, 8, 1)), 1e-3)
    g.output(g.silu(y))


@block("RepVGGDW of YOLOv10", "9", "2 Conv, 2 BN, Add, Sigmoid, Mul", "Conv, Sigmoid, Mul")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 20, 20))
    g.output(g.silu(g.add(conv_bn(g, x, 0, 7, epsilon=1e-3), conv_bn(g, x, 0, 3, epsilon=1e-3))))


@block("RepVggBlock of PP-YOLOE+", "10", "2 Conv, 2 BN, 2 Mul, Add, Sigmoid", "Conv, Sigmoid, Mul")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = g.mul(g.scalar(shape=[1]), conv_bn(g, x, 8, 1))
    g.output(g.silu(g.add(conv_bn(g, x, 8, 3), point)))


@block("RepVggBlock of PP-YOLOE+, alpha 0", "10", "2 Conv, 2 BN, 2 Mul, Add, Sigmoid",
       "Conv, Sigmoid, Mul")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = g.mul(g.scalar(0.0, shape=[1]), conv_bn(g, x, 8, 1))
    g.output(g.silu(g.add(conv_bn(g, x, 8, 3), point)))


@block("CSPRepLayer of RT-DETR", "11", "6 Conv, 6 BN, 3 Add, 4 Sigmoid, 4 Mul",
       "4 Conv, Add, 4 Sigmoid, 4 Mul")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 16, 20, 20))
    y = g.silu(conv_bn(g, x, 8, 1))
    for _ in range(2):
        y = g.silu(two(g, y))
    g.output(g.add(y, g.silu(conv_bn(g, x, 8, 1))))


@block("BottleRep of YOLOv6", "12", "4 Conv, 6 BN, 5 Add, 2 Relu, Mul",
       "2 Conv, Add, 2 Relu, Mul")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.relu(three(g, g.relu(three(g, x, 1e-3)), 1e-3))
    g.output(g.add(y, g.mul(g.scalar(), x)))


@block("QARepVGG V1", "27", "2 Conv, 4 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.bn(three(g, g.input("x", _IMAGE)))))


@block("QARepVGG V2", "27b", "2 Conv, 2 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.bn(g.add(conv_bn(g, x, 8, 3, epsilon=1e-3), g.conv(x, 8, 1), x), 1e-3)))


@block("QARepVGG V2 of YOLOv6, average", "27c", "2 Conv, 2 BN, 3 Add, AveragePool, Relu",
       "Conv, Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    mean = g.average_pool(x, 3, padding=1)
    branches = g.add(conv_bn(g, x, 8, 3, epsilon=1e-3), g.conv(x, 8, 1), x, mean)
    g.output(g.relu(g.bn(branches, 1e-3)))


@block("QARepVGG V2 of YOLOv6, average, stride 2", "27c", "2 Conv, 2 BN, 2 Add, AveragePool, Relu",
       "Conv, Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    mean = g.average_pool(x, 3, 2, padding=1)
    wide = conv_bn(g, x, 8, 3, stride=2)
    g.output(g.relu(g.bn(g.add(wide, g.conv(x, 8, 1, stride=2), mean))))


@block("QARepVGG of super-gradients", "27d", "2 Conv, 2 BN, Mul, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = g.mul(g.scalar(), g.conv(x, 8, 1, bias=True))
    g.output(g.relu(g.bn(g.add(conv_bn(g, x, 8, 3), point, x))))


@block("LinearAddBlock of RepOpt", "28", "2 Conv, BN, 3 Mul, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide, point = g.conv(x, 8, 3, padding=1), g.conv(x, 8, 1)
    branches = [g.mul(value, g.per_channel(value, "1C11")) for value in (wide, point, x)]
    g.output(g.relu(g.bn(g.add(*branches))))


@block("LinearAddBlock of RepOpt, stride 2", "28", "2 Conv, BN, 2 Mul, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide, point = g.conv(x, 12, 3, padding=1, stride=2), g.conv(x, 12, 1, stride=2)
    branches = [g.mul(value, g.per_channel(value, "1C11")) for value in (wide, point)]
    g.output(g.relu(g.bn(g.add(*branches), 1e-3)))


@block("RepVGG of RepOptimizers", "28b", "2 Conv, 3 BN, Sum, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.sum(conv_bn(g, x, 8, 3), conv_bn(g, x, 8, 1), g.bn(x))))
