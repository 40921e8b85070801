"""How far float16 takes a network, computed where there is no float16 arithmetic."""

from __future__ import annotations

import copy
from typing import Any

from reparam.adapters.paddle_models import Array, import_paddle, run_layer


def run_in_float16(layer: Any, x: Array) -> list[Array]:
    """Return the outputs of a float32 Layer whose numbers are all rounded to float16.

    Weights, the image, and what each sublayer without sublayers makes are rounded; sums are
    float32, as processors with float16 keep them.

    Args:
        layer: float32; it is not changed.
        x: float32.
    """
    paddle = import_paddle()

    def rounded(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)([rounded(part) for part in value])
        if not isinstance(value, paddle.Tensor) or value.dtype != paddle.float32:
            return value
        return value.astype("float16").astype("float32")

    narrow = copy.deepcopy(layer)
    narrow.eval()
    with paddle.no_grad():
        for tensor in narrow.state_dict().values():
            tensor.set_value(rounded(tensor))
    for part in narrow.sublayers():
        if not part.sublayers():
            part.register_forward_post_hook(lambda _, __, output: rounded(output))
    return run_layer(narrow, x.astype("float16").astype("float32"))
