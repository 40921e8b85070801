"""Layers described to the algebra, and brought to deploy form by it; no folding by hand here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from reparam.conv import BatchNorm, Block, Conv, fuse
from reparam.conv.operators import Array
from reparam.conv.rounding import round_once
from reparam.errors import ReparamError
from reparam.models.paddle_api import Layer, paddle

nn = paddle.nn


class ReparamBlock(Layer):
    """A Layer whose linear part is one convolution: parallel branches, or that convolution.

    A subclass names the sublayer that holds the convolution and the attributes that are the
    branches, and describes them in :meth:`branches`.
    """

    deploy_name: ClassVar[str]
    branch_names: ClassVar[tuple[str, ...]]

    def branches(self) -> Block:
        """Return the linear part in train-time form, with running statistics."""
        raise NotImplementedError

    @property
    def deployed(self) -> bool:
        """Whether the block is in deploy form."""
        return hasattr(self, self.deploy_name)

    def as_block(self) -> Block:
        """Return the linear part as it stands, as a tree of operators."""
        return linear_part(getattr(self, self.deploy_name)) if self.deployed else self.branches()

    def get_equivalent_kernel_bias(self) -> tuple[Any, Any]:
        """Return weight (O, I/G, KH, KW) and bias (O,) of the one convolution, as tensors.

        Computed in float64 from the running statistics, whether or not the Layer is training,
        and rounded once to the dtype of the Layer.

        Raises:
            NotFusibleError: a value does not fit that dtype.
        """
        conv, dtype = fuse(self.as_block()), dtype_of(self)
        return rounded(conv.weight, dtype), rounded(conv.bias, dtype)

    def convert_to_deploy(self) -> None:
        """Replace the branches by the one convolution, in place; nothing where that is done.

        Raises:
            NotFusibleError: as get_equivalent_kernel_bias; the block is left as it was.
        """
        if not self.deployed:
            self.install(conv2d_from(fuse(self.as_block()), dtype_of(self)))

    def install(self, conv: Any) -> None:
        """Put ``conv`` in the place of the branches."""
        for name in self.branch_names:
            delattr(self, name)
        setattr(self, self.deploy_name, conv)


def convert_to_deploy(model: Any) -> tuple[str, ...]:
    """Bring every ReparamBlock of ``model`` to deploy form, in place; return which were changed.

    All are fused before the first is changed, so that a refusal leaves the model as it was.

    Raises:
        ReparamError: a block cannot be fused; the message names it.
    """
    fused = {}
    for prefix, block in _blocks_of(model):
        if block.deployed:
            continue
        try:
            fused[prefix] = block, conv2d_from(fuse(block.as_block()), dtype_of(block))
        except ReparamError as error:
            raise error.located(f"cannot fuse block '{prefix}'") from error
    for block, conv in fused.values():
        block.install(conv)
    return tuple(fused)


def _blocks_of(model: Any) -> Iterator[tuple[str, ReparamBlock]]:
    for prefix, layer in model.named_sublayers(include_self=True):
        if isinstance(layer, ReparamBlock):
            yield prefix, layer


def linear_part(layer: Any) -> Block:
    """Return what stands where a Conv2D was: that convolution, or the block put in its place."""
    return layer.as_block() if isinstance(layer, ReparamBlock) else conv_of(layer)


def conv_of(layer: Any) -> Conv:
    """Return what a paddle Conv2D computes."""
    padding = layer._padding
    if isinstance(padding, list | tuple) and len(padding) == 4:
        padding = (padding[:2], padding[2:])
    return Conv.of(
        float64(layer.weight),
        None if layer.bias is None else float64(layer.bias),
        stride=tuple(layer._stride),
        dilation=tuple(layer._dilation),
        padding=padding,
        groups=layer._groups,
    )


def batch_norm_of(layer: Any) -> BatchNorm:
    """Return what a paddle BatchNorm declares: its running statistics and its own epsilon.

    Paddle rounds epsilon to float32 even where it computes in float64, which moves a result by
    about 1e-13 of itself. Here it is taken as declared, as it is for a checkpoint.
    """
    return BatchNorm(
        gamma=float64(layer.weight),
        beta=float64(layer.bias),
        mean=float64(layer._mean),
        variance=float64(layer._variance),
        epsilon=float(layer._epsilon),
    )


def conv2d_from(conv: Conv, dtype: Any) -> Any:
    """Return a paddle Conv2D with a bias that computes ``conv``, its weights rounded once."""
    weight, bias = rounded(conv.weight, dtype), rounded(conv.bias, dtype)
    symmetric = all(before == after for before, after in conv.padding)
    layer = nn.Conv2D(
        conv.in_channels,
        conv.out_channels,
        list(conv.kernel),
        stride=list(conv.stride),
        padding=[side for pair in conv.padding for side in pair[: 1 if symmetric else 2]],
        dilation=list(conv.dilation),
        groups=conv.groups,
        # A constant, so that fusing does not draw from the random numbers of a training run.
        weight_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)),
        bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)),
    )
    layer.to(dtype=dtype)
    layer.weight.set_value(weight)
    layer.bias.set_value(bias)
    return layer


def float64(tensor: Any) -> Array:
    """Return the values of ``tensor`` as a float64 array, exactly."""
    values: Array = tensor.detach().astype("float64").numpy()
    return values


def rounded(values: Array, dtype: Any) -> Any:
    """Return ``values`` as a tensor, rounded once to ``dtype``.

    Raises:
        NotFusibleError: a value is not finite in ``dtype``.
    """
    return paddle.to_tensor(round_once(values, str(dtype).rpartition(".")[2])[0])


def dtype_of(layer: Any) -> Any:
    """Return the dtype of the first parameter of ``layer``."""
    return next(parameter.dtype for parameter in layer.parameters())
