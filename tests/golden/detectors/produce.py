"""Write the golden data of this folder by running paddledet's PP-YOLOE; README.md says how.

Every number is drawn from a seeded NumPy generator. From the root of the repository:

    PYTHON -m tests.golden.detectors.produce FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from tests.golden.detectors.original import (
    DEFAULT_NMS,
    answers,
    converted,
    loaded,
    made,
    nudged,
    selected,
    settled,
    trained,
)
from tests.golden.detectors.recording import Arrays, Case, rounded, save
from tests.golden.detectors.weights import chooser, images, predicting, random_state

# One that keeps and drops other boxes than the default.
STRICT_NMS = {"nms_top_k": 20, "keep_top_k": 10, "score_threshold": 0.3, "nms_threshold": 0.4}
NMS = {"default": DEFAULT_NMS, "strict": STRICT_NMS}
IMAGES = ((1, 3, 32, 224), (3, 3, 64, 32))
# y, x of each image: its pixels are scaled by these in front of the network.
FACTORS = tuple(
    np.asarray(one, np.float32) for one in ([[0.8, 1.6]], [[0.8, 1.6], [1.25, 0.4], [0.3, 3.0]])
)

SMALL = {"channels": [8, 8, 12, 16, 20], "layers": [1, 2, 2, 1], "use_large_stem": True}
OUTS = [24, 16, 12]
CASES: dict[str, dict[str, Any]] = {
    "ppyoloe": {
        "backbone": {"use_large_stem": True, "width_mult": 0.0625, "depth_mult": 0.33},
        "neck": {"out_channels": [768, 384, 192], "width_mult": 0.0625, "depth_mult": 0.33},
        "head": {"num_classes": 80},
    },
    "ppyoloe_plus": {
        "backbone": {**SMALL, "use_alpha": True},
        "neck": {"out_channels": OUTS, "block_num": 2},
        "head": {"num_classes": 3},
    },
    "tiny_aux": {
        "backbone": {**SMALL, "use_alpha": True},
        "neck": {"out_channels": [16, 16, 16], "block_num": 1},
        "head": {"num_classes": 4, "attn_conv": "repvgg"},
        "aux": {"num_classes": 4, "feat_in": 32, "feat_out": 32, "fpn_strides": [32, 16, 8]},
    },
    "tiny_relu": {
        "backbone": {**SMALL, "use_alpha": True, "act": "relu"},
        "neck": {"out_channels": [16, 16, 16], "block_num": 1, "act": "relu"},
        "head": {"num_classes": 4, "attn_conv": None, "act": "relu"},
    },
    "four_levels": {
        "backbone": {**SMALL, "use_alpha": True, "return_idx": [0, 1, 2, 3]},
        "neck": {"out_channels": [24, 16, 12, 8], "block_num": 1},
        "head": {"num_classes": 2, "fpn_strides": [32, 16, 8, 4]},
    },
    "neck_alpha": {
        "backbone": {**SMALL, "use_alpha": True, "use_large_stem": False},
        "neck": {"out_channels": OUTS, "block_num": 2, "use_alpha": True},
        "head": {"num_classes": 1},
    },
    "small_objects": {
        "backbone": {**SMALL, "use_alpha": True},
        "neck": {"out_channels": OUTS, "block_num": 3},
        "head": {"num_classes": 5, "reg_range": [-2, 17]},
    },
}


def weights(settings: dict[str, Any], name: str) -> Arrays:
    """Return weights with which the network tells one image from another, and that pack small."""
    network = made(settings)
    state = random_state({k: tuple(v.shape) for k, v in network.state_dict().items()}, name)
    state["yolo_head.proj_conv.weight"] = network.yolo_head.proj_conv.weight.numpy()
    x = images((8, 3, 128, 128), 7)
    state = settled(loaded(settings, state, "float64"), x, chooser(state, name))
    state = {key: rounded(value) for key, value in state.items()}
    now = answers(loaded(settings, state, "float64"), x)
    logits = {key: value for key, value in now.items() if key[:3] in ("cls", "reg")}
    return {key: rounded(value) for key, value in predicting(state, logits, name).items()}


def run(exact: Any, near: list[Any], plain: Any, x: np.ndarray, factors: np.ndarray) -> Arrays:
    """Return everything that is recorded of one batch of images."""
    wide = x.astype(np.float64)
    truth = answers(exact, wide)
    assert all(value.dtype == np.float64 for value in truth.values())
    single = answers(plain, x)
    if len(x) > 1:  # once is enough: the numbers are those of the maps in another order
        single |= trained(plain, x)
    for name, nms in NMS.items():
        single[f"{name}_rows"], single[f"{name}_count"] = selected(plain, x, factors, nms)
    found = {f"truth/{key}": value for key, value in truth.items()}
    found |= {f"float32/{key}": value for key, value in single.items()}
    others = [answers(layer, wide) for layer in near]
    for key, value in truth.items():
        found[f"nudged/{key}"] = np.max([np.abs(other[key] - value).max() for other in others])
    return found | {"scale_factor": factors}


def write(name: str, folder: Path) -> None:
    settings = CASES[name]
    state = weights(settings, name)
    exact, plain = (loaded(settings, state, dtype) for dtype in ("float64", "float32"))
    near = [nudged(loaded(settings, state, "float64"), seed) for seed in range(4)]
    inputs = [rounded(images(shape, seed)) for seed, shape in enumerate(IMAGES)]
    with paddle.no_grad():
        runs = [run(exact, near, plain, x, f) for x, f in zip(inputs, FACTORS, strict=True)]
        deploy, keys = converted(plain)
        for x, found in zip(inputs, runs, strict=True):
            after = answers(plain, x)
            found |= {f"deployed32/{key}": after[key] for key in ("cls0", "reg0")}
    about = {"peer": "paddledet 2.6.0", "settings": settings, "deploy_keys": keys, "nms": NMS}
    save(folder / f"{name}.npz", Case(about, state, inputs, runs, deploy))


def main() -> None:
    paddle.set_device("cpu")
    for name in sys.argv[2:] or CASES:
        write(name, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
