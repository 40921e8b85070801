"""Record RepVGG and its descendants of PyTorch: run where torch and the package are.

python produce_repvgg.py timm                  # or ultralytics, ...
"""

from __future__ import annotations

import sys
from typing import Any

from recording import without_init
from torch_recording import record

TIMM = "timm==1.0.31"
ULTRALYTICS = "ultralytics==8.4.190"
SUPER_GRADIENTS = "super-gradients==3.7.1"
MMPRETRAIN = "mmpretrain==1.2.0"
MMYOLO = "mmyolo==0.6.0"
TRANSFORMERS = "transformers==5.24.0"
YOLOV6, YOLOV7, YOLOV9 = "yolov6detect==0.4.1", "yolov7detect==1.0.1", "yolov9py==1.1.0"


def both(stride: int, groups: int) -> dict[str, Any]:
    return {"stride": [stride, stride], "groups": groups}


def timm() -> None:
    from timm.layers import create_attn
    from timm.models import byobnet, fastvit
    from timm.models.ghostnet import GhostBottleneckV3, GhostModuleV3
    from timm.models.lcnetv2 import RepDepthwiseSeparable
    from timm.models.repghost import RepGhostModule

    se = byobnet.LayerFn(attn=lambda channels, **_: create_attn("ese", channels))
    for seed, stride, size, groups, layers in ((1, 1, 3, 1, None), (2, 2, 5, 2, se)):
        about = {"family": "RepVGG (timm)", "source": TIMM, "layer": "byobnet.RepVggBlock"}
        block = byobnet.RepVggBlock(6, 6, size, stride, group_size=6 // groups, layers=layers)
        record(
            f"timm_repvgg_k{size}", block, 6, seed, end=block.attn, **about, **both(stride, groups)
        )
    for seed, stride, size, groups in ((3, 1, 3, 6), (4, 2, 7, 6), (5, 1, 1, 1)):
        about = {"family": "MobileOne (timm)", "source": TIMM, "layer": "fastvit.MobileOneBlock"}
        block = fastvit.MobileOneBlock(
            6, 6, size, stride, group_size=6 // groups if groups > 1 else 0,
            num_conv_branches=2, use_se=stride == 2,
        )  # fmt: skip
        record(
            f"timm_mobileone_k{size}", block, 6, seed, end=block.se, **about, **both(stride, groups)
        )
    about = {"family": "RepMixer (timm)", "source": TIMM, "layer": "fastvit.RepMixer"}
    for seed, size, scale in ((6, 3, 1.0), (7, 7, None)):
        block = fastvit.RepMixer(4, size, layer_scale_init_value=scale)
        record(f"timm_repmixer_k{size}", block, 4, seed, groups=4, **about)
    about = {
        "family": "RepConditionalPosEnc", "source": TIMM, "layer": "fastvit.RepConditionalPosEnc",
    }  # fmt: skip
    block = fastvit.RepConditionalPosEnc(4)
    record("timm_position", block, 4, 8, groups=4, prefix="pos_emb.", **about)
    about = {"family": "RepGhost", "source": TIMM, "layer": "repghost.RepGhostModule"}
    block = RepGhostModule(3, 5)
    record(
        "timm_repghost", block, 3, 9, entry=block.primary_conv, end=block.relu, groups=5, **about
    )
    about = {"family": "GhostNetV3 (timm)", "source": TIMM, "layer": "ghostnet.GhostModuleV3"}
    block = GhostModuleV3(3, 4)
    record(
        "timm_ghostv3_primary", block, 3, 10, end=block.primary_activation, part="primary_conv.0",
        **about,
    )  # fmt: skip
    block = GhostModuleV3(3, 4)
    record(
        "timm_ghostv3_cheap", block, 3, 10, entry=block.primary_activation,
        end=block.cheap_activation, groups=2, part="cheap_operation.0", **about,
    )  # fmt: skip
    about = {"family": "GhostNetV3 (timm)", "source": TIMM, "layer": "ghostnet.GhostBottleneckV3"}
    block = GhostBottleneckV3(2, 4, 4, dw_kernel_size=5, stride=2)
    record(
        "timm_ghostv3_dw", block, 2, 11, entry=block.ghost1, end=block.se, part="conv_dw",
        **about, **both(2, 4),
    )  # fmt: skip
    about = {"family": "PP-LCNetV2", "source": TIMM, "layer": "lcnetv2.RepDepthwiseSeparable"}
    block = RepDepthwiseSeparable(4, 6, 1, 5, use_rep=True, split_pw=True)
    record("timm_lcnet_v2", block, 4, 12, end=block.dw_act, groups=4, **about)


def ultralytics() -> None:
    from torch import nn
    from ultralytics.nn.modules.block import RepVGGDW
    from ultralytics.nn.modules.conv import Conv2, RepConv

    about = {"source": ULTRALYTICS, "epsilon": 1e-3}
    for seed, outputs, groups in ((20, 6, 1), (21, 6, 2)):
        block = RepConv(6, outputs, g=groups, act=nn.ReLU(), bn=True)
        record(
            f"ultralytics_repconv_g{groups}", block, 6, seed, family="RepConv (ultralytics)",
            layer="RepConv", activation="relu", groups=groups, **about,
        )  # fmt: skip
    block = RepConv(4, 6, s=2, act=nn.ReLU())
    record(
        "ultralytics_repconv_s2", block, 4, 22, family="RepVggBlock", layer="RepConv",
        activation="relu", stride=[2, 2], options={"epsilon": 1e-3}, **about,
    )  # fmt: skip
    for seed, stride, groups, size in ((23, 1, 1, 3), (24, 2, 2, 5)):
        block = Conv2(4, 6, size, stride, g=groups, act=nn.ReLU())
        record(
            f"ultralytics_conv2_k{size}", block, 4, seed, family="Conv2", layer="Conv2",
            activation="relu", **both(stride, groups), **about,
        )  # fmt: skip
    block = RepVGGDW(4)
    record(
        "ultralytics_repvggdw", block, 4, 25, end=block.act, family="RepVGGDW", layer="RepVGGDW",
        groups=4, **about,
    )  # fmt: skip


def super_gradients() -> None:
    without_init("super_gradients", "modules")
    from super_gradients.modules.repvgg_block import RepVGGBlock

    sys.modules["super_gradients.modules"].RepVGGBlock = RepVGGBlock
    from super_gradients.modules.qarepvgg_block import QARepVGGBlock

    about = {"source": SUPER_GRADIENTS, "activation": "relu"}
    for seed, stride, groups, alpha in ((30, 1, 2, True), (31, 2, 1, False)):
        block = RepVGGBlock(4, 4, stride=stride, groups=groups, use_alpha=alpha)
        record(
            f"sg_repvgg_s{stride}", block, 4, seed, family="RepVGG (super-gradients)",
            layer="RepVGGBlock", options={"epsilon": 1e-5}, **both(stride, groups), **about,
        )  # fmt: skip
    for seed, groups, name in (
        (32, 1, "QARepVGG (super-gradients)"),
        (33, 2, "QARepVGG (super-gradients, grouped)"),
    ):
        block = QARepVGGBlock(4, 4, groups=groups, use_alpha=groups == 1)
        record(
            f"sg_qarepvgg_g{groups}", block, 4, seed, family=name, layer="QARepVGGBlock",
            epsilon=1e-3, groups=groups, options={"epsilon": 1e-3, "families": [name]}, **about,
        )  # fmt: skip
    name = "QARepVGG (super-gradients, no identity)"
    block = QARepVGGBlock(
        3, 4, stride=2, use_residual_connection=False, use_1x1_bias=False, use_post_bn=False
    )
    record(
        "sg_qarepvgg_s2", block, 3, 34, family=name, layer="QARepVGGBlock", epsilon=1e-6,
        options={"epsilon": 1e-6}, **both(2, 1), **about,
    )  # fmt: skip


def mmpretrain() -> None:
    from mmpretrain.models.backbones.mobileone import MobileOneBlock
    from mmpretrain.models.backbones.repvgg import RepVGGBlock

    about = {"family": "RepVGG (mmpretrain)", "source": MMPRETRAIN, "layer": "RepVGGBlock"}
    for seed, stride, groups, dilation in ((40, 1, 2, 1), (41, 2, 1, 1), (42, 1, 1, 2)):
        se = {"ratio": 2} if stride == 2 else None
        block = RepVGGBlock(
            4, 4, stride, padding=dilation, dilation=dilation, groups=groups, se_cfg=se
        )
        record(
            f"mmpretrain_repvgg_s{stride}_d{dilation}", block, 4, seed,
            end=block.se_layer or block.act, dilation=dilation, **both(stride, groups), **about,
        )  # fmt: skip
    about = {"family": "MobileOne (mmpretrain)", "source": MMPRETRAIN, "layer": "MobileOneBlock"}
    for seed, size, stride, groups in ((43, 3, 1, 4), (44, 1, 1, 1)):
        block = MobileOneBlock(
            4, 4, size, num_convs=2, stride=stride, padding=size // 2, groups=groups
        )
        record(
            f"mmpretrain_mobileone_k{size}", block, 4, seed, end=block.se,
            **both(stride, groups), **about,
        )  # fmt: skip


def mmyolo() -> None:
    without_init("mmyolo", "models", "models.layers")
    without_init("mmdet", "models", "models.layers")  # needs compiled operators otherwise
    from mmyolo.models.layers.yolo_bricks import RepVGGBlock

    about = {"family": "RepVGG", "source": MMYOLO, "layer": "RepVGGBlock", "activation": "relu"}
    for seed, alpha, epsilon in ((50, True, 1e-5), (51, False, 1e-3)):
        block = RepVGGBlock(4, 4, use_alpha=alpha, use_bn_first=not alpha)
        record(
            f"mmyolo_repvgg_{'alpha' if alpha else 'identity'}", block, 4, seed, epsilon=epsilon,
            options={"epsilon": epsilon}, **about,
        )  # fmt: skip


def yolov6() -> None:
    from yolov6.layers.common import LinearAddBlock, RepVGGBlock

    about = {"source": YOLOV6, "activation": "relu", "epsilon": 1e-3}
    for seed, stride, groups in ((60, 1, 1), (61, 2, 2)):
        block = RepVGGBlock(4, 4, stride=stride, groups=groups)
        record(
            f"yolov6_repvgg_s{stride}", block, 4, seed, family="RepVGG", layer="RepVGGBlock",
            options={"epsilon": 1e-3}, **both(stride, groups), **about,
        )  # fmt: skip
        block = LinearAddBlock(4, 4, stride=stride)
        record(
            f"yolov6_repopt_s{stride}", block, 4, seed, family="RepOpt", layer="LinearAddBlock",
            options={"epsilon": 1e-3}, **both(stride, 1), **about,
        )  # fmt: skip


def yolov7() -> None:
    from torch import nn
    from yolov7.models.common import RepConv

    about = {"family": "RepConv", "source": YOLOV7, "layer": "RepConv", "epsilon": 1e-3}
    for seed, stride, groups in ((70, 1, 1), (71, 2, 4), (72, 1, 2)):
        block = RepConv(4, 4, s=stride, g=groups, act=nn.ReLU())
        geometry = both(stride, groups)
        record(f"yolov7_repconv_g{groups}", block, 4, seed, activation="relu", **geometry, **about)


def yolov9() -> None:
    from torch import nn
    from yolov9.models.common import RepConvN

    record(
        "yolov9_repconvn", RepConvN(4, 4, act=nn.ReLU()), 4, 80, family="RepVggBlock",
        source=YOLOV9, layer="RepConvN", activation="relu", epsilon=1e-3,
        options={"epsilon": 1e-3},
    )  # fmt: skip


def transformers() -> None:
    from transformers import RTDetrConfig
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrRepVggBlock

    config = RTDetrConfig(encoder_hidden_dim=4, hidden_expansion=1.0, activation_function="relu")
    record(
        "transformers_rtdetr", RTDetrRepVggBlock(config), 4, 90, family="RepVggBlock (RT-DETR)",
        source=TRANSFORMERS, layer="RTDetrRepVggBlock", activation="relu",
    )  # fmt: skip


PACKAGES = {
    "timm": timm,
    "ultralytics": ultralytics,
    "super-gradients": super_gradients,
    "mmpretrain": mmpretrain,
    "mmyolo": mmyolo,
    "yolov6detect": yolov6,
    "yolov7detect": yolov7,
    "yolov9py": yolov9,
    "transformers": transformers,
}

if __name__ == "__main__":
    PACKAGES[sys.argv[1]]()
