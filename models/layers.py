"""The layers that CSPResNet is made of, in train-time form.

State dicts have the keys of PaddleDetection 2.6. Shapes are N, C, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from reparam.conv import Affine, Block, Parallel, Sequential, fuse
from reparam.errors import ReparamError, UnsupportedModelError
from reparam.models.blocks import (
    ReparamBlock,
    batch_norm_of,
    conv2d_from,
    dtype_of,
    float64,
    linear_part,
)
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle

nn = paddle.nn
F = paddle.nn.functional

Activation: TypeAlias = "str | Callable[[Any], Any] | None"

_ACTIVATIONS = {
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "swish": F.swish,
}


def _identity(x: Any) -> Any:
    return x


def _swish_in_parts(x: Any) -> Any:
    return x * F.sigmoid(x)


def activation(act: Activation, trt: bool = False) -> Callable[[Any], Any]:
    """Return the function that ``act`` names; None is the identity, a function is itself.

    Args:
        trt: write swish as x * sigmoid(x), for runtimes without an operator of that name.

    Raises:
        UnsupportedModelError: no activation has that name.
    """
    if act is None:
        return _identity
    if not isinstance(act, str):
        return act
    if trt and act in ("swish", "silu"):
        return _swish_in_parts
    if act not in _ACTIVATIONS:
        nearest = get_close_matches(act, _ACTIVATIONS, n=1)
        raise UnsupportedModelError(
            f"there is no activation named '{act}'",
            hint=f"'{nearest[0]}'" if nearest else f"one of {', '.join(_ACTIVATIONS)}",
        )
    function: Callable[[Any], Any] = _ACTIVATIONS[act]
    return function


class ConvBNLayer(Layer):
    """Convolution, BatchNorm, activation; once folded, convolution with bias, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        act: Activation = None,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias_attr=False,
        )
        self.bn = nn.BatchNorm2D(out_channels, epsilon=epsilon)
        self.act = activation(act)

    @property
    def folded(self) -> bool:
        """Whether the BatchNorm is in the convolution."""
        return not hasattr(self, "bn")

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        if not self.folded:
            y = self.bn(y)
        return self.act(y)

    def as_block(self) -> Block:
        """Return the linear part as it stands, with running statistics."""
        conv = linear_part(self.conv)
        return conv if self.folded else Sequential(conv, batch_norm_of(self.bn))

    def fold_batch_norm(self) -> None:
        """Give the convolution a bias and drop the BatchNorm, in place; nothing where done.

        Raises:
            NotFusibleError: a value does not fit the dtype; the layer is left as it was.
        """
        if not self.folded:
            conv = conv2d_from(fuse(self.as_block()), dtype_of(self.conv))
            self.conv = conv
            del self.bn


def fold_batch_norms(model: Any) -> tuple[str, ...]:
    """Fold the BatchNorm of every ConvBNLayer of ``model``, in place; return which were changed.

    Bring blocks to deploy form first: branches folded before they are fused are rounded twice.

    Raises:
        ReparamError: a layer cannot be folded; the message names it.
    """
    changed = []
    for prefix, layer in model.named_sublayers(include_self=True):
        if isinstance(layer, ConvBNLayer) and not layer.folded:
            try:
                layer.fold_batch_norm()
            except ReparamError as error:
                raise error.located(f"cannot fold the BatchNorm of '{prefix}'") from error
            changed.append(prefix)
    return tuple(changed)


class RepVggBlock(ReparamBlock):
    """A 3x3 and a 1x1 convolution, each with its BatchNorm, added, then the activation.

        train-time:  x -+- conv1 3x3 - bn ---------+- sum - act - y
                        +- conv2 1x1 - bn - alpha -+
        deploy:      x --- conv 3x3 ------------------- act - y

    Args:
        alpha: learn a factor for the 1x1 branch. A learned 0 makes the branch vanish.
        deploy: build the deploy form.

    Source: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250), figure 3.
    """

    deploy_name = "conv"
    branch_names = ("conv1", "conv2", "alpha")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        act: Activation = "relu",
        alpha: bool = False,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.act = activation(act)
        if deploy:
            self.conv = nn.Conv2D(in_channels, out_channels, 3, padding=1)
            return
        self.conv1 = ConvBNLayer(in_channels, out_channels, 3, padding=1, epsilon=epsilon)
        self.conv2 = ConvBNLayer(in_channels, out_channels, 1, epsilon=epsilon)
        self.alpha = None
        if alpha:
            one = paddle.ParamAttr(initializer=nn.initializer.Constant(1.0))
            self.alpha = self.create_parameter([1], attr=one)

    def forward(self, x: Any) -> Any:
        if self.deployed:
            return self.act(self.conv(x))
        y = self.conv2(x)
        if self.alpha is not None:
            y = self.alpha * y
        return self.act(self.conv1(x) + y)

    def branches(self) -> Block:
        second = self.conv2.as_block()
        if self.alpha is not None:
            channels = int(self.conv2.conv.weight.shape[0])
            second = Sequential(second, Affine.scalar(float64(self.alpha).item(), channels))
        return Parallel({"conv1": self.conv1.as_block(), "conv2": second})


class BasicBlock(Layer):
    """A 3x3 ConvBNLayer and a RepVggBlock of ``channels`` channels, added to their input.

    Args:
        shortcut: add the input; otherwise the two stand alone.
    """

    def __init__(
        self,
        channels: int,
        *,
        act: Activation = "relu",
        alpha: bool = False,
        shortcut: bool = True,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = ConvBNLayer(channels, channels, 3, padding=1, act=act, epsilon=epsilon)
        self.conv2 = RepVggBlock(
            channels, channels, act=act, alpha=alpha, deploy=deploy, epsilon=epsilon
        )

    def forward(self, x: Any) -> Any:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class EffectiveSELayer(Layer):
    """Channel attention: the input times a gate computed from its mean over H and W.

    Source: Lee and Park 2020, CenterMask (arXiv 1911.06667), section 3.3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))
