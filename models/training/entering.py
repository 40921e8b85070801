"""A new block made the function of the convolution whose place it takes.

The main branch takes the weight over, and its BatchNorm is made to change nothing: gamma is
sqrt(variance + epsilon), beta is the mean plus the bias. The BatchNorm that another branch ends in
gets gamma 0, beta 0: the branch adds nothing, and learns from the first step on, gamma first. What
cannot be zero, an identity without BatchNorm, is taken off the weight of the main branch.

Sources: Goyal et al. 2017 (arXiv 1706.02677), section 5.1, for gamma 0 at the end of a branch.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np

from reparam.conv import Conv, fuse
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.conv.certificate import certificate_of, channel_bounds
from reparam.conv.magnitudes import weight_roundings
from reparam.errors import NotEquivalentError, UnsupportedModelError
from reparam.models.blocks import float64, rounded
from reparam.models.paddle_api import paddle
from reparam.models.training.makers import Maker

nn = paddle.nn

STORED_BY_A_NORM = 3  # gamma, variance and beta, each rounded once


def part(block: Any, path: str) -> Any:
    """Return the sublayer of ``block`` at a dotted path."""
    for name in path.split("."):
        block = getattr(block, name)
    return block


def take_over(block: Any, maker: Maker, conv: Any) -> None:
    """Make ``block`` the function of ``conv``; its main branch then holds the same weight.

    The parameter itself, so that an optimizer, a frozen weight or a learning rate of its own go
    on as they were. Where another branch cannot be zero, a new one, with what is left.
    """
    for name, layer in block.named_sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            _neutral(layer)
            if name not in maker.path and any(fnmatchcase(name, p) for p in maker.last):
                layer.weight.set_value(paddle.zeros_like(layer.weight))
        elif name in maker.zero and isinstance(layer, nn.Conv2D):
            layer.weight.set_value(paddle.zeros_like(layer.weight))
    settle(block, maker, conv.bias)
    main = part(block, maker.conv)
    if not maker.identity:
        main.weight = conv.weight
        return
    main.weight.set_value(paddle.zeros_like(main.weight))
    rest = fuse(block.as_block())
    main.weight.set_value(rounded(float64(conv.weight) - rest.weight, conv.weight.dtype))
    main.weight.stop_gradient = conv.weight.stop_gradient


def _neutral(norm: Any) -> None:
    """Give a new BatchNorm statistics with which it changes nothing: variance + epsilon is 1."""
    norm._variance.set_value(paddle.full_like(norm._variance, 1.0 - norm._epsilon))


def settle(block: Any, maker: Maker, bias: Any) -> None:
    """Make the BatchNorms of the main branch change nothing, the last but add ``bias``."""
    for name in maker.path:
        last = name == maker.path[-1]
        _change_nothing(part(block, name), float64(bias) if last and bias is not None else 0.0)


def _change_nothing(norm: Any, bias: Any) -> None:
    """Set gamma and beta by the statistics, so that the BatchNorm gives x + bias.

    The variance is moved by less than its rounding, to fit the rounded gamma: scale is then 1 to
    within half a unit of the dtype.
    """
    dtype, epsilon = norm.weight.dtype, float(norm._epsilon)
    gamma = rounded(np.sqrt(float64(norm._variance) + epsilon), dtype)
    norm.weight.set_value(gamma)
    variance = np.maximum(float64(gamma) ** 2 - epsilon, 0.0)
    norm._variance.set_value(rounded(variance, dtype))
    norm.bias.set_value(rounded(float64(norm._mean) + bias, dtype))


class Statistics:
    """Hooks that give every BatchNorm of a block the statistics of what it is given.

    While they are there the block is run in evaluation mode. Each BatchNorm first takes in the
    batch, as the mean over all batches so far, then computes: so those after it see what they
    will see in training, and the block is at every moment the function that it has to be.
    """

    def __init__(self, block: Any, maker: Maker, bias: Any) -> None:
        self.block, self.path = block, maker.path
        self.bias = 0.0 if bias is None else float64(bias)
        self.seen: dict[str, tuple[int, Any, Any]] = {}
        self.hooks = [
            layer.register_forward_pre_hook(partial(self._take_in, name))
            for name, layer in block.named_sublayers()
            if isinstance(layer, nn.BatchNorm2D)
        ]

    def _take_in(self, name: str, norm: Any, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().astype("float64")
        batch_mean = values.mean([0, 2, 3], keepdim=True)
        batch_variance = (values - batch_mean).square().mean([0, 2, 3]).numpy()
        batches, mean, variance = self.seen.get(name, (0, 0.0, 0.0))
        batches += 1
        mean = mean + (batch_mean.numpy().reshape(-1) - mean) / batches
        variance = variance + (batch_variance - variance) / batches
        if not np.isfinite(variance).all():
            raise UnsupportedModelError(
                "the network computes NaN or Inf from data=",
                found=f"before '{name}' of a new {type(self.block).__name__}",
            )
        self.seen[name] = batches, mean, variance
        norm._mean.set_value(rounded(mean, norm.weight.dtype))
        norm._variance.set_value(rounded(variance, norm.weight.dtype))
        if name in self.path:
            _change_nothing(norm, self.bias if name == self.path[-1] else 0.0)


def prove(block: Any, maker: Maker, conv: Any, original: Conv) -> float:
    """Return how far ``block`` can be from ``original``, in roundings of its dtype, on any input.

    Raises:
        NotEquivalentError: by more than storing its main branch takes: one rounding for the
            weight, three for each BatchNorm.
    """
    tree = block.as_block()
    fused = fuse(tree)
    same = ("stride", "padding", "dilation", "groups", "kernel", "in_channels")
    for what in same:
        if getattr(fused, what) != getattr(original, what):
            raise NotEquivalentError(
                f"{type(block).__name__} is a convolution with another {what}",
                found=f"{getattr(fused, what)}; needed: {getattr(original, what)}",
            )
    dtype = str(conv.weight.dtype).rpartition(".")[2]
    bounds = channel_bounds(tree, fused, original.weight, original.bias, dtype)
    certificate = certificate_of([bounds], dtype)
    # and what the certificate, computed in float64, allows for its own roundings
    own = (weight_roundings(tree) + 2) * UNIT_ROUNDOFF["float64"] / UNIT_ROUNDOFF[dtype]
    allowed = 1 + STORED_BY_A_NORM * len(maker.path) + own
    if not certificate.roundings <= allowed:
        raise NotEquivalentError(
            f"{type(block).__name__} is not the convolution in whose place it is put",
            found=f"{certificate}; allowed: {allowed:.2g}",
        )
    return certificate.roundings
