"""Record PP-LCNet's blocks: run where paddlepaddle and the named package are; see README.md.

python produce_lcnet.py paddleclas
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import paddle
from recording import random_input, random_state, save


def record(slug: str, block: Any, before: Any, channels: int, seed: int, **about: Any) -> None:
    """Write the case ``slug``: what reaches ``before``, the first Layer after the sum."""
    block.eval()
    shapes = {key: tuple(value.shape) for key, value in block.state_dict().items()}
    state = random_state(shapes, seed)
    block.set_state_dict(state)
    block.to(dtype="float64")
    seen = []
    before.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy()))
    x = random_input(channels, seed)
    with paddle.no_grad():
        block(paddle.to_tensor(x))
    save(slug, state, x, seen[0], epsilon=1e-5, groups=channels, **about)


def paddleclas() -> None:
    from paddleclas.ppcls.arch.backbone.legendary_models.pp_lcnet_v2 import RepDepthwiseSeparable

    for seed, stride, split in ((1, 1, False), (2, 2, True)):
        block = RepDepthwiseSeparable(
            4, 8, stride, dw_size=5, split_pw=split, use_rep=True, use_se=True
        )
        record(
            f"lcnet_v2_s{stride}",
            block,
            block.act,
            4,
            seed,
            family="PP-LCNetV2",
            source="paddleclas==2.6.0",
            layer="RepDepthwiseSeparable",
            stride=[stride, stride],
        )


if __name__ == "__main__":
    np.seterr(all="raise")
    {"paddleclas": paddleclas}[sys.argv[1]]()
