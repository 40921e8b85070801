"""Record LearnableRepLayer: run where paddlepaddle is; see README.md.

python produce_lcnetv3.py FOLDER      (rec_lcnetv3.py of PaddleOCR, which no package has)
"""

from __future__ import annotations

import sys
import types

import paddle
from recording import random_input, random_state, save

SOURCE = "TuanAnhNguyenCo/PaddleOCR@7d7e249"


def main(folder: str) -> None:
    # The file asks for one class of its package, for another kind of device.
    other = types.ModuleType("ppocr.modeling.backbones.rec_hgnet")
    other.MeanPool2D = None
    sys.modules[other.__name__] = other
    sys.path.insert(0, folder)
    from rec_lcnetv3 import LearnableRepLayer

    for seed, kernel, stride, groups in ((81, 3, 1, 6), (82, 5, (2, 1), 6), (83, 1, 1, 1)):
        block = LearnableRepLayer(6, 6, kernel, stride, groups, num_conv_branches=2)
        block.eval()
        shapes = {key: tuple(value.shape) for key, value in block.state_dict().items()}
        state = random_state(shapes, seed)
        block.set_state_dict(state)
        block.to(dtype="float64")
        seen = []
        block.act.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        x = random_input(6, seed)
        with paddle.no_grad():
            block(paddle.to_tensor(x))
        save(
            f"learnable_k{kernel}",
            state,
            x,
            seen[0].numpy(),
            family="LearnableRepLayer",
            epsilon=1e-5,
            source=SOURCE,
            layer="LearnableRepLayer",
            groups=groups,
            stride=list(stride) if isinstance(stride, tuple) else [stride, stride],
        )


if __name__ == "__main__":
    main(sys.argv[1])
