"""What graphs are made of besides known blocks: forms of weights, axes, affine maps, layout."""

from __future__ import annotations

from tests.graph.blocks_kernels import equal_shift
from tests.graph.blocks_repvgg import three, two
from tests.graph.builder import GraphBuilder, Value
from tests.graph.builder_base import WEIGHTS
from tests.graph.cases import Registry, conv_bn

GRAPH = Registry()
block = GRAPH.add

_IMAGE = (None, 8, None, None)

_CHAINS = {  # the nodes that a weight of each kind adds
    "identity": ("Identity",), "reshape": ("Reshape",), "transpose": ("Transpose",),
    "cast": ("Cast",), "chain": ("Identity", "Reshape", "Transpose"),
}  # fmt: skip


def _repvgg(g: GraphBuilder) -> None:
    g.output(g.relu(three(g, g.input("x", _IMAGE))))


for _kind in WEIGHTS[1:]:  # 14: two kernels, and four numbers of three BatchNorms
    _more = "".join(f", 14 {op}" for op in _CHAINS.get(_kind, ()))
    GRAPH.add(f"RepVGG, weights by {_kind}", "1", f"2 Conv, 3 BN, 2 Add, Relu{_more}",
              "Conv, Relu", weights=_kind)(_repvgg)  # fmt: skip
for _opset in (9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21):
    GRAPH.add(f"RepVGG, opset {_opset}", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu",
              opset=_opset)(_repvgg)  # fmt: skip
GRAPH.add("RepVGG in float16", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu",
          dtype="float16")(_repvgg)  # fmt: skip
GRAPH.add("RepVGG in bfloat16", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu",
          dtype="bfloat16", runs=False)(_repvgg)  # fmt: skip


@block("RepVGG of one axis", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(three(g, g.input("x", (None, 8, None)))))


