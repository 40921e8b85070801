"""Near misses about values read elsewhere, other sources, and weights that are not constant."""

from __future__ import annotations

from tests.graph.blocks_repvgg import two
from tests.graph.builder import GraphBuilder
from tests.graph.cases import Registry, conv_bn

READERS = Registry()
miss = READERS.add

_IMAGE = (None, 8, None, None)


@miss("a branch read elsewhere", "1", "2 Conv, 3 BN, 2 Add, 2 Relu", "2 Conv, Add, 2 Relu",
      "another activation reads the 1x1 branch")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = conv_bn(g, x, 8, 1)
    g.output(g.relu(g.add(conv_bn(g, x, 8, 3), g.bn(x), point)), g.relu(point))


@miss("a branch that is an output", "1", "2 Conv, 3 BN, 2 Add, Relu", "2 Conv, Add, Relu",
      "the 1x1 branch is an output of the graph")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = conv_bn(g, x, 8, 1)
    g.output(g.relu(g.add(conv_bn(g, x, 8, 3), g.bn(x), point)), point)


@miss("a convolution that is an output, its BatchNorm too", "5", "Conv, BN", "Conv, BN",
      "the value before the BatchNorm is an output of the graph")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 3, padding=1)
    g.output(y, g.bn(y))


@miss("a convolution read by an activation and by a BatchNorm", "20", "Conv, BN, Relu, Add",
      "Conv, BN, Relu, Add", "the value before the BatchNorm is read elsewhere")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 3, padding=1)
    g.output(g.add(g.relu(y), g.bn(y)))


@miss("a branch read inside an If", "1", "2 Conv, 3 BN, 2 Add, Relu, If", "2 Conv, Add, Relu, If",
      "a subgraph reads the 1x1 branch from outside")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = conv_bn(g, x, 8, 1)
    g.output(g.relu(g.add(conv_bn(g, x, 8, 3), g.bn(x), point)), g.if_reads(point))


@miss("a branch that a Dropout passes on to an output", "1", "2 Conv, 3 BN, 2 Add, Relu, Dropout",
      "2 Conv, Add, Relu", "the branch is read by what becomes an output")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    point = conv_bn(g, x, 8, 1)
    g.output(g.relu(g.add(conv_bn(g, x, 8, 3), g.bn(x), point)), g.dropout(point))


@miss("an identity of another input", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, BN, Add, Relu",
      "the third branch is a BatchNorm of another value")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x, z = g.input("x", (1, 8, 14, 14)), g.input("z", (1, 8, 14, 14))
    g.output(g.relu(g.add(two(g, x), g.bn(z))))


@miss("an activation between source and branch", "1", "2 Conv, 2 BN, Add, 2 Relu",
      "2 Conv, Add, 2 Relu", "one branch reads the image, the other its Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.add(conv_bn(g, x, 8, 3), conv_bn(g, g.relu(x), 8, 1))))


@miss("two inputs", "1", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "the branches have other sources")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x, z = g.input("x", (1, 8, 14, 14)), g.input("z", (1, 8, 14, 14))
    g.output(g.add(conv_bn(g, x, 8, 3), conv_bn(g, z, 8, 1)))


@miss("a shortcut past two convolutions", "11", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "the second pads with zero behind a bias; the shortcut skips both")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(x, conv_bn(g, conv_bn(g, x, 8, 3), 8, 3)))


@miss("BatchNorm in training", "1", "2 Conv, 2 BN, Add, Relu", "2 Conv, BN, Add, Relu",
      "its statistics are of the batch", runs=False)  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (4, 8, 14, 14))
    wide = g.bn(g.conv(x, 8, 3, padding=1), training=True)
    g.output(g.relu(g.add(wide, conv_bn(g, x, 8, 1))))


