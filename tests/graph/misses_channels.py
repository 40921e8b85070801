"""Near misses about which axis is that of the channels, and what is broadcast over it."""

from __future__ import annotations

import numpy as np

from tests.graph.builder import GraphBuilder
from tests.graph.cases import Registry, conv_bn

CHANNELS = Registry()
miss = CHANNELS.add

_IMAGE = (None, 8, None, None)
_CUBE = (1, 8, 8, 8)  # every axis as long as that of the channels


@miss("a vector along W", "29", "Conv, Mul, Add", "Conv, Mul, Add",
      "(8,) is broadcast along the last axis, which has 8 too")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _CUBE), 8, 3, padding=1)
    g.output(g.add(g.mul(y, g.weight(8)), g.weight(8)))


@miss("a vector along H", "29", "Conv, BN, Mul", "Conv, Mul",
      "(8, 1) is broadcast along H, which has 8 too")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = conv_bn(g, g.input("x", _CUBE), 8, 3)
    g.output(g.mul(g.weight((8, 1)), y))


@miss("a factor for each image", "29", "Conv, BN, Mul", "Conv, Mul",
      "(8, 1, 1, 1) is broadcast along the batch, which has 8 too")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = conv_bn(g, g.input("x", (8, 8, 6, 6)), 8, 3)
    g.output(g.mul(g.weight((8, 1, 1, 1)), y))


@miss("a map of factors", "14", "Conv, BN, Mul", "Conv, Mul",
      "(1, 1, 14, 14): another factor at each position")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = conv_bn(g, g.input("x", (1, 8, 14, 14)), 8, 3)
    g.output(g.mul(y, g.weight((1, 1, 14, 14))))


@miss("a position embedding", "15", "Conv, BN, Add", "Conv, Add",
      "(1, 8, 14, 14): another shift at each position")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = conv_bn(g, g.input("x", (1, 8, 14, 14)), 8, 3)
    g.output(g.add(g.weight((1, 8, 14, 14)), y))


@miss("a branch broadcast from one position", "1", "2 Conv, 2 BN, GAP, Add", "2 Conv, GAP, Add",
      "(N, C, 1, 1): the global mean of the image, added everywhere")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 3), conv_bn(g, g.global_average_pool(x), 8, 1)))


@miss("an image of one channel as identity", "21", "Conv, BN, Add", "Conv, Add",
      "(N, 1, H, W) is broadcast over eight channels")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 1, None, None))
    g.output(g.add(conv_bn(g, x, 8, 3), x))


@miss("a branch of one channel", "1", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "(N, 1, H, W) is broadcast over eight channels")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 3), conv_bn(g, x, 1, 1)))


@miss("one row for all", "1", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "(N, 8, 1, W) is broadcast over H")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 9, 9))
    g.output(g.add(conv_bn(g, x, 8, 3), g.bn(g.conv(x, 8, (9, 3), padding=(0, 1)))))


@miss("more axes than the image has", "29", "Conv, BN, Add", "Conv, Add",
      "adding (2, 1, 1, 1, 1) makes five axes of four")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = conv_bn(g, g.input("x", (1, 8, 7, 7)), 8, 3)
    g.output(g.add(y, g.weight((2, 1, 1, 1, 1))))


@miss("Concat below each other", "24", "2 Conv, 2 BN, Concat, Mul", "2 Conv, Concat, Mul",
      "joined along H, and a factor for each row of it")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 4, 8))
    both = g.concat(conv_bn(g, x, 8, 3), conv_bn(g, x, 8, 1), axis=2)
    g.output(g.mul(both, g.weight((8, 1))))


@miss("BatchNorm behind a Concat with the input", "24", "Conv, Concat, BN, Relu",
      "Conv, Concat, BN, Relu",
      "the input's half has no convolution; one for both would cost more")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.bn(g.concat(g.conv(x, 8, 3, padding=1), x))))


@miss("BatchNorm of the other axis", "22", "MatMul, BN, Relu", "MatMul, BN, Relu",
      "MatMul has its features last, BatchNorm takes axis 1; both have 6")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.bn(g.matmul(g.input("x", (2, 6, 10)), 6))))


@miss("a column of numbers behind a MatMul", "22", "MatMul, Mul, Relu", "MatMul, Mul, Relu",
      "(6, 1) has a factor for each token, not for each feature")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.mul(g.matmul(g.input("x", (2, 6, 10)), 6), g.weight((6, 1)))))


@miss("H and channels exchanged before the BatchNorm", "14", "Conv, Transpose, BN, Relu",
      "Conv, Transpose, BN, Relu", "the BatchNorm is of what were rows")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _CUBE), 8, 3, padding=1)
    g.output(g.relu(g.bn(g.transpose(y, (0, 2, 1, 3)))))


@miss("channels and rows mixed, of equal shape", "14", "Conv, 2 Reshape, Transpose, BN, Relu",
      "Conv, 2 Reshape, Transpose, BN, Relu",
      "reshaped to rows of the same count as channels")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _CUBE), 8, 3, padding=1)
    y = g.transpose(g.reshape(y, [1, 8, 64]), (0, 2, 1))
    g.output(g.relu(g.bn(g.reshape(y, [1, 8, 8, 8]))))


@miss("channels shuffled between groups", "24", "2 Conv, 2 BN, 2 Reshape, Transpose",
      "2 Conv, 2 Reshape, Transpose", "the shuffle stands between the two kernels")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = conv_bn(g, g.input("x", (1, 8, 6, 6)), 8, 1, groups=2)
    shuffled = g.transpose(g.reshape(y, [1, 2, 4, 6, 6]), (0, 2, 1, 3, 4))
    g.output(conv_bn(g, g.reshape(shuffled, [1, 8, 6, 6]), 8, 1, groups=2))


@miss("halves exchanged", "24", "Conv, BN, Split, Concat, Add", "Conv, Split, Concat, Add",
      "the identity branch has its channels in another order")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    first, second = g.split(x, (4, 4))
    g.output(g.add(conv_bn(g, x, 0, 3), g.concat(second, first)))


@miss("heads that are not averaged but chosen", "22", "Relu, GAP, Flatten, 2 BN, 2 Gemm, Mul",
      "Relu, GAP, Flatten, 2 Gemm, Mul", "a product of two heads is not linear")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.flatten(g.global_average_pool(g.relu(g.input("x", _IMAGE))))
    heads = [g.gemm(g.bn(x), 5) for _ in range(2)]
    g.output(g.mul(*heads))


@miss("a mask along W before the kernel", "31", "Mul, Conv, BN", "Mul, Conv",
      "(8,) is broadcast along W, which the kernel slides over")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _CUBE)
    mask = g.constant(np.arange(8.0) / 7)
    g.output(conv_bn(g, g.mul(mask, x), 8, 3))
