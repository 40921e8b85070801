"""Near misses about where kernels sample, what pads, and what a merged kernel would cost."""

from __future__ import annotations

from tests.graph.blocks_kernels import border, equal_shift
from tests.graph.builder import GraphBuilder
from tests.graph.cases import Registry, conv_bn

POSITIONS = Registry()
miss = POSITIONS.add

_IMAGE = (None, 8, None, None)
_FIXED = (1, 8, 14, 14)


@miss("stride mismatch", "1", "2 Conv, 2 BN, Add, Relu", "2 Conv, Add, Relu",
      "strides 2 and 1 give outputs of one size, at other positions")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _FIXED)
    half = g.bn(g.conv(x, 8, 3, stride=2, padding=1))
    g.output(g.relu(g.add(half, g.bn(g.conv(x, 8, 8)))))


@miss("stride mismatch of one axis", "18", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "strides (2, 1) and (1, 2) on a size where both give the same")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _FIXED)
    tall = g.bn(g.conv(x, 8, (3, 8), stride=(2, 1), padding=(1, 0)))
    g.output(g.add(tall, g.bn(g.conv(x, 8, (8, 3), stride=(1, 2), padding=(0, 1)))))


@miss("kernels at opposite ends", "1", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "two 3x3 kernels would become one 5x5: 25 taps against 18")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    early = g.bn(g.conv(x, 8, 3, padding=((2, 0), (2, 0))))
    g.output(g.add(early, g.bn(g.conv(x, 8, 3, padding=((0, 2), (0, 2))))))


@miss("dilations far apart", "17", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "a 3x7 kernel has 21 taps, the two have 18")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(x, 8, 3, dilation=(1, 3), padding=(1, 3)))
    g.output(g.add(conv_bn(g, x, 8, 3), wide))


@miss("a row and a column without a square", "18", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "3 + 3 taps would become 9")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    row = g.bn(g.conv(x, 8, (1, 3), padding=(0, 1)))
    g.output(g.add(row, g.bn(g.conv(x, 8, (3, 1), padding=(1, 0)))))


@miss("a depthwise 3x3 and a dense 1x1", "13", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "one dense 3x3 would cost four times as much")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 0, 3), conv_bn(g, x, 8, 1)))


@miss("two groups beside one", "4", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "288 + 64 multiplications would become 576")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 3, groups=2), conv_bn(g, x, 8, 1)))


@miss("a dense residual of a grouped convolution with channels mixed", "21",
      "2 Conv, 2 BN, Add", "2 Conv, Add",
      "groups of 2 and of 4 meet in groups of 2: the 5x5 would double")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 5, groups=4), conv_bn(g, x, 8, 1, groups=2)))


@miss("depthwise, then pointwise", "25", "2 Conv, 2 BN, Relu", "2 Conv, Relu",
      "a separable convolution is cheaper than the dense one it equals")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.relu(conv_bn(g, conv_bn(g, g.input("x", _IMAGE), 0, 3), 8, 1)))


@miss("1x1 to fewer channels and back", "34", "2 Conv, 2 BN", "2 Conv",
      "8 -> 2 -> 8 costs half of 8 -> 8")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(conv_bn(g, conv_bn(g, g.input("x", _IMAGE), 2, 1), 8, 1))


@miss("1x1 to fewer channels, then 3x3", "34", "2 Conv, BN", "2 Conv",
      "a bottleneck is cheaper than the 3x3 it equals")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(conv_bn(g, g.conv(g.input("x", _IMAGE), 2, 1), 8, 3))


@miss("a factorised kernel of three axes", "35", "2 Conv", "2 Conv",
      "3 + 9 taps would become 27")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 6, 7, 8))
    time = g.conv(x, 8, (3, 1, 1), padding=(1, 0, 0))
    g.output(g.conv(time, 8, (1, 3, 3), padding=(0, 1, 1), bias=True))


@miss("a biased 1x1 before a padded 3x3", "19", "2 Conv, BN", "2 Conv",
      "the 3x3 pads with zero, where the 1x1 would have given its bias")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(conv_bn(g, g.conv(g.input("x", _IMAGE), 16, 1, bias=True), 8, 3))


@miss("1x1, BatchNorm, padded 3x3", "19", "2 Conv, 2 BN", "2 Conv",
      "the shift of the BatchNorm is a bias before zero padding")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(conv_bn(g, conv_bn(g, g.input("x", _IMAGE), 16, 1), 8, 3))


@miss("BatchNorm before a padded 3x3", "19", "BN, Conv, Relu", "BN, Conv, Relu",
      "a shift before zero padding")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.relu(g.conv(g.bn(g.input("x", _IMAGE)), 8, 3, padding=1)))


@miss("ImplicitA before a padded 3x3", "29", "Add, Conv, Mul", "Add, Conv",
      "a vector is added before zero padding")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.conv(g.add(g.per_channel(x, "1C11"), x), 6, 3, padding=1, bias=True)
    g.output(g.mul(g.per_channel(y, "1C11"), y))


@miss("a shift that pads in one axis only", "35", "2 Conv", "2 Conv",
      "a biased row before a column that pads")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    row = g.depthwise(x, (1, 3), padding=(0, 1), bias=True)
    g.output(g.depthwise(row, (3, 1), padding=(1, 0), bias=True))


