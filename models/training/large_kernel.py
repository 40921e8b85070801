"""The large kernel with a small one beside it. State dicts have the keys of RepLKNet."""

from __future__ import annotations

from typing import Any

from reparam.conv import Block, Parallel
from reparam.errors import UnsupportedModelError
from reparam.models.layers import Activation
from reparam.models.layout import EPSILON
from reparam.models.training.base import SumBlock, conv_bn
from reparam.models.training.geometry import Geometry, PerAxis

SMALL = 5


class LargeKernelBlock(SumBlock):
    """A large and a small kernel around the same centre, each with BatchNorm, added.

        train-time:  x -+- lkb_origin.conv KxK - bn -+- sum - act - y
                        +- small_conv.conv kxk - bn -+
        deploy:      x --- lkb_reparam KxK ---------------- act - y

    The paper's networks are depthwise here: ``groups=in_channels``.

    Args:
        kernel_size: odd on both axes.
        small_kernel: no larger than ``kernel_size``; None: no small kernel.
        act: name of the activation, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.

    Source: Ding et al. 2022, RepLKNet (arXiv 2203.06717), section 3.2, guideline 3.
    """

    deploy_name = "lkb_reparam"
    branch_names = ("lkb_origin", "small_conv")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 31,
        *,
        small_kernel: PerAxis | None = SMALL,
        stride: PerAxis = 1,
        groups: int = 1,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        super().__init__(geometry, act, deploy)
        if deploy:
            return
        self.lkb_origin = conv_bn(geometry, epsilon)
        self.small_conv = None
        if small_kernel is not None:
            small = geometry.with_kernel(small_kernel)
            if any(k > whole for k, whole in zip(small.kernel, geometry.kernel, strict=True)):
                raise UnsupportedModelError(
                    f"a small kernel of {small.kernel} is larger than the whole, {geometry.kernel}"
                )
            self.small_conv = conv_bn(small, epsilon)

    def train_time(self, x: Any) -> Any:
        y = self.lkb_origin(x)
        return y if self.small_conv is None else y + self.small_conv(x)

    def branches(self) -> Block:
        branches = {"lkb_origin": self.lkb_origin.as_block()}
        if self.small_conv is not None:
            branches["small_conv"] = self.small_conv.as_block()
        return Parallel(branches)
