"""Linear layers, heads and affine maps: LeViT, distilled heads, implicit knowledge, RIFormer."""

from __future__ import annotations

from tests.graph.builder import GraphBuilder, Value
from tests.graph.cases import Registry, conv_bn

HEADS = Registry()
block = HEADS.add

_IMAGE = (None, 8, None, None)


def _pooled(g: GraphBuilder) -> Value:
    return g.flatten(g.global_average_pool(g.relu(g.input("x", _IMAGE))))


@block("BN_Linear of LeViT", "22", "Relu, GAP, Flatten, BN, Gemm", "Relu, GAP, Flatten, Gemm")
def _(g: GraphBuilder) -> None:
    g.output(g.gemm(g.bn(_pooled(g)), 5))


@block("Two heads averaged", "22", "Relu, GAP, Flatten, 2 BN, 2 Gemm, Add, Div",
       "Relu, GAP, Flatten, Gemm")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = _pooled(g)
    heads = [g.gemm(g.bn(x), 5) for _ in range(2)]
    g.output(g.div(g.add(*heads), g.scalar(2.0)))


@block("Two heads averaged, as Paddle exports them", "22",
       "Relu, GAP, Flatten, 2 BN, 2 MatMul, 3 Add, Mul",
       "Relu, GAP, Flatten, Gemm")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = _pooled(g)
    heads = [g.matmul(g.bn(x), 5, bias=True) for _ in range(2)]
    g.output(g.mul(g.add(*heads), g.scalar(0.5)))


@block("Linear_BN of LeViT, tokens flattened", "22", "MatMul, 2 Reshape, BN", "MatMul, Add")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (2, 9, 8))
    flat = g.bn(g.reshape(g.matmul(x, 6), [-1, 6]))
    g.output(g.reshape(flat, [2, 9, 6]))


@block("Linear, then BatchNorm of its features", "-", "Gemm, BN, Relu", "Gemm, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.bn(g.gemm(g.input("x", (None, 8)), 6))))


@block("MatMul and a layer scale of the last axis", "-", "MatMul, Mul, 2 Add", "MatMul, 2 Add")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (2, 9, 8))
    y = g.matmul(x, 6, bias=True)
    scaled = g.mul(g.per_channel(y, "C"), y)
    g.output(g.add(scaled, g.input("z", (2, 9, 6))))


@block("ImplicitA and ImplicitM of YOLOv7", "29", "Add, Conv, Mul", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.conv(g.add(g.per_channel(x, "1C11"), x), 6, 1, bias=True)
    g.output(g.mul(g.per_channel(y, "1C11"), y))


@block("IDetect of YOLOv7, three scales", "29", "3 Add, 3 Conv, 3 Mul", "3 Conv")
def _(g: GraphBuilder) -> None:
    for index, size in enumerate((16, 8, 4)):
        x = g.input(f"x{index}", (1, 8, size, size))
        y = g.conv(g.add(x, g.per_channel(x, "1C11")), 6, 1, bias=True)
        g.output(g.mul(y, g.per_channel(y, "1C11")))


@block("RIFormer", "33", "2 Reshape, IN, 2 Mul, 2 Add, Conv, Sub",
       "2 Reshape, IN, Conv, Add")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (2, 8, 6, 7))
    groups = g.reshape(x, [0, 1, -1])
    one, zero = g.constant([1.0]), g.constant([0.0])
    normal = g.reshape(g.node("InstanceNormalization", groups, one, zero), [2, 8, 6, 7])
    n = g.add(g.mul(normal, g.per_channel(x)), g.per_channel(x))
    token = g.sub(g.depthwise(n, 1, bias=True), n)
    g.output(g.add(x, g.mul(g.per_channel(x), token)))


@block("VanillaNet, act_learn 1", "34", "3 Conv, 3 BN, LeakyRelu, Relu, MaxPool",
       "2 Conv, Relu, MaxPool")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 8, 16, 16))
    first = conv_bn(g, x, 8, 1, bias=True, epsilon=1e-6)
    straight = g.node("LeakyRelu", first, alpha=1.0)
    second = g.max_pool(conv_bn(g, straight, 8, 1, bias=True, epsilon=1e-6), 2, 2)
    g.output(conv_bn(g, g.relu(second), 0, 7, epsilon=1e-6))


@block("Gemm with factors of its own, then BatchNorm", "22", "Gemm, BN", "Gemm")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 8))
    weight, bias = g.constant(g.rng().normal(size=(8, 6))), g.weight((1, 6))
    g.output(g.bn(g.node("Gemm", x, weight, bias, alpha=0.5, beta=-2.0)))


@block("Gemm that adds one number, then a factor for each feature", "22", "Gemm, Mul", "Gemm")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 8))
    y = g.node("Gemm", x, g.weight((6, 8)), g.constant([0.75]), transB=1, beta=3.0)
    g.output(g.mul(y, g.per_channel(y, "C")))
