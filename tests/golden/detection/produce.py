"""Write the golden data of this folder: what paddledet's PP-YOLOE head makes of given maps.

Nothing in the project imports this script or what it imports; ../README.md says how to make the
virtual environment it runs in. Every number is drawn from a seeded NumPy generator.

    python produce.py FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from ppdet.modeling.heads.ppyoloe_head import PPYOLOEHead
from ppdet.modeling.layers import MultiClassNMS

STRIDES, SIZES = (32, 16, 8), ((2, 3), (4, 6), (8, 12))
CLASSES, REG_MAX = 4, 8
SETTINGS = {
    "all": {"score_threshold": 0.2, "nms_threshold": 0.5, "nms_top_k": 1000, "keep_top_k": 500},
    "best": {"score_threshold": 0.2, "nms_threshold": 0.5, "nms_top_k": 1000, "keep_top_k": 12},
    "candidates": {"score_threshold": 0.2, "nms_threshold": 0.5, "nms_top_k": 7, "keep_top_k": 20},
    "none": {"score_threshold": 0.999, "nms_threshold": 0.5, "nms_top_k": 1000, "keep_top_k": 20},
}
SCALES = np.array([[1.0, 1.0], [0.5, 0.8], [1.6, 0.4]], dtype=np.float32)


class Given(paddle.nn.Layer):
    """A layer that gives a recorded map, whatever it reads."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = values

    def forward(self, *_: Any) -> paddle.Tensor:
        return paddle.to_tensor(self.values)


def drawn_maps() -> list[np.ndarray]:
    """Return cls and reg of each stride; the second of the three images shows nothing."""
    rng = np.random.default_rng(20)
    arrays = []
    for height, width in SIZES:
        cls = rng.normal(-2.0, 2.0, (3, CLASSES, height, width))
        cls[1] = -9.0
        reg = rng.normal(0.0, 2.0, (3, 4 * (REG_MAX + 1), height, width))
        arrays += [cls.astype(np.float32), reg.astype(np.float32)]
    return arrays


def head_of(arrays: list[np.ndarray], **options: Any) -> PPYOLOEHead:
    """Return paddledet's head with its convolutions replaced by the given maps."""
    head = PPYOLOEHead(
        in_channels=[4, 4, 4],
        num_classes=CLASSES,
        fpn_strides=STRIDES,
        reg_max=REG_MAX,
        static_assigner=None,
        assigner=None,
        **options,
    )
    nothing = Given(np.zeros((), np.float32))
    for level in range(len(STRIDES)):
        head.stem_cls[level] = head.stem_reg[level] = nothing
        head.pred_cls[level] = Given(arrays[2 * level])
        head.pred_reg[level] = Given(arrays[2 * level + 1])
    head.eval()
    return head


def answer(arrays: list[np.ndarray], scales: np.ndarray, **options: Any) -> list[np.ndarray]:
    """Return what the head and its post-processing give."""
    head = head_of(arrays, **options)
    feats = [paddle.zeros([len(scales), 4, *size]) for size in SIZES]
    with paddle.no_grad():
        found = head.post_process(head(feats), paddle.to_tensor(scales))
    return [value.numpy() for value in found[:2]]


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the file goes")
    folder = parser.parse_args().folder
    paddle.set_device("cpu")
    arrays = drawn_maps()
    entries = {f"map/{i}": array for i, array in enumerate(arrays)}
    ones = np.ones_like(SCALES)
    entries["boxes"], entries["scores"] = answer(arrays, ones, exclude_nms=True)
    for images in (1, 3):
        part = [array[:images] for array in arrays]
        for name, settings in SETTINGS.items():
            nms = MultiClassNMS(**settings)
            rows, count = answer(part, SCALES[:images], nms=nms)
            entries[f"rows/{name}/{images}"], entries[f"count/{name}/{images}"] = rows, count
    about = {
        "peer": "paddledet 2.6.0",
        "strides": STRIDES,
        "classes": CLASSES,
        "bins": REG_MAX + 1,
        "settings": SETTINGS,
    }
    text = json.dumps(about, sort_keys=True)
    np.savez_compressed(folder / "ppyoloe_head.npz", about=text, scale_factor=SCALES, **entries)


if __name__ == "__main__":
    main()
