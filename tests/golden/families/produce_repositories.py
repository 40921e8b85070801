"""Record blocks of which no package exists: run where torch is, in a checkout of the project.

PYTHONPATH=CHECKOUT python produce_repositories.py qarepvgg    # or mobileclip, ...
"""

from __future__ import annotations

import sys

import torch
from recording import without_init
from torch_recording import record

QAREPVGG = "cxxgtxy/QARepVGG@b88def2"
MOBILECLIP = "apple/ml-mobileclip@4144bb1"
REPOPT = "DingXiaoH/RepOptimizers@2e45ff5"
YOLOV6 = "meituan/YOLOv6@e86a483"
GHOSTNETV3 = "huawei-noah/Efficient-AI-Backbones@f90e129"


def qarepvgg() -> None:
    from repvgg import QARepVGGBlockV1, QARepVGGBlockV2, RepVGGBlock

    about = {"source": QAREPVGG, "activation": "relu"}
    one = {"epsilon": 1e-5}
    record(
        "original_repvgg", RepVGGBlock(4, 4, 3, padding=1, groups=2), 4, 1, family="RepVGG",
        layer="RepVGGBlock", groups=2, options=one, **about,
    )  # fmt: skip
    record(
        "qarepvgg_v1", QARepVGGBlockV1(4, 4, 3, padding=1), 4, 2, family="QARepVGG V1",
        layer="QARepVGGBlockV1", options=one, **about,
    )  # fmt: skip
    for seed, name, groups, stride in (
        (3, "QARepVGG", 1, 1),
        (4, "QARepVGG (grouped)", 2, 1),
        (5, "QARepVGG (no identity)", 1, 2),
    ):
        block = QARepVGGBlockV2(4, 4, 3, stride=stride, padding=1, groups=groups)
        record(
            f"qarepvgg_v2_g{groups}_s{stride}", block, 4, seed, family=name,
            layer="QARepVGGBlockV2", groups=groups, stride=[stride, stride],
            options={**one, "families": [name]}, **about,
        )  # fmt: skip


def mobileclip() -> None:
    without_init("mobileclip", "models")
    from mobileclip.models.mci import RepCPE, RepMixer
    from mobileclip.modules.common.mobileone import MobileOneBlock
    from mobileclip.modules.text.repmixer import RepMixer as TextRepMixer

    about = {"source": MOBILECLIP}
    for seed, size, stride, groups in ((10, 3, 1, 4), (11, 7, 2, 4), (12, 1, 1, 1)):
        block = MobileOneBlock(
            4, 4, size, stride, size // 2, groups=groups, num_conv_branches=2, use_act=False
        )
        record(
            f"mobileclip_mobileone_k{size}", block, 4, seed, family="MobileOne",
            layer="MobileOneBlock", groups=groups, stride=[stride, stride], **about,
        )  # fmt: skip
    for seed, kind, name in ((13, RepMixer, "image"), (14, TextRepMixer, "text")):
        block = kind(4, 7, layer_scale_init_value=1.0)
        record(
            f"mobileclip_repmixer_{name}", block, 4, seed, family="RepMixer",
            layer=f"RepMixer ({name})", groups=4, **about,
        )  # fmt: skip
    block = RepCPE(4, 4)
    record("mobileclip_repcpe", block, 4, 15, family="RepCPE", layer="RepCPE", groups=4, **about)


def repoptimizers() -> None:
    from repoptimizer.repoptvgg_model import LinearAddBlock, RepVGGBlock

    about = {"source": REPOPT, "activation": "relu"}
    record(
        "repopt_repvgg", RepVGGBlock(4, 4), 4, 20, family="RepVGG (RepOptimizers)",
        layer="RepVGGBlock", **about,
    )  # fmt: skip
    record(
        "repopt_linear_add", LinearAddBlock(4, 4, conv_scale_init=1.0), 4, 21, family="RepOpt",
        layer="LinearAddBlock", options={"epsilon": 1e-5}, **about,
    )  # fmt: skip


def yolov6() -> None:
    from yolov6.layers.common import QARepVGGBlock, QARepVGGBlockV2, RepVGGBlock
    from yolov6.utils.torch_utils import fuse_model

    about = {"source": YOLOV6, "activation": "relu", "epsilon": 1e-3}
    for seed, groups, stride in ((40, 1, 1), (41, 2, 2)):
        with torch.no_grad():
            block = fuse_model(RepVGGBlock(4, 4, stride=stride, groups=groups).eval())
        record(
            f"yolov6_folded_s{stride}", block, 4, seed, family="RepVGG with folded BatchNorms",
            layer="RepVGGBlock after fuse_model", groups=groups, stride=[stride, stride], **about,
        )  # fmt: skip
    for seed, kind, name in (
        (42, QARepVGGBlock, "QARepVGG"),
        (43, QARepVGGBlockV2, "QARepVGG V2 (YOLOv6)"),
    ):
        record(
            f"yolov6_qarepvgg_{seed}", kind(4, 4), 4, seed, family=name, layer=kind.__name__,
            options={"epsilon": 1e-3, "families": [name]},
            **({"one_spelling": True} if kind is QARepVGGBlockV2 else {}), **about,
        )  # fmt: skip


def ghostnetv3() -> None:
    from ghostnetv3 import GhostBottleneck, GhostModule

    about = {"family": "GhostNetV3", "source": GHOSTNETV3, "layer": "GhostModule"}
    for part in ("primary", "cheap"):
        block = GhostModule(2, 4, mode="ori")
        primary = part == "primary"
        record(
            f"ghostv3_{part}", block, 2, 30,
            entry=None if primary else block.primary_activation,
            end=block.primary_activation if primary else block.cheap_activation,
            groups=1 if primary else 2,
            part="primary_conv.0" if primary else "cheap_operation.0", **about,
        )  # fmt: skip
    about["layer"] = "GhostBottleneck"
    block = GhostBottleneck(2, 4, 2, 5, stride=2, layer_id=0)
    record(
        "ghostv3_dw", block, 2, 31, entry=block.ghost1, end=block.ghost2, groups=4,
        stride=[2, 2], part="conv_dw", **about,
    )  # fmt: skip


PROJECTS = {
    "qarepvgg": qarepvgg,
    "mobileclip": mobileclip,
    "repoptimizers": repoptimizers,
    "ghostnetv3": ghostnetv3,
    "yolov6": yolov6,
}

if __name__ == "__main__":
    PROJECTS[sys.argv[1]]()