@miss("a kernel that may be overridden", "1", "2 Conv, 3 BN, 2 Add, Relu",
      "2 Conv, BN, Add, Relu", "the initializer is an input of the graph too")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    weight = g.weight((8, 8, 3, 3), "overridable")
    wide = g.bn(g.conv(x, weight=weight, padding=1))
    g.output(g.relu(g.add(wide, g.add(conv_bn(g, x, 8, 1), g.bn(x)))))


@miss("a kernel that is an input", "1", "2 Conv, 3 BN, 2 Add, Relu", "2 Conv, BN, Add, Relu",
      "the weight is given at run time")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(x, weight=g.weight((8, 8, 3, 3), "fed"), padding=1))
    g.output(g.relu(g.add(wide, g.add(conv_bn(g, x, 8, 1), g.bn(x)))))


@miss("a bias that is an input", "5", "2 Conv, 2 BN, Add", "2 Conv, BN, Add",
      "the bias is given at run time")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(x, 8, 3, padding=1, bias=g.weight(8, "fed")))
    g.output(g.add(wide, conv_bn(g, x, 8, 1)))


@miss("statistics that may be overridden", "1", "2 Conv, 2 BN, Add", "2 Conv, BN, Add",
      "gamma is an input of the graph too")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    _, *others = g.norm_parameters(8)
    parameters = (g.weight(8, "overridable"), *others)
    wide = g.bn(g.conv(x, 8, 3, padding=1), parameters=parameters)
    g.output(g.add(wide, conv_bn(g, x, 8, 1)))


@miss("an alpha that is an input", "3", "2 Conv, 2 BN, Mul, Add", "2 Conv, Mul, Add",
      "the factor is given at run time")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    alpha = g.constant([0.7], "fed")
    g.output(g.add(conv_bn(g, x, 8, 3), g.mul(alpha, conv_bn(g, x, 8, 1))))


@miss("a scale that is computed from the image", "1b",
      "4 Conv, 2 BN, Add, GAP, Relu, Sigmoid, Mul",
      "4 Conv, Add, GAP, Relu, Sigmoid, Mul",
      "squeeze-excite inside the sum is not linear")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 3), g.squeeze_excite(conv_bn(g, x, 8, 1))))


@miss("a product of branches", "20", "2 Conv, 2 BN, Mul", "2 Conv, Mul",
      "a product of two linear maps of the image is not linear")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.mul(conv_bn(g, x, 8, 3), conv_bn(g, x, 8, 1)))


@miss("VanillaNet while it learns", "34", "2 Conv, 2 BN, LeakyRelu", "2 Conv, LeakyRelu",
      "a slope of 0.5 is not the identity")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.node("LeakyRelu", conv_bn(g, g.input("x", _IMAGE), 8, 1), alpha=0.5)
    g.output(conv_bn(g, y, 8, 1))


@miss("BottleRep's alpha", "12", "Conv, BN, Relu, Mul, Add", "Conv, Relu, Mul, Add",
      "a Relu stands between the block and the shortcut")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(g.relu(conv_bn(g, x, 8, 3)), g.mul(g.scalar(), x)))


@miss("PP-HGNetV2's affine behind the activation", "37", "Conv, BN, Relu, Mul, Add",
      "Conv, Relu, Mul, Add", "the affine map comes after the Relu, nothing follows")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.relu(conv_bn(g, g.input("x", _IMAGE), 8, 3))
    g.output(g.add(g.mul(g.scalar(shape=[1]), y), g.scalar(shape=[1])))


@miss("half the bits in between", "5", "Conv, 2 Cast, BN", "Conv, 2 Cast, BN",
      "a Cast rounds, and rounding is not linear", runs=False)  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 3, padding=1)
    half = g.node("Cast", y, to=10)  # FLOAT16, and FLOAT again
    g.output(g.bn(g.node("Cast", half, to=1)))


@miss("InstanceNormalization instead of BatchNorm", "5", "Conv, IN, Relu", "Conv, IN, Relu",
      "its statistics are of the image")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 3, padding=1)
    y = g.node("InstanceNormalization", y, g.weight(8), g.weight(8))
    g.output(g.relu(y))
