"""The diverse branch block. State dicts have the keys of DiverseBranchBlock and PaddleClas 2.6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reparam.conv import AvgPool, Block, Conv, Parallel, Sequential, add, identity_as_conv
from reparam.errors import UnsupportedModelError
from reparam.models.blocks import batch_norm_of, conv_of
from reparam.models.layers import Activation
from reparam.models.layout import EPSILON
from reparam.models.paddle_api import Layer, paddle
from reparam.models.training.base import SumBlock, conv_bn
from reparam.models.training.geometry import Geometry, Pair, PerAxis

nn = paddle.nn
F = paddle.nn.functional


class IdentityConv(Layer):
    """A 1x1 convolution that starts as the identity: the kernel is ``weight`` plus the identity."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.weight = self.create_parameter([channels, channels // groups, 1, 1], attr=zero)

    def forward(self, x: Any) -> Any:
        return x + F.conv2d(x, self.weight, groups=self.groups)

    def as_conv(self) -> Conv:
        """Return the whole of it, identity included."""
        values = self.weight.detach().astype("float64").numpy()
        return add(Conv.of(values, groups=self.groups), identity_as_conv(values.shape[0]))


class BatchNormAndPad(Layer):
    """BatchNorm, and around it a border of what it makes of zero.

    So the border is what a bias-free 1x1 convolution before it would have given on zero padding,
    without the zeros counting in the statistics of a batch. It is computed from the running
    statistics, in training as well.
    """

    def __init__(self, channels: int, padding: Pair, epsilon: float) -> None:
        super().__init__()
        self.padding = padding
        self.bn = nn.BatchNorm2D(channels, epsilon=epsilon)

    def forward(self, x: Any) -> Any:
        y = self.bn(x)
        height, width = self.padding
        if not (height or width):
            return y
        around = [width, width, height, height]  # F.pad takes the last axis first
        outside = 1.0 - F.pad(paddle.ones_like(y[:1, :1]), around)
        scale = self.bn.weight * paddle.rsqrt(self.bn._variance + self.bn._epsilon)
        mean = self.bn._mean.clone()  # the next batch changes it in place, perhaps before backward
        border = (self.bn.bias - mean * scale).reshape([1, -1, 1, 1])
        return F.pad(y, around) + outside * border


