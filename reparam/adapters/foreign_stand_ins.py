"""Layers that stand where the branches of a block were, once one convolution computes their sum."""

from __future__ import annotations

from functools import cache
from typing import Any

from reparam.adapters.paddle_models import import_paddle


def nothing() -> Any:
    """Return a Layer without weights that adds nothing to a sum."""
    return _kinds()[0]()


def uses(conv: Any) -> Any:
    """Return a Layer without weights that runs ``conv``, which is registered elsewhere."""
    return _kinds()[1](conv)


@cache
def _kinds() -> tuple[Any, Any]:
    paddle = import_paddle()

    class Nothing(paddle.nn.Layer):  # type: ignore[name-defined, misc]
        def forward(self, x: Any) -> Any:
            return paddle.zeros([1] * len(x.shape), dtype=x.dtype)

    class Uses(paddle.nn.Layer):  # type: ignore[name-defined, misc]
        def __init__(self, conv: Any) -> None:
            super().__init__()
            self.__dict__["used"] = conv

        def forward(self, x: Any) -> Any:
            return self.used(x)

    return Nothing, Uses
