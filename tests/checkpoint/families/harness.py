"""What every family is tested with: random blocks, an independent reference, derived bounds.

The reference of a family is its forward pass, written down in its test with the functions here:
they are paddle's own, in float64, and know nothing of terms, trees or laws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import paddle
from paddle.nn import functional as F

from reparam.checkpoint import fuse_arrays
from reparam.checkpoint.blocks import block_tree
from reparam.checkpoint.plan import plan_of
from reparam.conv import evaluate, fuse
from reparam.conv.bounds import SMALLEST_NORMAL, UNIT_ROUNDOFF, gamma, rounding_count
from reparam.conv.magnitudes import magnitude_of

Arrays = dict[str, np.ndarray]
STRIDES = ((1, 1), (2, 2), (2, 1))
SPELLINGS = ("paddle", "torch")


class Block:
    """A random block in train-time form, and the operators of its forward pass.

    Args:
        spelling: of the BatchNorms' statistics.
        epsilon: of the BatchNorms.
    """

    def __init__(
        self, seed: int = 0, *, spelling: str = "paddle", epsilon: float = 1e-5, prefix: str = "b."
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: Arrays = {}
        self.spelling, self.epsilon, self.prefix = spelling, epsilon, prefix

    def add(self, name: str, values: np.ndarray) -> None:
        self.arrays[self.prefix + name] = np.asarray(values, dtype=np.float32)

    def add_conv(self, name: str, shape: Sequence[int], *, bias: bool = False) -> None:
        fan_in = np.prod(shape[1:])
        self.add(f"{name}.weight", self.rng.normal(size=shape) / np.sqrt(fan_in))
        if bias:
            self.add(f"{name}.bias", self.rng.normal(size=shape[:1]))

    def add_norm(self, name: str, channels: int) -> None:
        """Statistics as training leaves them: gamma of both signs, mean not 0, variance not 1."""
        rng = self.rng
        mean, variance = (
            ("_mean", "_variance") if self.spelling == "paddle" else ("running_mean", "running_var")
        )
        stem = f"{name}." if name else ""
        signs = rng.choice([-1.0, 1.0], channels)
        self.add(f"{stem}weight", rng.uniform(0.5, 1.5, channels) * signs)
        self.add(f"{stem}bias", rng.normal(size=channels))
        self.add(f"{stem}{mean}", rng.normal(size=channels))
        self.add(f"{stem}{variance}", rng.uniform(0.2, 3.0, channels))
        if self.spelling == "torch":
            key = f"{self.prefix}{stem}num_batches_tracked"
            self.arrays[key] = np.array(1000, dtype=np.int64)

    def add_conv_norm(self, name: str, shape: Sequence[int], conv="conv", norm="bn") -> None:
        self.add_conv(f"{name}.{conv}", shape)
        self.add_norm(f"{name}.{norm}", shape[0])

    def get(self, name: str):
        return paddle.to_tensor(self.arrays[self.prefix + name].astype(np.float64))

    def conv(self, x, name: str, *, stride=1, padding=None, dilation=1, groups=1):
        """Apply a stored convolution; padded so that its output is as large as its input."""
        weight = self.get(f"{name}.weight")
        bias = self.get(f"{name}.bias") if f"{self.prefix}{name}.bias" in self.arrays else None
        if padding is None:
            dilations = (dilation, dilation) if isinstance(dilation, int) else dilation
            padding = [d * (k // 2) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def norm(self, x, name: str):
        """Apply a stored BatchNorm by its definition."""
        mean, variance = (
            ("_mean", "_variance") if self.spelling == "paddle" else ("running_mean", "running_var")
        )
        stem = f"{name}." if name else ""
        values = [self.get(stem + key) for key in ("weight", "bias", mean, variance)]
        scale, shift, mean, variance = (value.reshape([1, -1, 1, 1]) for value in values)
        return (x - mean) / paddle.sqrt(variance + self.epsilon) * scale + shift

    def conv_norm(self, x, name: str, conv="conv", norm="bn", **geometry):
        return self.norm(self.conv(x, f"{name}.{conv}", **geometry), f"{name}.{norm}")


Forward = Callable[..., "paddle.Tensor"]


def assert_fuses(
    block: Block,
    forward: Forward,
    *,
    family: str,
    groups: int = 1,
    strides: Sequence[tuple[int, int]] = STRIDES,
    dilations: Sequence[int] = (1,),
    options: dict | None = None,
) -> Arrays:
    """Fuse ``block``, compare with its forward pass at every stride and dilation; return the file.

    Args:
        forward: of the linear part, called as ``forward(x, stride, dilation)``.
        groups: of the fused convolution.
        options: of fuse_arrays, such as ``epsilon`` or ``families``.
    """
    options = options or {}
    fused, report = fuse_arrays(block.arrays, **options)
    assert [done.family for done in report.fused] == [family], report.left
    shapes = {key: array.shape for key, array in block.arrays.items()}
    (match,) = plan_of(shapes, families=options.get("families", ())).blocks
    weight, bias = (fused[key] for key in (match.weight_key, match.bias_key))
    assert weight.dtype == bias.dtype == np.float32
    assert match.geometry.groups in (None, groups)
    inputs = weight.shape[1] * groups
    window = weight.shape[2:]
    tree = block_tree(match, block.arrays, block.epsilon)
    for stride, dilation in product(strides, dilations):
        size = [(k - 1) * dilation + 4 + axis for axis, k in enumerate(window)]
        x = np.random.default_rng(5).normal(size=(2, inputs, *size))
        given = paddle.to_tensor(x)
        padding = [dilation * (k // 2) for k in window]
        found = F.conv2d(
            given,
            paddle.to_tensor(weight.astype(np.float64)),
            paddle.to_tensor(bias.astype(np.float64)),
            list(stride),
            padding,
            dilation,
            groups,
        ).numpy()
        expected = forward(given, list(stride), dilation).numpy()
        bound = bound_of(tree, x, stride, dilation, groups, padding)
        assert found.shape == expected.shape
        assert (np.abs(found - expected) <= bound).all(), (stride, dilation)
    return fused


def bound_of(tree, x, stride, dilation, groups, padding):
    """Twice the float64 error of either side, and one rounding of the weights to float32."""
    conv = fuse(magnitude_of(tree))
    conv = replace(
        conv,
        stride=stride,
        dilation=(dilation, dilation),
        padding=tuple((p, p) for p in padding),
        groups=groups,
    )
    magnitude = evaluate(conv, np.abs(x))
    taps = rounding_count(tree)
    tiny = SMALLEST_NORMAL["float32"] * taps * (1 + float(np.abs(x).max()))
    return 2 * gamma(taps) * magnitude + UNIT_ROUNDOFF["float32"] * magnitude + tiny
