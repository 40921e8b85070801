"""The laws of nodes that change the border: padding, cropping, and borders of constants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reparam.conv.geometry import Geometry
from reparam.conv.operators import Array, Conv
from reparam.errors import NotFusibleError
from reparam.graph import readers
from reparam.graph.constants import Constants
from reparam.graph.laws import BorderFilling, Convolving

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST = 1 << 24  # elements of an image whose border is looked at one by one


def padding(node: ir.Node, constants: Constants) -> Convolving | BorderFilling | None:
    """Return the law of a Pad of spatial axes with one constant.

    With zeros it is a convolution of one tap. With another number it continues only what makes
    that very number of zeros.
    """
    if readers.text(node, "mode", "constant") != "constant":
        return None
    rank, channels = readers.rank_of(node.inputs[0]), readers.size_of(node.inputs[0], 1)
    pads = _pads(node, constants, rank)
    if rank is None or not 3 <= rank <= 5 or channels is None:
        raise NotFusibleError("the shape of what is padded is not known")
    if min(pads) < 0 or any(pads[axis] or pads[axis + rank] for axis in (0, 1)):
        raise NotFusibleError("padding that crops, or pads the channels, is not a convolution")
    pairs = tuple((pads[axis], pads[axis + rank]) for axis in range(2, rank))
    fill = border_value(node, constants)
    if fill != 0:
        return BorderFilling(channels, pairs, np.full((), fill))
    geometry = replace(Geometry.pointwise(channels, rank - 2), padding=pairs)

    def make() -> Conv:
        one: Array = np.ones((channels, 1, *geometry.kernel))
        return Conv.of(one, padding=pairs, groups=channels)

    return Convolving(geometry, make, zero_bias=True)


def _pads(node: ir.Node, constants: Constants, rank: int | None) -> tuple[int, ...]:
    if constants.opset < 11:
        return readers.integers(node, "pads") or (0,) * (2 * (rank or 0))
    found = constants.get(node.inputs[1])
    if found is None or rank is None:
        raise NotFusibleError("how much is padded is not a constant")
    pads = [int(entry) for entry in found]
    axes_input = node.inputs[3] if len(node.inputs) > 3 else None
    if axes_input is None:
        return tuple(pads)
    axes = constants.get(axes_input)
    if axes is None:
        raise NotFusibleError("the axes that are padded are not constants")
    whole = [0] * (2 * rank)
    for index, axis in enumerate(int(entry) % rank for entry in axes):
        whole[axis], whole[axis + rank] = pads[index], pads[index + len(axes)]
    return tuple(whole)


def border_value(node: ir.Node, constants: Constants) -> float:
    """Return the number that a Pad fills with.

    Raises:
        NotFusibleError: it is not a constant.
    """
    if constants.opset < 11:
        return readers.number(node, "value", 0.0)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return 0.0
    found = constants.get(value)
    if found is None or found.size != 1:
        raise NotFusibleError("what is padded with is not a constant")
    return float(found.reshape(-1)[0])


def cropping(value: ir.Value, cuts: dict[int, tuple[int, int]]) -> Convolving:
    """Return the law that cuts rows and columns off: a kernel of one tap among zeros.

    Args:
        value: that is cut.
        cuts: how much, (before, after), of which spatial axis.
    """
    rank, channels = readers.rank_of(value), readers.size_of(value, 1)
    if rank is None or not 3 <= rank <= 5 or channels is None:
        raise NotFusibleError("the shape of what is cut is not known")
    sides = [cuts.get(axis, (0, 0)) for axis in range(2, rank)]
    kernel = tuple(before + 1 + after for before, after in sides)
    plain = Geometry.pointwise(channels, rank - 2)

    def make() -> Conv:
        weight: Array = np.zeros((channels, 1, *kernel))
        tap: tuple[Any, ...] = (..., *(before for before, _ in sides))
        weight[tap] = 1.0
        return Conv.of(weight, groups=channels)

    return Convolving(replace(plain, kernel=kernel), make, zero_bias=True)


def framing(node: ir.Node, constants: Constants) -> tuple[ir.Value, BorderFilling] | None:
    """Return the value that a Concat puts between constants, and the law, where it is so.

    The constants stand before and after it along one spatial axis, and have one number for each
    channel.
    """
    rank = readers.rank_of(node.outputs[0])
    if rank is None or not 3 <= rank <= 5:
        return None
    axis = readers.integer(node, "axis", 1) % rank
    moving = [at for at, value in enumerate(node.inputs) if not constants.known(value)]
    value = node.inputs[moving[0]] if len(moving) == 1 else None
    if axis < 2 or value is None:
        return None
    fills, sides = [], [0, 0]
    for at, constant in enumerate(node.inputs):
        if constant is value or constant is None:
            continue
        array = constants.exact(constant)
        by_channel = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
        if not array.size or (by_channel != by_channel[:, :1]).any():
            raise NotFusibleError("the border is not one number for each channel")
        fills.append(by_channel[:, 0])
        sides[int(at > moving[0])] += array.shape[axis]
    if any((fill != fills[0]).any() for fill in fills):
        raise NotFusibleError("the border is not one number for each channel")
    pads = [(0, 0)] * (rank - 2)
    pads[axis - 2] = (sides[0], sides[1])
    return value, BorderFilling(fills[0].size, tuple(pads), fills[0])


def scattering(
    node: ir.Node, constants: Constants
) -> tuple[ir.Value, BorderFilling, list[ir.Node]] | None:
    """Return what a chain of ScatterND writes a border around, the law, and the nodes before.

    So exporters write a border that is assigned to: a Pad, and a ScatterND for each side. The
    last of them is the value padded with one number for each channel if together they write every
    element of the border, and nothing inside it.
    """
    chain = _chain_to_pad(node)
    shape = [readers.size_of(node.outputs[0], axis) for axis in range(5)]
    known = [size for size in shape if size is not None]
    if not chain or len(known) != readers.rank_of(node.outputs[0]) or np.prod(known) > _LARGEST:
        return None
    pad, value = chain[0], chain[0].inputs[0]
    pads = _pads(pad, constants, len(known))
    if value is None or min(pads) < 0 or any(pads[a] or pads[a + len(known)] for a in (0, 1)):
        return None
    pairs = tuple((pads[axis], pads[axis + len(known)]) for axis in range(2, len(known)))
    written = _written(chain[1:], tuple(known), constants)
    cuts = zip(pairs, known[2:], strict=True)
    inside: tuple[Any, ...] = (..., *(slice(b, size - a) for (b, a), size in cuts))
    if not np.isnan(written[inside]).all():
        raise NotFusibleError("more than the border is written")
    written[inside] = np.nan
    by_channel = np.moveaxis(written, 1, 0).reshape(known[1], -1)
    border = by_channel[:, ~np.isnan(by_channel).all(axis=0)]
    outside = by_channel.shape[1] - written[inside][:, :1].size
    if border.shape[1] != outside or np.isnan(border).any():
        raise NotFusibleError("a part of the border is not written")
    if (border != border[:, :1]).any():
        raise NotFusibleError("the border is not one number for each channel")
    return value, BorderFilling(known[1], pairs, border[:, 0]), chain[:-1]


def _chain_to_pad(node: ir.Node) -> list[ir.Node]:
    """Return a Pad and the ScatterND after it, up to ``node``; empty where it is not so."""
    chain = [node]
    while chain[0].op_type == "ScatterND":
        value = chain[0].inputs[0]
        before = None if value is None else value.producer()
        plain = readers.text(chain[0], "reduction", "none") == "none"
        if before is None or not plain or before.op_type not in ("Pad", "ScatterND"):
            return []
        chain.insert(0, before)
    return chain


def _written(nodes: list[ir.Node], shape: tuple[int, ...], constants: Constants) -> Array:
    """Return what ScatterND nodes write into an array of a shape, and NaN where nothing."""
    found = np.full(shape, np.nan)
    for node in nodes:
        indices, updates = constants.get(node.inputs[1]), node.inputs[2]
        if indices is None or updates is None or not constants.known(updates):
            raise NotFusibleError("what is written around a value is not constant")
        found[tuple(np.moveaxis(indices, -1, 0))] = constants.exact(updates)
    return found
