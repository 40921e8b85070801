"""A network as a user would write one, converted by its own methods: rightly, or not.

Written for these tests; ``tests.own_network:build`` is what ``--model`` names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reparam.adapters.paddle_models import import_paddle

paddle = import_paddle()
nn, F = paddle.nn, paddle.nn.functional

MISTAKES = ("epsilon", "identity", "alpha", "attention", "corner", "mean", "nan", "shape", "gone")


class Branch(nn.Layer):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(inputs, outputs, kernel, stride=stride, padding=kernel // 2,
                              groups=groups, bias_attr=False)  # fmt: skip
        self.norm = nn.BatchNorm2D(outputs)

    def forward(self, x):
        return self.norm(self.conv(x))


class Attention(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2D(channels, channels, 1)

    def forward(self, x):
        return x * F.sigmoid(self.squeeze(x.mean([2, 3], keepdim=True)))


class Block(nn.Layer):
    """relu(attention(3x3 + alpha * 1x1 + identity)); converts itself as its ``mistake`` says."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, groups: int = 1,
                 attention: bool = False, mistake: str | None = None) -> None:  # fmt: skip
        super().__init__()
        self.settings = {"stride": stride, "groups": groups}
        self.wide = Branch(inputs, outputs, 3, stride, groups)
        self.narrow = Branch(inputs, outputs, 1, stride, groups)
        self.alpha = self.create_parameter([1])
        self.identity = nn.BatchNorm2D(outputs) if inputs == outputs and stride == 1 else None
        self.attention = Attention(outputs) if attention else None
        self.mistake = mistake

    def forward(self, x):
        if hasattr(self, "one"):
            y = self.one(x)
        else:
            y = self.wide(x) + self.alpha * self.narrow(x)
            if self.identity is not None:
                y = y + self.identity(x)
        attention = self.attention
        if attention is not None and not (self.mistake == "attention" and hasattr(self, "one")):
            y = attention(y)
        return F.relu(y)

    def convert_to_deploy(self):
        kernel, bias = self._sum()
        outputs, inputs = kernel.shape[0], kernel.shape[1] * self.settings["groups"]
        one = nn.Conv2D(inputs, outputs, 3, padding=1, **self.settings)
        one.weight.set_value(kernel)
        one.bias.set_value(bias)
        if self.mistake == "nan":
            one.bias.set_value(bias * float("nan"))
        if self.mistake == "shape":
            one = nn.Conv2D(inputs, outputs, 3, **self.settings)
        if self.mistake == "gone":
            one = nn.Conv2D(inputs + 1, outputs, 3, padding=1)
        del self.wide, self.narrow, self.alpha
        self.identity = None
        self.one = one

    def _sum(self):
        wide, wide_bias = self._fold(self.wide.conv.weight, self.wide.norm)
        narrow, narrow_bias = self._fold(self.narrow.conv.weight, self.narrow.norm)
        padding = [2, 0, 2, 0] if self.mistake == "corner" else [1, 1, 1, 1]
        alpha = self.alpha * (1.0001 if self.mistake == "alpha" else 1)
        kernel = wide + alpha * F.pad(narrow, padding)
        bias = wide_bias + alpha * narrow_bias
        if self.identity is None or self.mistake == "identity":
            return kernel, bias
        unit = np.zeros(kernel.shape, np.float32)
        for channel in range(kernel.shape[0]):
            unit[channel, channel % kernel.shape[1], 1, 1] = 1
        same, same_bias = self._fold(paddle.to_tensor(unit), self.identity)
        return kernel + same, bias + same_bias

    def _fold(self, weight, norm):
        epsilon = 0 if self.mistake == "epsilon" else norm._epsilon
        factor = norm.weight / (norm._variance + epsilon).sqrt()
        bias = norm.bias - (0 if self.mistake == "mean" else norm._mean) * factor
        return weight * factor.reshape([-1, 1, 1, 1]), bias


class Network(nn.Layer):
    def __init__(self, width: int, classes: int, as_dict: bool, **options: Any) -> None:
        super().__init__()
        self.as_dict = as_dict
        self.stem = Block(3, width, stride=2, mistake=None)
        self.body = nn.Sequential(Block(width, width, **options), Block(width, width, groups=2))
        self.norm = nn.BatchNorm2D(width)
        self.head = nn.Linear(width, classes)

    def forward(self, pixels):
        x = pixels["image"] if self.as_dict else pixels
        x = self.norm(self.body(self.stem(x)))
        return self.head(x.mean([2, 3]))


def build(width: int = 8, classes: int = 5, as_dict: bool = False, **options: Any) -> Any:
    return Network(width, classes, as_dict, **options)


def randomised(layer: Any, seed: int = 0) -> Any:
    """Statistics as training leaves them: gamma of both signs, mean not 0, variance not 1."""
    rng = np.random.default_rng(seed)
    for key, tensor in layer.state_dict().items():
        shape = tuple(tensor.shape)
        if key.endswith("_variance"):
            values = rng.uniform(0.2, 3.0, shape)
        elif len(shape) == 4:
            values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        else:
            values = rng.normal(size=shape)
        tensor.set_value(values.astype(np.float32))
    return layer


def weights(seed: int = 0, **arguments: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a network as a checkpoint of it would hold them."""
    layer = randomised(build(**arguments), seed)
    return {key: tensor.numpy() for key, tensor in layer.state_dict().items()}
