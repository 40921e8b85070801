"""The large kernel with dilated ones beside it. State dicts have the keys of UniRepLKNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reparam.conv import Block, Parallel, Sequential
from reparam.errors import UnsupportedModelError
from reparam.models.blocks import batch_norm_of, conv_of
from reparam.models.layers import Activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import paddle
from reparam.models.training.base import SumBlock
from reparam.models.training.geometry import Geometry, PerAxis

nn = paddle.nn

BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""Kernel size and dilation of each branch beside a kernel of that size, as UniRepLKNet has them."""


class DilatedReparamBlock(SumBlock):
    """A large kernel and smaller ones with dilation around the same centre, each with BatchNorm.

        train-time:  x -+- lk_origin KxK -------------- origin_bn ----+- sum - act - y
                        +- dil_conv_k{k}_{r}, dilated - dil_bn_k{k}_{r} +
        deploy:      x --- lk_origin KxK, with bias ------------------------ act - y

    The paper's networks are depthwise here: ``groups=in_channels``. ``lk_origin`` is the name of
    a weight in both forms, so it is the bias that tells them apart in a state dict.

    Args:
        kernel_size: odd.
        dilated: (kernel size, dilation) of each branch; none wider than ``kernel_size``. None:
            those of :data:`BRANCHES`.
        act: name of the activation, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.

    Source: Ding et al. 2024, UniRepLKNet (arXiv 2311.15599), section 3.1.
    """

    deploy_name = "lk_origin"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 17,
        *,
        dilated: Sequence[tuple[int, int]] | None = None,
        stride: PerAxis = 1,
        groups: int = 1,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        super().__init__(geometry, act, deploy)
        self.dilated = () if deploy else _dilated(geometry, dilated)
        if deploy:
            return
        self.lk_origin = geometry.conv()
        self.origin_bn = nn.BatchNorm2D(out_channels, epsilon=epsilon)
        for kernel, dilation in self.dilated:
            conv, norm = _names(kernel, dilation)
            setattr(self, conv, geometry.with_kernel(kernel, dilation).conv())
            setattr(self, norm, nn.BatchNorm2D(out_channels, epsilon=epsilon))

    @property
    def branch_names(self) -> tuple[str, ...]:  # type: ignore[override]
        beside = [name for branch in self.dilated for name in _names(*branch)]
        return ("lk_origin", "origin_bn", *beside)

    @property
    def deployed(self) -> bool:
        return not hasattr(self, "origin_bn")

    def _pairs(self) -> list[tuple[str, Any, Any]]:
        found = [("lk_origin", self.lk_origin, self.origin_bn)]
        for branch in self.dilated:
            conv, norm = _names(*branch)
            found.append((conv, getattr(self, conv), getattr(self, norm)))
        return found

    def train_time(self, x: Any) -> Any:
        (_, conv, norm), *others = self._pairs()
        y = norm(conv(x))
        for _, conv, norm in others:
            y = y + norm(conv(x))
        return y

    def branches(self) -> Block:
        return Parallel(
            {
                name: Sequential(conv_of(conv), batch_norm_of(norm))
                for name, conv, norm in self._pairs()
            }
        )


def _names(kernel: int, dilation: int) -> tuple[str, str]:
    return f"dil_conv_k{kernel}_{dilation}", f"dil_bn_k{kernel}_{dilation}"


def _dilated(
    geometry: Geometry, chosen: Sequence[tuple[int, int]] | None
) -> tuple[tuple[int, int], ...]:
    height, width = geometry.kernel
    if chosen is None:
        if height != width or height not in BRANCHES:
            raise UnsupportedModelError(
                f"no dilated branches are known for a kernel of {height}x{width}",
                found=f"known: {', '.join(map(str, BRANCHES))}",
                hint="give dilated=[(kernel size, dilation), ...]",
            )
        chosen = BRANCHES[height]
    branches = tuple((int(kernel), int(dilation)) for kernel, dilation in chosen)
    for kernel, dilation in branches:
        if dilation * (kernel - 1) + 1 > min(height, width):
            raise UnsupportedModelError(
                f"a kernel of {kernel} with dilation {dilation} is wider than {height}x{width}"
            )
    if len(set(branches)) < len(branches):
        raise UnsupportedModelError(f"two dilated branches are the same: {list(branches)}")
    return branches
