"""What the blocks have in common: a sum of branches or one convolution, then the activation."""

from __future__ import annotations

from typing import Any

from reparam.models.blocks import ReparamBlock
from reparam.models.layers import Activation, ConvBNLayer, activation
from reparam.models.training.geometry import Geometry


class SumBlock(ReparamBlock):
    """The activation of a linear part, which :meth:`train_time` computes branch by branch.

    Args:
        geometry: of the one convolution.
        act: what comes after the sum, in both forms.
        deploy: build the deploy form; a subclass then adds no branches.
    """

    def __init__(self, geometry: Geometry, act: Activation, deploy: bool) -> None:
        super().__init__()
        self.geometry = geometry
        self.act = activation(act)
        if deploy:
            setattr(self, self.deploy_name, geometry.conv(bias=True))

    def forward(self, x: Any) -> Any:
        return self.act(getattr(self, self.deploy_name)(x) if self.deployed else self.train_time(x))

    def train_time(self, x: Any) -> Any:
        """Return the sum of the branches."""
        raise NotImplementedError


def conv_bn(geometry: Geometry, epsilon: float) -> ConvBNLayer:
    """Return a convolution and its BatchNorm, with the keys ``conv.*`` and ``bn.*``."""
    return ConvBNLayer(
        geometry.in_channels,
        geometry.out_channels,
        geometry.kernel,
        epsilon=epsilon,
        **geometry.arguments,
    )
