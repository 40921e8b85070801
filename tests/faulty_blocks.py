"""Blocks as other projects write them, whose own methods go wrong in ways that theirs do.

Written for these tests; ``tests.faulty_blocks:build`` is what ``--model`` names. The names of the
branches are those of RepVGG.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.adapters.paddle_models import import_paddle
from tests.own_network import Attention

paddle = import_paddle()
nn, F = paddle.nn, paddle.nn.functional


class ConvNorm(nn.Layer):
    """A convolution and its BatchNorm, which ``fuse`` returns as one new convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1,
                 epsilon: float = 1e-5) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, groups=groups,
                              bias_attr=False)  # fmt: skip
        self.bn = nn.BatchNorm2D(outputs, epsilon=epsilon)

    def forward(self, x):
        return self.bn(self.conv(x))

    def folded(self):
        factor = self.bn.weight / (self.bn._variance + self.bn._epsilon).sqrt()
        return self.conv.weight * factor.reshape([-1, 1, 1, 1]), (
            self.bn.bias - self.bn._mean * factor
        )


class Block(nn.Layer):
    """relu(attention(3x3 + 1x1 + identity)), converted rightly."""

    def __init__(self, inputs: int, outputs: int | None = None, *, stride: int = 1,
                 groups: int = 1, attention: bool = False,
                 epsilon: float = 1e-5) -> None:  # fmt: skip
        super().__init__()
        outputs = outputs or inputs
        self.geometry = (inputs, outputs, stride, groups)
        self.rbr_dense = ConvNorm(inputs, outputs, 3, stride, groups)
        self.rbr_1x1 = ConvNorm(inputs, outputs, 1, stride, groups, epsilon)
        same = inputs == outputs and stride == 1
        self.rbr_identity = nn.BatchNorm2D(outputs) if same else None
        self.se = Attention(outputs) if attention else nn.Identity()

    def forward(self, x):
        if hasattr(self, "rbr_reparam"):
            return F.relu(self.se(self.rbr_reparam(x)))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(self.se(y if self.rbr_identity is None else y + self.rbr_identity(x)))

    def kernel_and_bias(self):
        wide, wide_bias = self.rbr_dense.folded()
        point, point_bias = self.rbr_1x1.folded()
        kernel, bias = wide + F.pad(point, [1, 1, 1, 1]), wide_bias + point_bias
        if self.rbr_identity is not None:
            factor = (
                self.rbr_identity.weight
                / (self.rbr_identity._variance + self.rbr_identity._epsilon).sqrt()
            )
            kernel = kernel + self.unit(kernel) * factor.reshape([-1, 1, 1, 1])
            bias = bias + self.rbr_identity.bias - self.rbr_identity._mean * factor
        return kernel, bias

    def unit(self, kernel):
        unit = np.zeros(kernel.shape, np.float32)
        channels = np.arange(kernel.shape[0])
        unit[channels, channels % kernel.shape[1], 1, 1] = 1
        return paddle.to_tensor(unit)

    def convolution(self, stride: int):
        inputs, outputs, _, groups = self.geometry
        conv = nn.Conv2D(inputs, outputs, 3, stride, 1, groups=groups)
        kernel, bias = self.kernel_and_bias()
        conv.weight.set_value(kernel)
        conv.bias.set_value(bias)
        return conv

    def convert_to_deploy(self):
        self.rbr_reparam = self.convolution(self.geometry[2])
        del self.rbr_dense, self.rbr_1x1
        self.rbr_identity = None


class Broadcasts(Block):
    """Adds the identity of a depthwise convolution to every input channel of a dense one."""

    def unit(self, kernel):
        unit = np.zeros((kernel.shape[0], 1, 3, 3), np.float32)
        unit[:, 0, 1, 1] = 1
        return paddle.to_tensor(unit)


class MergesOne(Block):
    """Forgets every branch but the first."""

    def kernel_and_bias(self):
        return self.rbr_dense.folded()


class StrideOne(Block):
    """Makes a convolution of stride 1, whatever the stride of the branches is."""

    def convert_to_deploy(self):
        self.rbr_reparam = self.convolution(1)
        del self.rbr_dense, self.rbr_1x1
        self.rbr_identity = None


class DropsAttention(Block):
    """Keeps its branches, and leaves the attention out of the deploy form."""

    is_repped = False

    def forward(self, x):
        return F.relu(self.rbr_reparam(x)) if self.is_repped else super().forward(x)

    def re_parameterize(self):
        if not self.is_repped:
            self.rbr_reparam = self.convolution(self.geometry[2])
            self.is_repped = True

    convert_to_deploy = None


class Raises(Block):
    """Fails, half done."""

    def convert_to_deploy(self):
        del self.rbr_1x1
        raise AttributeError("no such thing")


class Outside(Block):
    """Converts itself rightly, and changes a weight that is not its own."""

    neighbours: tuple[Any, ...] = ()

    def convert_to_deploy(self):
        super().convert_to_deploy()
        (other,) = self.neighbours
        other.weight.set_value(other.weight * 1.5)