class DiverseBranchBlock(SumBlock):
    """Four branches: KxK, 1x1, 1x1 then average pooling, 1x1 then KxK, with BatchNorm throughout.

        train-time:  x -+- dbb_origin.conv KxK - bn ---------------------+- sum - act - y
                        +- dbb_1x1.conv 1x1 - bn ------------------------+
                        +- dbb_avg.conv 1x1 - bn - mean of KxK - avgbn --+
                        +- dbb_1x1_kxk.conv1 1x1 - bn1 - conv2 KxK - bn2 +
        deploy:      x --- dbb_reparam KxK ------------------------------------ act - y

    Between a 1x1 convolution and what follows it, the border is padded with what its BatchNorm
    makes of zero. A depthwise block has no 1x1 branch, and only the mean and avgbn in the pooling
    branch. Zeros of the padding count in the mean.

    Args:
        kernel_size: odd on both axes.
        internal_channels: between the 1x1 and the KxK of the last branch; None: as many as come
            in, twice as many in a depthwise block. If as many, the 1x1 starts as the identity
            and is named idconv1.
        act: name of the activation, a function, or None.
        deploy: build the deploy form.

    Raises:
        UnsupportedModelError: no block has this geometry.

    Source: Ding et al. 2021, Diverse Branch Block (arXiv 2103.13425), section 3 and figure 2.
    """

    deploy_name = "dbb_reparam"
    branch_names = ("dbb_origin", "dbb_1x1", "dbb_avg", "dbb_1x1_kxk")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 3,
        *,
        stride: PerAxis = 1,
        groups: int = 1,
        internal_channels: int | None = None,
        act: Activation = "relu",
        deploy: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        geometry = Geometry.of(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        super().__init__(geometry, act, deploy)
        if deploy:
            return
        self.dbb_origin = conv_bn(geometry, epsilon)
        self.dbb_1x1 = None
        self.dbb_avg = nn.Sequential()
        if not geometry.depthwise:
            self.dbb_1x1 = conv_bn(geometry.with_kernel(1), epsilon)
            point = _point(in_channels, out_channels, groups)
            self.dbb_avg.add_sublayer("conv", point)
            norm = BatchNormAndPad(out_channels, geometry.padding, epsilon)
            self.dbb_avg.add_sublayer("bn", norm)
        self.dbb_avg.add_sublayer("avg", self._pooling())
        self.dbb_avg.add_sublayer("avgbn", nn.BatchNorm2D(out_channels, epsilon=epsilon))
        self.dbb_1x1_kxk = self._point_then_window(internal_channels, epsilon)

    def _pooling(self) -> Any:
        padding = self.geometry.padding if self.geometry.depthwise else (0, 0)
        # exclusive is Paddle's default: the mean of what is inside the image, no convolution
        return nn.AvgPool2D(
            list(self.geometry.kernel),
            stride=list(self.geometry.stride),
            padding=list(padding),
            exclusive=False,
        )

    def _point_then_window(self, internal: int | None, epsilon: float) -> Any:
        whole = self.geometry
        if internal is None:
            internal = whole.in_channels * (2 if whole.depthwise else 1)
        if internal < 1 or internal % whole.groups:
            raise UnsupportedModelError(f"{internal} internal channels in {whole.groups} groups")
        branch = nn.Sequential()
        if internal == whole.in_channels:
            branch.add_sublayer("idconv1", IdentityConv(internal, whole.groups))
        else:
            branch.add_sublayer("conv1", _point(whole.in_channels, internal, whole.groups))
        branch.add_sublayer("bn1", BatchNormAndPad(internal, whole.padding, epsilon))
        window = nn.Conv2D(
            internal,
            whole.out_channels,
            list(whole.kernel),
            stride=list(whole.stride),
            groups=whole.groups,
            bias_attr=False,
        )
        branch.add_sublayer("conv2", window)
        branch.add_sublayer("bn2", nn.BatchNorm2D(whole.out_channels, epsilon=epsilon))
        return branch

    def train_time(self, x: Any) -> Any:
        y = self.dbb_origin(x) + self.dbb_avg(x) + self.dbb_1x1_kxk(x)
        return y if self.dbb_1x1 is None else y + self.dbb_1x1(x)

    def branches(self) -> Block:
        branches = {"dbb_origin": self.dbb_origin.as_block()}
        if self.dbb_1x1 is not None:
            branches["dbb_1x1"] = self.dbb_1x1.as_block()
        branches["dbb_avg"] = self._pooling_branch()
        last = self.dbb_1x1_kxk
        first = last.idconv1.as_conv() if hasattr(last, "idconv1") else conv_of(last.conv1)
        branches["dbb_1x1_kxk"] = Sequential(
            self._padded(first),
            batch_norm_of(last.bn1.bn),
            conv_of(last.conv2),
            batch_norm_of(last.bn2),
        )
        return Parallel(branches)

    def _pooling_branch(self) -> Block:
        pool = self.dbb_avg.avg
        # what the Layer does, not what it should do: a mean that leaves padding out is refused
        mean = AvgPool.of(
            self.geometry.out_channels,
            tuple(pool.ksize),
            stride=tuple(pool.stride),
            padding=tuple(pool.padding),
            count_include_pad=not pool.exclusive,
        )
        norm = batch_norm_of(self.dbb_avg.avgbn)
        if self.geometry.depthwise:
            return Sequential(mean, norm)
        point = self._padded(conv_of(self.dbb_avg.conv))
        return Sequential(point, batch_norm_of(self.dbb_avg.bn.bn), mean, norm)

    def _padded(self, point: Conv) -> Conv:
        """Return a 1x1 convolution that pads: BatchNorm then makes its border of zero."""
        return replace(point, padding=tuple((side, side) for side in self.geometry.padding))


def _point(in_channels: int, out_channels: int, groups: int) -> Any:
    return nn.Conv2D(in_channels, out_channels, 1, groups=groups, bias_attr=False)
