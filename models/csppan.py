"""CustomCSPPAN, the neck of PP-YOLOE: a feature pyramid down, then up, of CSP stages.

Sources: Xu et al. 2022, PP-YOLOE (arXiv 2203.16250), section 2.2; Liu et al. 2018, Path
Aggregation Network (arXiv 1803.01534). State dicts have the keys of PaddleDetection 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from reparam.models.layers import Activation, BasicBlock, ConvBNLayer
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.ppyoloe_layout import SPP_POOLS, Structure, spp_after

nn = paddle.nn
F = paddle.nn.functional


class SPP(Layer):
    """A map and its largest values over windows of several sizes, then a 1x1 convolution.

    Source: He et al. 2014, Spatial Pyramid Pooling (arXiv 1406.4729).
    """

    def __init__(
        self, channels: int, *, pools: Sequence[int] = SPP_POOLS, act: Activation, epsilon: float
    ) -> None:
        super().__init__()
        self.pools = tuple(pools)
        read = channels * (1 + len(self.pools))
        self.conv = ConvBNLayer(read, channels, 1, act=act, epsilon=epsilon)

    def forward(self, x: Any) -> Any:
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in self.pools]
        return self.conv(paddle.concat([x, *pooled], axis=1))


class CSPStage(Layer):
    """Send half of the channels through ``blocks`` basic blocks without shortcut, join, mix.

    x -+- conv1 -----------+- concat - conv3 - y
       +- conv2 - convs ---+
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        *,
        spp: bool = False,
        act: Activation = "swish",
        use_alpha: bool = False,
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        mid = out_channels // 2
        options: dict[str, Any] = {"act": act, "epsilon": epsilon}
        self.conv1 = ConvBNLayer(in_channels, mid, 1, **options)
        self.conv2 = ConvBNLayer(in_channels, mid, 1, **options)
        self.convs = nn.Sequential()
        for index in range(blocks):
            block = BasicBlock(mid, alpha=use_alpha, shortcut=False, deploy=deploy, **options)
            self.convs.add_sublayer(str(index), block)
            if spp and index == spp_after(blocks):
                self.convs.add_sublayer("spp", SPP(mid, **options))
        self.conv3 = ConvBNLayer(2 * mid, out_channels, 1, **options)

    def forward(self, x: Any) -> Any:
        y = paddle.concat([self.conv1(x), self.convs(self.conv2(x))], axis=1)
        return self.conv3(y)


class CustomCSPPAN(Layer):
    """Feature maps of a backbone, mixed from the coarsest to the finest and back.

    Lists of channels and of maps begin with the largest stride, but for what ``forward`` takes.
    """

    def __init__(
        self, structure: Structure, *, act: Activation, deploy: bool, epsilon: float
    ) -> None:
        super().__init__()
        conv = partial(ConvBNLayer, act=act, epsilon=epsilon)
        stages = partial(_stages, structure, act=act, deploy=deploy, epsilon=epsilon)
        outputs, inputs = structure.neck_channels, structure.inputs
        above = [0, *(channels // 2 for channels in outputs)]
        self.fpn_stages = nn.LayerList(
            [
                stages(read + more, channels, spp=structure.spp and level == 0)
                for level, (read, more, channels) in enumerate(
                    zip(inputs, above, outputs, strict=False)
                )
            ]
        )
        self.fpn_routes = nn.LayerList([conv(n, n // 2, 1) for n in outputs[:-1]])
        pairs = list(pairwise(outputs))
        self.pan_stages = nn.LayerList([stages(n + below, n, spp=False) for n, below in pairs])
        self.pan_routes = nn.LayerList(
            [conv(below, below, 3, stride=2, padding=1) for _, below in pairs]
        )

    def forward(self, features: Sequence[Any]) -> list[Any]:
        """Return one map for each of ``features``, which begin with the smallest stride."""
        down: list[Any] = []
        for level, feature in enumerate(reversed(features)):
            if down:
                route = self.fpn_routes[level - 1](down[-1])
                wide = F.interpolate(route, scale_factor=2.0, mode="nearest")
                feature = paddle.concat([wide, feature], axis=1)
            down.append(self.fpn_stages[level](feature))
        up = [down.pop()]
        for level in reversed(range(len(down))):
            route = self.pan_routes[level](up[0])
            up.insert(0, self.pan_stages[level](paddle.concat([route, down[level]], axis=1)))
        return up


def _stages(structure: Structure, read: int, channels: int, *, spp: bool, **options: Any) -> Any:
    return nn.Sequential(
        *(
            CSPStage(
                read if index == 0 else channels,
                channels,
                structure.neck_blocks,
                spp=spp,
                use_alpha=structure.neck_alpha,
                **options,
            )
            for index in range(structure.neck_stages)
        )
    )
