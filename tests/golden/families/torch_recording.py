"""What the scripts that run PyTorch's original implementations share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recording import random_input, random_state, save


def record(
    slug: str,
    block: Any,
    channels: int,
    seed: int,
    *,
    entry: Any = None,
    end: Any = None,
    epsilon: float = 1e-5,
    size: tuple[int, int] = (7, 9),
    changes: Mapping[str, float] | None = None,
    **about: Any,
) -> None:
    """Write the case ``slug``, every BatchNorm with ``epsilon``.

    Args:
        entry: the module that makes the input of the region; the block's own input by default.
        end: the module after the region; the block's own output by default.
        changes: values of single keys, in place of random ones.
    """
    block.eval()
    shapes = {key: tuple(value.shape) for key, value in block.state_dict().items()}
    state = random_state(shapes, seed)
    for key, value in (changes or {}).items():
        state[key][...] = value
    block.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    block.double()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = epsilon
    x, y = [random_input(channels, seed, size)], []
    if entry is not None:
        entry.register_forward_hook(lambda _, __, made: x.append(made.numpy().copy()))
    if end is not None:
        end.register_forward_pre_hook(lambda _, given: y.append(given[0].numpy().copy()))
    with torch.no_grad():
        y.append(block(torch.as_tensor(x[0])).numpy())
    save(slug, state, x[min(1, len(x) - 1)], y[0], epsilon=epsilon, **about)
