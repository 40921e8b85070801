"""Record networks of PaddleClas and PaddleOCR; README.md says where this runs.

python produce_paddle.py FOLDER_OF_REC_LCNETV3
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from recording import Arrays, image, random_state, save

DEPLOY_METHODS = ("re_parameterize", "rep")


def record(name: str, make: Callable[[], Any], size: tuple[int, ...], about: Any) -> None:
    """Write what the network computes in train-time form, and after its own conversion."""
    shapes = {key: tuple(value.shape) for key, value in make().state_dict().items()}
    state = random_state(shapes, name)
    x = image(size)
    exact, plain = loaded(make(), state), loaded(make(), state)
    exact.to(dtype="float64")
    outputs = {"output": run(exact, x.astype(np.float64)), "output32": run(plain, x)}
    for layer in plain.sublayers():
        for method in DEPLOY_METHODS:
            if hasattr(layer, method):
                getattr(layer, method)()
    outputs["deployed32"] = run(plain, x)
    without = {key: v for key, v in state.items() if not placeholder(key, state)}
    missing, unexpected = make().set_state_dict(dict(without))
    assert (set(missing), unexpected) == (set(state) - set(without), [])
    save(name, state, x, outputs, about)


def placeholder(key: str, state: Arrays) -> bool:
    """Whether this is the deploy weight that PaddleClas stores at random beside the branches."""
    stem, _, rest = key.partition(".dw_conv.")
    return rest in ("weight", "bias") and f"{stem}.dw_conv_list.0.conv.weight" in state


def loaded(network: Any, state: Arrays) -> Any:
    missing, unexpected = network.set_state_dict(dict(state))
    assert (missing, unexpected) == ([], [])
    network.eval()
    return network


def run(network: Any, x: np.ndarray) -> list[np.ndarray]:
    with paddle.no_grad():
        found = network(paddle.to_tensor(x))
    return [one.numpy() for one in (found if isinstance(found, list) else [found])]


def paddleclas() -> None:
    from paddleclas.ppcls.arch.backbone.legendary_models.pp_lcnet_v2 import PPLCNetV2

    common = {"scale": 0.0625, "depths": [1, 2, 2, 2], "class_num": 10, "dropout_prob": 0.2}
    for name, own in {
        "clas_lcnetv2": {"class_expand": 24},
        "clas_lcnetv2_hardswish": {"use_last_conv": False, "act": "hardswish"},
    }.items():
        settings = {**common, **own}
        about = {"model": "pplcnetv2", "settings": settings, "source": "paddleclas==2.6.0"}
        record(name, lambda settings=settings: PPLCNetV2(**settings), (1, 3, 45, 64), about)


def paddleocr(folder: str) -> None:
    # The file asks for one class of its package, for another kind of device.
    other = types.ModuleType("ppocr.modeling.backbones.rec_hgnet")
    other.MeanPool2D = None
    sys.modules["ppocr.modeling.backbones.rec_hgnet"] = other
    sys.path.insert(0, folder)
    from rec_lcnetv3 import PPLCNetV3

    for name, size, settings in (
        ("ocr_lcnetv3_det", (1, 3, 33, 64), {"scale": 0.0625, "conv_kxk_num": 2, "det": True}),
        ("ocr_lcnetv3_rec", (1, 3, 48, 72), {"scale": 0.05, "conv_kxk_num": 1, "det": False}),
    ):
        source = "PaddleOCR, ppocr/modeling/backbones/rec_lcnetv3.py"
        about = {"model": "pplcnetv3", "settings": settings, "source": source}
        record(name, lambda settings=settings: PPLCNetV3(**settings), size, about)


if __name__ == "__main__":
    paddle.set_device("cpu")
    paddleclas()
    paddleocr(sys.argv[1])
