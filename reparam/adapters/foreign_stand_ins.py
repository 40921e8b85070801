"""Layers that stand where the branches of a block were, once one convolution computes their sum."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from reparam.adapters.foreign_convolutions import Fused, alike
from reparam.adapters.foreign_parts import put, sublayer
from reparam.adapters.paddle_models import import_paddle
from reparam.checkpoint.blocks import BlockMatch

INSTALLED = "_reparam_installed"  # the attribute of a block that runs our convolution


def install(block: Any, fused: Fused, conv: Any) -> Any:
    """Put a convolution in the place of one branch of a block, and nothing in that of the others.

    It is registered under the name that it has in the deploy form, and used where a branch with
    its kernel was. Returns None where there is no such branch.
    """
    keys = set(fused.match.branch_keys) - set(fused.match.neutral_keys)
    branches = _branches(block, keys)
    carrier = next((path for path in branches if alike(block, fused, path)), None)
    parent, _, name = fused.path.rpartition(".")
    holder = sublayer(block, parent)
    if carrier is None or not name or holder is None:
        return None
    for path in branches:
        if path != fused.path:
            put(block, sublayer(block, path), _uses(conv) if path == carrier else _nothing())
    holder.add_sublayer(name, conv)
    for key in keys:
        owner, _, name = key.rpartition(".")
        _forget(sublayer(block, owner), name)
    neutralise(block, fused.match)
    vars(block)[INSTALLED] = True
    return block


def neutralise(block: Any, match: BlockMatch) -> None:
    """Have factors that went into the convolution and are applied all the same change nothing."""
    state = block.state_dict()
    for key, value in match.neutral_keys.items():
        if key in state:
            state[key].set_value(np.full(state[key].shape, value, np.float32))


def _branches(block: Any, keys: set[str]) -> list[str]:
    """Return the outermost parts of a block that have weights, all of them among ``keys``."""
    found: list[str] = []
    lists = (import_paddle().nn.LayerList, import_paddle().nn.LayerDict)
    for path, part in block.named_sublayers():
        held = {f"{path}.{key}" for key in part.state_dict()}
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if held and held <= keys and not inside and not isinstance(part, lists):
            found.append(path)
    return found


def _forget(owner: Any, name: str) -> None:
    """Take a parameter that went into the convolution out of the state dict of its owner."""
    if owner is not None and name in owner._parameters:
        value = owner._parameters.pop(name)
        owner.register_buffer(name, value.detach(), persistable=False)


def _nothing() -> Any:
    """Return a Layer without weights that adds nothing to a sum."""
    return _kinds()[0]()


def _uses(conv: Any) -> Any:
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