@block("RepVGG of three axes", "1", "2 Conv, 3 BN, 2 Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(three(g, g.input("x", (1, 8, 6, 5, 7)))))


@block("two blocks that share every weight", "-", "4 Conv, 4 BN, 2 Add, 2 Relu",
       "2 Conv, 2 Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    wide, point = g.weight((8, 8, 3, 3)), g.weight((8, 8, 1, 1))
    norms = g.norm_parameters(8), g.norm_parameters(8)
    x = g.input("x", _IMAGE)
    for _ in range(2):
        first = g.bn(g.conv(x, weight=wide, padding=1), parameters=norms[0])
        x = g.relu(g.add(first, g.bn(g.conv(x, weight=point), parameters=norms[1])))
    g.output(x)


@block("one weight, two BatchNorms", "-", "2 Conv, 2 BN, 2 Relu", "2 Conv, 2 Relu")
def _(g: GraphBuilder) -> None:
    x, weight = g.input("x", _IMAGE), g.weight((8, 8, 3, 3))
    for _ in range(2):
        g.output(g.relu(g.bn(g.conv(x, weight=weight))))


@block("a residual that ends in no activation", "-", "2 Conv, 2 BN, Add, Relu", "2 Conv, Add, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(x, conv_bn(g, g.relu(conv_bn(g, x, 8, 3)), 8, 3)))


@block("a convolution's bias as an Add", "-", "Conv, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 6, 3, padding=1)
    g.output(g.relu(g.add(g.per_channel(y, "1C11"), y)))


@block("a chain of affine maps", "-", "Conv, Mul, Sub, Div, Neg, 2 Add, BN, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 6, 3, padding=1, bias=True)
    y = g.sub(g.scalar(), g.mul(g.per_channel(y), y))
    y = g.neg(g.add(g.div(y, g.per_channel(y)), g.scalar()))
    g.output(g.relu(g.bn(g.add(g.per_channel(y, "1C11"), y))))


@block("affine maps before a kernel without padding", "-", "BN, Mul, Add, Conv, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.bn(g.input("x", _IMAGE))
    y = g.add(g.mul(x, g.per_channel(x)), g.scalar())
    g.output(g.relu(g.conv(y, 6, 3)))


@block("a scale before a padded kernel", "-", "Mul, Neg, Conv, BN", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.neg(g.mul(x, g.per_channel(x)))
    g.output(conv_bn(g, y, 6, 3))


@block("Identity and Dropout between", "-", "Conv, Identity, Dropout, BN, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    y = g.dropout(g.identity(g.conv(g.input("x", _IMAGE), 8, 3, padding=1)))
    g.output(g.relu(g.bn(y)))


@block("zero Pad before a convolution", "-", "Pad, Conv, BN", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.pad(g.input("x", _IMAGE), ((1, 2), (0, 1)))
    g.output(g.bn(g.conv(x, 8, 3, stride=2, padding=(0, 1))))


@block("a value padded around, and moved away by a BatchNorm", "-", "BN, Pad, Conv", "Conv")
def _(g: GraphBuilder) -> None:
    moved = equal_shift(g, g.input("x", _IMAGE), 0.5)
    g.output(g.conv(g.pad(moved, 1, value=0.5), 6, 3))


@block("auto_pad of a static size", "-", "2 Conv, 2 BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 15, 14))
    wide = g.bn(g.conv(x, 8, 3, stride=2, auto_pad="SAME_LOWER"))
    g.output(g.add(wide, g.bn(g.conv(x, 8, 5, stride=2, auto_pad="SAME_LOWER"))))


@block("auto_pad at stride 1", "-", "2 Conv, 2 BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(x, 8, 3, auto_pad="SAME_UPPER"))
    g.output(g.add(wide, g.bn(g.conv(x, 8, 1, auto_pad="VALID"))))


@block("kernels at places one off", "-", "2 Conv, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    shifted = g.conv(x, 8, 3, padding=((0, 2), (0, 2)), bias=True)
    g.output(g.add(g.conv(x, 8, 3, padding=1), shifted))


@block("dilations that differ by axis", "-", "2 Conv, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    dilated = g.conv(x, 8, 3, dilation=(1, 2), padding=(1, 2), bias=True)
    g.output(g.add(g.conv(x, 8, 3, padding=1), dilated))


@block("1x1 without bias, then a padded 3x3", "-", "2 Conv, BN", "Conv")
def _(g: GraphBuilder) -> None:
    g.output(conv_bn(g, g.conv(g.input("x", _IMAGE), 16, 1), 8, 3))


@block("1x1 of stride 2, then a 3x3", "-", "2 Conv", "Conv")
def _(g: GraphBuilder) -> None:
    g.output(g.conv(g.conv(g.input("x", _IMAGE), 8, 1, stride=2), 8, 3, padding=1, bias=True))


@block("3x3, then 1x1", "-", "2 Conv, 2 BN, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(conv_bn(g, conv_bn(g, g.input("x", _IMAGE), 16, 3), 8, 1)))


@block("1x1 to more channels and back", "-", "2 Conv, 2 BN, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    g.output(g.relu(conv_bn(g, conv_bn(g, g.input("x", _IMAGE), 32, 1), 8, 1)))


@block("a depthwise kernel beside one in groups", "-", "2 Conv, 2 BN, Add", "Conv")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 3, groups=4), conv_bn(g, x, 0, 3)))


@block("a convolution's output read twice, linearly", "-", "Conv, BN, Mul, 2 Add", "Conv")
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 3, padding=1, bias=True)
    g.output(g.add(g.bn(y), g.mul(y, g.per_channel(y)), y))


@block("a difference of branches", "-", "2 Conv, 2 BN, Sub, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.sub(conv_bn(g, x, 8, 1), conv_bn(g, x, 8, 3))))


@block("BatchNorm behind a Concat of convolutions", "-", "2 Conv, Concat, BN, Relu, MaxPool",
       "2 Conv, Concat, Relu, MaxPool")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.max_pool(x, 3, padding=1)
    both = g.concat(g.conv(x, 6, 3, padding=1), g.conv(y, 4, 1, bias=True))
    g.output(g.relu(g.bn(both)))


@block("Concat of branches of one input", "-", "2 Conv, Concat, BN, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.relu(g.bn(g.concat(g.conv(x, 6, 3), g.conv(x, 4, 3, bias=True)))))


@block("affine maps between Split and Concat", "-", "Split, Mul, Add, BN, Concat, Conv",
       "Split, Concat, Conv")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    a, b = g.split(x, (3, 5))
    y = g.concat(g.add(g.mul(a, g.per_channel(a)), g.scalar()), g.bn(b))
    g.output(g.conv(y, 6, 1, bias=True))


@block("channels cut into halves before the BatchNorm", "-", "Conv, Reshape, BN, Relu",
       "Conv, Reshape, Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", (1, 8, 6, 6)), 8, 3, padding=1)
    g.output(g.relu(g.bn(g.reshape(y, [1, 4, 12, 6]))))


@block("average pooling without padding, then 1x1", "-", "AveragePool, Conv, BN",
       "AveragePool, Conv")  # fmt: skip
def _(g: GraphBuilder) -> None:
    pooled = g.average_pool(g.input("x", (None, 8, 14, 14)), 2, 2)
    g.output(conv_bn(g, pooled, 12, 1))


@block("ConvTranspose and BatchNorm", "-", "ConvTranspose, BN, Relu", "ConvTranspose, Relu")
def _(g: GraphBuilder) -> None:
    y = g.conv_transpose(g.input("x", _IMAGE), 6, 3, stride=2, padding=1, output_padding=1)
    g.output(g.relu(g.bn(y)))


@block("ConvTranspose in groups, affine maps", "-", "ConvTranspose, Mul, Add, BN",
       "ConvTranspose")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv_transpose(g.input("x", _IMAGE), 6, 2, stride=2, groups=2, bias=True)
    g.output(g.bn(g.add(g.mul(y, g.per_channel(y)), g.scalar())))


@block("a branch of ResNet-D: pooling, 1x1, BatchNorm", "-", "2 Conv, 2 BN, AveragePool, Add, Relu",
       "2 Conv, AveragePool, Add, Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 8, 14, 14))
    short = conv_bn(g, g.average_pool(x, 2, 2), 12, 1)
    g.output(g.relu(g.add(g.bn(g.conv(x, 12, 3, stride=2, padding=1)), short)))


@block("nothing to fuse", "-", "2 Conv, Relu, MaxPool", "2 Conv, Relu, MaxPool")
def _(g: GraphBuilder) -> None:
    x = g.max_pool(g.relu(g.conv(g.input("x", _IMAGE), 8, 3, bias=True)), 3, 2)
    g.output(g.conv(x, 8, 3, padding=1, bias=True))


@block("an interior value that is an output beside", "-", "4 Conv, 6 BN, 4 Add, 2 Relu",
       "2 Conv, 2 Relu")  # fmt: skip
def _(g: GraphBuilder) -> None:
    first = g.relu(three(g, g.input("x", _IMAGE)))
    g.output(first, g.relu(three(g, first)))


@block("a sum that is an output, and read", "-", "2 Conv, 2 BN, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    y = two(g, g.input("x", _IMAGE))
    g.output(y, g.relu(y))


@block("a dead branch beside", "-", "3 Conv, 3 BN, Add, Relu", "Conv, Relu")
def _(g: GraphBuilder) -> None:
    x: Value = g.input("x", _IMAGE)
    y = two(g, x)
    conv_bn(g, x, 8, 3)
    g.output(g.relu(y))
