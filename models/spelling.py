"""State dicts that PyTorch wrote of a network known here, in Paddle's names and axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reparam.models.layout import Shape, Shapes

_PADDLE = {"running_mean": "_mean", "running_var": "_variance"}
_TORCH = {paddle: torch for torch, paddle in _PADDLE.items()}
_COUNTER = "num_batches_tracked"  # of PyTorch alone, and no part of the function


def paddle_name(key: str) -> str:
    """Return what Paddle calls an array that PyTorch calls ``key``."""
    return _renamed(key, _PADDLE)


def torch_name(key: str) -> str:
    """Return what PyTorch calls an array that Paddle calls ``key``."""
    return _renamed(key, _TORCH)


def in_paddle_spelling(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays that PyTorch wrote as Paddle would have written them.

    The statistics of BatchNorm have other names, and a linear layer is (I, O), not (O, I).
    """
    return {
        paddle_name(key): array.T if array.ndim == 2 else array
        for key, array in arrays.items()
        if not _is_counter(key)
    }


def paddle_shapes(shapes: Mapping[str, Shape]) -> Shapes:
    """Return what :func:`in_paddle_spelling` does to names and shapes."""
    return {paddle_name(k): turned(tuple(v)) for k, v in shapes.items() if not _is_counter(k)}


def torch_shapes(shapes: Mapping[str, Shape]) -> Shapes:
    """Return what PyTorch would have written, its counters aside."""
    return {torch_name(key): turned(shape) for key, shape in shapes.items()}


def turned(shape: Shape) -> Shape:
    """Return the shape in the other spelling: that of a linear layer is the other way round."""
    return shape[::-1] if len(shape) == 2 else shape


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == _COUNTER


def _renamed(key: str, table: Mapping[str, str]) -> str:
    stem, dot, leaf = key.rpartition(".")
    return f"{stem}{dot}{table.get(leaf, leaf)}"
