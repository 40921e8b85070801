"""Record the blocks of Paddle's own projects: run where paddlepaddle and the package are.

python produce_repvgg_paddle.py paddleclas    # or paddledet, paddleslim, paddleocr
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from recording import random_input, random_state, save, without_init

CLAS, DET, SLIM = "paddleclas==2.6.0", "paddledet==2.6.0", "paddleslim==2.6.0"
OCR = "TxTNTl/Image2Latex@94eba8e"  # holds a copy of PaddleOCR, whose package has no networks


def record(
    slug: str,
    block: Any,
    channels: int,
    seed: int,
    *,
    entry: Any = None,
    end: Any = None,
    changes: Mapping[str, float] | None = None,
    **about: Any,
) -> None:
    """Write the case ``slug``.

    Args:
        entry: the Layer that makes the input of the region; the block's own input by default.
        end: the Layer after the region; the block's own output by default.
        changes: values of single keys, in place of random ones.
    """
    block.eval()
    shapes = {key: tuple(value.shape) for key, value in block.state_dict().items()}
    state = random_state(shapes, seed)
    for key, value in (changes or {}).items():
        state[key][...] = value
    block.set_state_dict(state)
    block.to(dtype="float64")
    x, y = [random_input(channels, seed)], []
    if entry is not None:
        entry.register_forward_post_hook(lambda _, __, made: x.append(made.numpy()))
    if end is not None:
        end.register_forward_pre_hook(lambda _, given: y.append(given[0].numpy()))
    with paddle.no_grad():
        y.append(block(paddle.to_tensor(x[0])).numpy())
    save(slug, state, x[min(1, len(x) - 1)], y[0], **{"epsilon": 1e-5, **about})


def paddleclas() -> None:
    from paddleclas.ppcls.arch.backbone.legendary_models.pp_lcnet_v2 import RepDepthwiseSeparable
    from paddleclas.ppcls.arch.backbone.model_zoo.repvgg import RepVGGBlock

    for seed, stride, split in ((1, 1, False), (2, 2, True)):
        block = RepDepthwiseSeparable(
            4, 8, stride, dw_size=5, split_pw=split, use_rep=True, use_se=not split
        )
        about = {"family": "PP-LCNetV2", "source": CLAS, "layer": "RepDepthwiseSeparable"}
        stride_too = {"stride": [stride, stride], "groups": 4}
        record(f"lcnet_v2_s{stride}", block, 4, seed, end=block.act, **about, **stride_too)
    about = {"family": "RepVGG", "source": CLAS, "layer": "RepVGGBlock", "activation": "relu"}
    for seed, groups, stride in ((3, 1, 1), (4, 2, 2)):
        block = RepVGGBlock(6, 6, 3, stride=stride, padding=1, groups=groups)
        geometry = {"stride": [stride, stride], "groups": groups}
        record(f"repvgg_clas_g{groups}", block, 6, seed, **about, **geometry)


def paddledet() -> None:
    from ppdet.modeling.backbones.cspresnet import RepVggBlock
    from ppdet.modeling.backbones.mobileone import MobileOneBlock

    about = {"family": "RepVggBlock", "source": DET, "layer": "RepVggBlock", "activation": "relu"}
    for seed, alpha in ((5, 0.37), (6, 2.5)):
        block = RepVggBlock(4, 6, act="relu", alpha=True)
        record(f"repvggblock_alpha{seed - 5}", block, 4, seed, changes={"alpha": alpha}, **about)
    about = {"family": "MobileOne (PaddleDetection)", "source": DET, "layer": "MobileOneBlock"}
    for seed, outputs, stride, size, bias in ((7, 4, 1, 3, False), (8, 6, 2, 5, True)):
        for part in ("conv1", "conv2"):
            act = paddle.nn.ReLU()
            block = MobileOneBlock(
                4, outputs, stride, size, conv_num=2, norm_type="bn", bias_on=bias, act=act
            )
            first = part == "conv1"
            record(
                f"mobileone_det_{part}_s{stride}",
                block,
                4,
                seed,
                entry=None if first else act,
                end=act if first else None,
                part=part,
                groups=4 if first else 1,
                stride=[stride, stride] if first else [1, 1],
                activation="" if first else "relu",
                **about,
            )


def paddleslim() -> None:
    without_init("paddleslim", "dygraph", "dygraph.rep", "dygraph.rep.reper")
    from paddleslim.dygraph.rep.reper.repvgg import RepVGGBlock
    from paddleslim.dygraph.rep.reper.slimrep import SlimRepBlock

    for name, kind, family in (
        ("repvgg", RepVGGBlock, "RepVGG (PaddleSlim)"),
        ("slimrep", SlimRepBlock, "SlimRep"),
    ):
        about = {"family": family, "source": SLIM, "layer": kind.__name__}
        for seed, size, stride, groups in ((9, 3, 1, 1), (10, 5, 2, 2), (11, 3, 1, 4)):
            block = kind(4, 4, size, stride=stride, groups=groups)
            geometry = {"stride": [stride, stride], "groups": groups}
            record(f"slim_{name}_k{size}_g{groups}", block, 4, seed, **about, **geometry)


def paddleocr() -> None:
    without_init("ppocr", "modeling", "modeling.backbones")
    from ppocr.modeling.backbones.rec_lcnetv3 import LearnableRepLayer

    about = {"family": "LearnableRepLayer", "source": OCR, "layer": "LearnableRepLayer"}
    for seed, size, stride, groups in ((12, 3, 1, 4), (13, 5, (2, 1), 4), (14, 1, 1, 1)):
        outputs = 6 if size == 1 else 4
        block = LearnableRepLayer(4, outputs, size, stride, groups=groups, num_conv_branches=2)
        strides = list(stride) if isinstance(stride, tuple) else [stride, stride]
        record(
            f"ocr_learnable_k{size}", block, 4, seed, end=block.act, stride=strides,
            groups=groups, **about,
        )  # fmt: skip


PACKAGES = {
    "paddleclas": paddleclas,
    "paddledet": paddledet,
    "paddleslim": paddleslim,
    "paddleocr": paddleocr,
}

if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    PACKAGES[sys.argv[1]]()