class NeedsArguments(Block):
    def switch_to_deploy(self, device):
        raise AssertionError("called")

    convert_to_deploy = None


class Placeholder(Block):
    """Has its deploy convolution from the start, at random; its keys never change."""

    is_repped = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inputs, outputs, stride, groups = self.geometry
        self.rbr_reparam = nn.Conv2D(inputs, outputs, 3, stride, 1, groups=groups)

    def forward(self, x):
        if self.is_repped:
            return F.relu(self.se(self.rbr_reparam(x)))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(self.se(y if self.rbr_identity is None else y + self.rbr_identity(x)))

    def rep(self):
        kernel, bias = self.kernel_and_bias()
        self.rbr_reparam.weight.set_value(kernel)
        self.rbr_reparam.bias.set_value(bias)
        self.is_repped = True

    convert_to_deploy = None


class PlaceholderOfOne(Placeholder):
    """The same, and forgets every branch but the first."""

    def kernel_and_bias(self):
        return self.rbr_dense.folded()


class Returns(ConvNorm):
    """Returns the one convolution that is to stand in its place; changes nothing itself."""

    factor = 1.0

    def fuse(self):
        weight, bias = self.folded()
        weight = weight * self.factor
        old = self.conv
        conv = nn.Conv2D(old._in_channels, weight.shape[0], weight.shape[2:], old._stride,
                         old._padding, groups=old._groups)  # fmt: skip
        conv.weight.set_value(weight)
        conv.bias.set_value(bias)
        return conv


class ReturnsWrong(Returns):
    factor = 1.01


class Residual(nn.Layer):
    """x + convolution(x): adds the identity to the convolution, and returns that."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.m = Returns(channels, channels, kernel, groups=channels)

    def forward(self, x):
        return x + self.m(x)

    def fuse(self):
        conv = self.m.fuse()
        unit = np.zeros(conv.weight.shape, np.float32)
        unit[:, 0, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = 1
        conv.weight.set_value(conv.weight + paddle.to_tensor(unit))
        return conv


class ChangesAndReturns(Residual):
    """Has its convolution folded already, adds to it where it is, and returns it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.m = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x):
        return x + self.m(x)

    def fuse(self):
        with paddle.no_grad():
            unit = np.zeros(self.m.weight.shape, np.float32)
            unit[:, 0, 1, 1] = 1
            self.m.weight.set_value(self.m.weight + paddle.to_tensor(unit))
        return self.m


class Around(nn.Layer):
    """A convolution, the block, another convolution, and another block if there is one."""

    def __init__(self, block: Any, channels: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, channels, 3, padding=1)
        self.block = block
        self.head = nn.Conv2D(outputs, 2, 1)
        self.next = nn.Identity()

    def forward(self, x):
        return self.next(self.head(self.block(self.stem(x))))


class Whole(nn.Layer):
    """A network that converts itself, all of its blocks at once; once only."""

    factor = 1.0

    def __init__(self, depth: int = 3, channels: int = 4) -> None:
        super().__init__()
        self.stem = Returns(3, channels, 3, 2)
        self.body = nn.Sequential(*(Residual(channels) for _ in range(depth)))
        self.is_repped = False
        self.scale = 1.0

    def forward(self, x):
        x = F.gelu(self.stem(x))
        for part in self.body:
            x = F.gelu(part(x))
        return x * self.scale

    def rep(self):
        if self.is_repped:
            raise RuntimeError("twice")
        for holder in (self, self.body):
            for name, part in list(holder.named_children()):
                if hasattr(part, "fuse"):
                    setattr(holder, name, part.fuse())
        self.scale = self.factor
        self.is_repped = True


class WholeWrong(Whole):
    """Doubles what comes out of it in deploy form."""

    factor = 2.0


BLOCKS = {kind.__name__: kind for kind in (
    Block, Broadcasts, MergesOne, StrideOne, DropsAttention, Raises, Outside, NeedsArguments,
    Placeholder, PlaceholderOfOne,
)}  # fmt: skip


def build(
    kind: str = "Block",
    channels: int = 4,
    outputs: int | None = None,
    followed: bool = False,
    **options: Any,
) -> Any:
    """Return a network around one block, another one after it if ``followed``."""
    network = Around(BLOCKS[kind](channels, outputs, **options), channels, outputs or channels)
    if followed:
        network.next = Residual(2)
    if kind == "Outside":
        network.block.__dict__["neighbours"] = (network.stem,)
    return network


def returns(kind: str = "Returns", channels: int = 4) -> Any:
    """Return a network around a block whose method returns another Layer."""
    kinds = {
        "Returns": lambda: Returns(channels, channels, 3),
        "ReturnsWrong": lambda: ReturnsWrong(channels, channels, 3),
        "Residual": lambda: Residual(channels),
        "ChangesAndReturns": lambda: ChangesAndReturns(channels),
    }
    return Around(kinds[kind](), channels, channels)
