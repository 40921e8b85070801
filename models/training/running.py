"""A network run on what the user gave as data, in evaluation mode, left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from reparam.errors import ReparamError, UnsupportedModelError
from reparam.models.paddle_api import paddle


def batches_of(data: Any) -> Iterable[Any]:
    """Return the batches of ``data``: itself, if it is what a network is called with."""
    if isinstance(data, np.ndarray | paddle.Tensor | tuple | Mapping):
        return [data]
    return data  # type: ignore[no-any-return]


def call(model: Any, batch: Any) -> Any:
    """Return what ``model`` makes of a batch: an argument, a tuple of them, or a mapping.

    Raises:
        UnsupportedModelError: it cannot be called with that.
    """
    try:
        if isinstance(batch, Mapping):
            return model(**{name: _tensor(value) for name, value in batch.items()})
        if isinstance(batch, tuple | list):
            return model(*map(_tensor, batch))
        return model(_tensor(batch))
    except ReparamError:
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be called with a batch of data=",
            found=f"{type(error).__name__}: {first}",
            hint="data=(images for images, labels in loader), if that is what it takes",
        ) from error


def _tensor(value: Any) -> Any:
    return paddle.to_tensor(value) if isinstance(value, np.ndarray) else value


@contextmanager
def evaluating(model: Any, hooks: list[Any]) -> Iterator[None]:
    """Run a network in evaluation mode without gradients; then remove ``hooks``.

    Every Layer has the mode that it had before when this ends.
    """
    training = [layer for layer in model.sublayers(include_self=True) if layer.training]
    try:
        model.eval()
        with paddle.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in training:
            layer.training = True
