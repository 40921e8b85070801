"""What a node says, read with the defaults of its operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reparam.errors import NotFusibleError

if TYPE_CHECKING:
    import onnx_ir as ir

Padding = tuple[tuple[int, int], ...]


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an attribute that is an integer."""
    found = node.attributes.get(name)
    return default if found is None else int(found.as_int())


def number(node: ir.Node, name: str, default: float) -> float:
    """Return an attribute that is a float32, exactly."""
    found = node.attributes.get(name)
    return default if found is None else float(found.as_float())


def integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return an attribute that is a list of integers, None where it is not given."""
    found = node.attributes.get(name)
    return None if found is None else tuple(int(entry) for entry in found.as_ints())


def text(node: ir.Node, name: str, default: str) -> str:
    """Return an attribute that is a text."""
    found = node.attributes.get(name)
    return default if found is None else str(found.as_string())


def per_axis(node: ir.Node, name: str, axes: int) -> tuple[int, ...]:
    """Return strides or dilations, 1 by default."""
    return integers(node, name) or (1,) * axes


def dilation_of(node: ir.Node, kernel: Sequence[int]) -> tuple[int, ...]:
    """Return the dilation of each axis; 1 where there is one tap, whatever the node says."""
    given = per_axis(node, "dilations", len(kernel))
    return tuple(step if taps > 1 else 1 for taps, step in zip(kernel, given, strict=True))


def rank_of(value: ir.Value | None) -> int | None:
    """Return how many axes a value has, None where that is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def size_of(value: ir.Value | None, axis: int) -> int | None:
    """Return the size of one axis, None where it is open or not known."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return int(size) if isinstance(size, int) else None


def padding_of(node: ir.Node, extent: tuple[int, ...], stride: tuple[int, ...]) -> Padding | None:
    """Return the (before, after) padding of a convolution or pooling for each spatial axis.

    Returns:
        None where it depends on a size that is not known.

    Raises:
        NotFusibleError: it is not one for each side.
    """
    auto = text(node, "auto_pad", "NOTSET")
    axes = len(extent)
    if auto == "VALID":
        return ((0, 0),) * axes
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [size_of(node.inputs[0], 2 + axis) for axis in range(axes)]
        sides = [
            _same(size, reach, step, auto)
            for size, reach, step in zip(sizes, extent, stride, strict=True)
        ]
        known = tuple(side for side in sides if side is not None)
        return known if len(known) == axes else None
    pads = integers(node, "pads") or (0,) * (2 * axes)
    if len(pads) != 2 * axes or min(pads) < 0:
        raise NotFusibleError(f"padding {list(pads)} is not one for each side of {axes} axes")
    return tuple(zip(pads[:axes], pads[axes:], strict=True))


def _same(size: int | None, extent: int, stride: int, auto: str) -> tuple[int, int] | None:
    if size is not None:
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    elif stride == 1 or extent == 1:
        total = extent - 1  # whatever the size is
    else:
        return None
    small = total // 2
    return (small, total - small) if auto == "SAME_UPPER" else (total - small, small)