@miss("padded 3x3 without bias, then padded 3x3", "11", "2 Conv, BN", "2 Conv",
      "the second pads with zero where the first would still reach the image")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.bn(g.depthwise(g.depthwise(x, 3, padding=1), 3, padding=1)))


@miss("padded 3x3 without bias, then a padded average", "19", "Conv, AveragePool, BN",
      "Conv, AveragePool, BN", "the mean counts zeros around what the kernel gives")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 3, padding=1)
    g.output(g.bn(g.average_pool(y, 3, padding=1)))


@miss("another number around than the shift", "19", "BN, Pad, Conv", "BN, Pad, Conv",
      "the border has 0.5, the BatchNorm gives 0.25 where its input is 0")  # fmt: skip
def _(g: GraphBuilder) -> None:
    moved = equal_shift(g, g.input("x", _IMAGE), 0.25)
    g.output(g.conv(g.pad(moved, 1, value=0.5), 6, 3))


@miss("a number around a convolution", "19", "2 Conv, Pad",
      "2 Conv, Pad", "one number for all channels, whose biases differ")  # fmt: skip
def _(g: GraphBuilder) -> None:
    y = g.conv(g.input("x", _IMAGE), 8, 1, bias=True)
    g.output(g.conv(g.pad(y, 1, value=0.5), 6, 3))


@miss("reflected borders", "1", "2 Conv, 2 BN, Pad, Add", "2 Conv, Pad, Add",
      "one branch reflects, the other pads with zero")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.bn(g.conv(g.pad(x, 1, mode="reflect"), 8, 3))
    g.output(g.add(y, conv_bn(g, x, 8, 3)))


@miss("an average that leaves padding out", "27c", "Conv, BN, AveragePool, 2 Add, Relu",
      "Conv, AveragePool, Add, Relu",
      "at the border it divides by less than nine")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    mean = g.average_pool(x, 3, padding=1, include_pad=False)
    g.output(g.relu(g.add(g.add(conv_bn(g, x, 8, 3), x), mean)))


@miss("DBB as Paddle pools: depthwise, padding left out", "19", "Conv, 2 BN, AveragePool, Add",
      "Conv, BN, AveragePool, Add", "at the border it divides by less than nine")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    mean = g.bn(g.average_pool(x, 3, padding=1, include_pad=False))
    g.output(g.add(conv_bn(g, x, 0, 3), mean))


@miss("an average over a window that hangs out", "27c", "Conv, BN, AveragePool, Add",
      "Conv, AveragePool, Add", "ceil_mode: the last window has fewer values",
      since=10)  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (1, 8, 13, 13))
    mean = g.average_pool(x, 2, 2, ceil_mode=1)
    g.output(g.add(conv_bn(g, x, 8, 3, stride=2), mean))


@miss("a branch of MaxPool", "27c", "Conv, BN, MaxPool, Add", "Conv, MaxPool, Add",
      "a maximum is not linear")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    g.output(g.add(conv_bn(g, x, 8, 3), g.max_pool(x, 3, padding=1)))


@miss("auto_pad of stride 2 on an open size", "1", "2 Conv, 2 BN, Add", "2 Conv, Add",
      "how much SAME pads depends on the size, for the 3x3 and not for the 1x1")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    wide = g.bn(g.conv(x, 8, 3, stride=2, auto_pad="SAME_UPPER"))
    g.output(g.add(wide, g.bn(g.conv(x, 8, 1, stride=2))))


@miss("another vector around than the bias", "19", "3 Conv, 2 BN, 2 Concat, Add",
      "3 Conv, 2 Concat, Add", "one channel of the border has another number")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x, shift = g.input("x", (1, 8, 6, 6)), g.rng().normal(size=8)
    y = g.conv(x, 8, 1, bias=g.constant(shift))
    shift[5] += 0.5
    y = border(g, y, shift, scattered=False)
    g.output(g.add(conv_bn(g, x, 8, 3), g.bn(g.conv(y, 8, 3))))


@miss("a row cut off one branch", "1", "2 Conv, 2 BN, 2 Slice, Add", "2 Conv, 2 Slice, Add",
      "one branch loses its first row before the kernel, the other behind it")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", (None, 8, 14, 14))
    late = g.slice(conv_bn(g, x, 8, 3), 1, 14, axis=2)
    g.output(g.add(late, conv_bn(g, g.slice(x, 1, 14, axis=2), 8, 3)))


@miss("zeros around what a convolution gives", "2", "Conv, Pad", "Conv, Pad",
      "one convolution that pads would multiply zeros around the image")  # fmt: skip
def _(g: GraphBuilder) -> None:
    g.output(g.pad(g.conv(g.input("x", (1, 8, 14, 14)), 8, 1), 1))


@miss("a transposed and a plain convolution", "1", "Conv, ConvTranspose, 2 BN, Add",
      "Conv, ConvTranspose, Add", "the two read their kernels the other way round")  # fmt: skip
def _(g: GraphBuilder) -> None:
    x = g.input("x", _IMAGE)
    y = g.bn(g.conv_transpose(x, 8, 3, padding=1))
    g.output(g.add(y, conv_bn(g, x, 8, 3)))
