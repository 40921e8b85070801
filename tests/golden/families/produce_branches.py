"""Record blocks whose branches are kernels of several sizes or in a row, and heads, with PyTorch.

PYTHONPATH=CHECKOUT python produce_branches.py REPOSITORY, where the checkout is of the commit named
here, or without a checkout for timm. README.md lists them.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

import torch
from torch_recording import record

TIMM = "timm==1.0.31"


def one_pixel(head: Any) -> Any:
    """Return a head of fully connected layers as a block that takes images of one pixel."""
    forward = head.forward
    head.forward = lambda x: forward(x.flatten(1))[..., None, None]
    return head


def diverse_branch_block() -> None:
    from diversebranchblock import DiverseBranchBlock

    about = {
        "family": "DiverseBranchBlock",
        "source": "DiverseBranchBlock@8d2b16b",
        "layer": "DiverseBranchBlock",
    }
    shapes = {"s1": (4, 4, 3, 1, 1), "s2_g2": (4, 6, 3, 2, 2), "k5": (3, 2, 5, 1, 1)}
    for seed, (name, (inputs, outputs, kernel, stride, groups)) in enumerate(shapes.items()):
        block = DiverseBranchBlock(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, nonlinear=None
        )
        geometry = {"stride": [stride, stride], "groups": groups}
        record(f"dbb_{name}", block, inputs, seed, **geometry, **about)
    block = DiverseBranchBlock(4, 4, 3, 1, 1, groups=4)
    record("dbb_depthwise", block, 4, 5, groups=4, one_spelling=True, **about)


def acnet() -> None:
    from acnet.acb import ACBlock

    about = {"family": "ACNet", "source": "ACNet@748fb0c", "layer": "ACBlock"}
    record("acnet_k3", ACBlock(4, 4, 3, padding=1), 4, 0, **about)
    block = ACBlock(4, 6, 5, stride=2, padding=2, groups=2)
    record("acnet_k5", block, 4, 1, stride=[2, 2], groups=2, **about)
    block = ACBlock(4, 4, 3, padding=2, dilation=2, use_affine=False)
    block.ver_conv.padding, block.hor_conv.padding = (2, 0), (0, 2)  # it counts on dilation 1
    record("acnet_plain", block, 4, 2, dilation=2, **about)


def replknet() -> None:
    from replknet import ReparamLargeKernelConv

    about = {"family": "RepLKNet", "source": "RepLKNet-pytorch@b76808a"}
    about["layer"] = "ReparamLargeKernelConv"
    block = ReparamLargeKernelConv(3, 3, 13, 1, 3, 5)
    record("replknet_k13", block, 3, 0, groups=3, **about)
    block = ReparamLargeKernelConv(4, 4, 7, 2, 1, None)
    record("replknet_alone", block, 4, 1, stride=[2, 2], **about)


def unireplknet() -> None:
    from unireplknet import DilatedReparamBlock, UniRepLKNetBlock

    source = "UniRepLKNet@b5677d8"
    for kernel in (7, 13):
        about = {"family": "DilatedReparamBlock", "layer": "DilatedReparamBlock"}
        block = DilatedReparamBlock(2, kernel, deploy=False, attempt_use_lk_impl=False)
        record(f"unireplknet_k{kernel}", block, 2, kernel, groups=2, source=source, **about)
    about = {"family": "UniRepLKNetBlock", "layer": "UniRepLKNetBlock"}
    block = UniRepLKNetBlock(4, 7, attempt_use_lk_impl=False, layer_scale_init_value=1.0)
    record("unireplknet_block", block, 4, 1, end=block.se, groups=4, source=source, **about)


def repvit() -> None:
    from model.repvit import BN_Linear, Classfier, Conv2d_BN, RepVGGDW, Residual

    source = "RepViT@298f420"
    about = {"family": "RepVGGDW (RepViT)", "layer": "RepVGGDW", "source": source}
    record("repvit_dw", RepVGGDW(4), 4, 0, groups=4, **about)
    about = {"family": "Residual", "layer": "Residual", "source": source}
    record("repvit_residual", Residual(Conv2d_BN(4, 4, 3, 1, 1, groups=4)), 4, 1, groups=4, **about)
    block = Residual(Conv2d_BN(4, 4, 3, 1, 1, groups=2))
    record("repvit_residual_g2", block, 4, 2, groups=2, **about)
    about = {"source": source, "size": (1, 1)}
    head = one_pixel(BN_Linear(5, 3))
    record("repvit_linear", head, 5, 3, family="BN_Linear", layer="BN_Linear", **about)
    for name, distilled in (("", False), ("-distilled", True)):
        head = one_pixel(Classfier(5, 3, distillation=distilled))
        record(
            f"repvit_classifier{name.replace('-', '_')}",
            head,
            5,
            4,
            family=f"RepViT-classifier{name}",
            layer="Classfier",
            prefix="classifier.",
            **about,
        )


def timm() -> None:
    from timm.models.fastvit import ReparamLargeKernelConv
    from timm.models.repvit import RepVggDw, RepVitClassifier

    block = ReparamLargeKernelConv(4, 4, 7, 2, 1, small_kernel=3, use_se=True)
    about = {"family": "timm-large-kernel", "layer": "ReparamLargeKernelConv", "source": TIMM}
    record("timm_large_kernel", block, 4, 0, end=block.se, stride=[2, 2], groups=4, **about)
    for name, legacy in (("RepVGGDW (RepViT)", False), ("RepVggDw-legacy", True)):
        about = {"family": name, "layer": "RepVggDw", "source": TIMM}
        slug = "timm_repvit_legacy" if legacy else "timm_repvit_dw"
        block = RepVggDw(4, 3, legacy)
        record(slug, block, 4, 1, groups=4, prefix="block.token_mixer.", **about)
    for name, distilled in (("timm-RepViT-head", False), ("timm-RepViT-head-distilled", True)):
        about = {"family": name, "layer": "RepVitClassifier", "source": TIMM, "size": (1, 1)}
        head = one_pixel(RepVitClassifier(5, 3, distillation=distilled))
        slug = f"timm_repvit_head{'_distilled' if distilled else ''}"
        record(slug, head, 5, 2, prefix="head.", **about)


def orepa() -> None:
    from blocks import OREPA, OREPA_1x1
    from blocks_repvgg import RepVGGBlock_OREPA

    source = "OREPA_CVPR2022@3ed037b"
    about = {"family": "OREPA", "layer": "OREPA", "source": source}
    record("orepa_k3", OREPA(3, 3, 3, padding=1), 3, 0, **about)
    block = OREPA(3, 2, 3, stride=2, padding=1, internal_channels_1x1_3x3=5)
    record("orepa_s2", block, 3, 1, stride=[2, 2], **about)
    about = {"family": "OREPA_1x1", "layer": "OREPA_1x1", "source": source}
    for outputs in (2, 5):
        record(f"orepa_1x1_{outputs}", OREPA_1x1(3, outputs), 3, outputs, **about)
    about = {"family": "RepConv_OREPA", "layer": "RepVGGBlock_OREPA", "source": source}
    block = RepVGGBlock_OREPA(3, 3, 3, padding=1, nonlinear=None)
    record("orepa_repvgg", block, 3, 2, options={"epsilon": 1e-5}, **about)


def yolov7() -> None:
    sys.modules["models.experimental"] = MagicMock()  # other blocks, and what they are loaded with
    for name in ("pandas", "seaborn", "cv2", "requests", "utils.autoanchor", "utils.datasets",
                 "utils.general", "utils.plots", "utils.loss"):  # fmt: skip
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
    from models.common import RepConv_OREPA
    from models.yolo import IDetect

    source = "yolov7@a207844"
    about = {"family": "RepConv_OREPA", "layer": "RepConv_OREPA", "source": source}
    block = RepConv_OREPA(3, 3, 3, nonlinear=None)
    record("yolov7_orepa", block, 3, 1, epsilon=1e-3, options={"epsilon": 1e-3}, **about)
    head = IDetect(1, [[1, 2]], (4,))
    head.forward = lambda x: head.im[0](head.m[0](head.ia[0](x)))  # what it does at each level
    about = {"family": "Implicit", "part": "m.{n}", "layer": "IDetect", "source": source}
    record("yolov7_implicit", head, 4, 3, **about)


def ecbsr() -> None:
    from models.ecb import ECB

    source = "ECBSR@c60b1d2"
    for name, outputs, identity in (
        ("ECB", 4, False),
        ("ECB", 3, False),
        ("ECB-identity", 3, True),
    ):
        block = ECB(3, outputs, 2, act_type="linear", with_idt=identity)
        block.eval = lambda block=block: block.train()  # the sum of branches, not their own fusion
        options = {"families": [name]} if outputs == 3 else {}
        slug = f"ecbsr_{outputs}{'_identity' if identity else ''}"
        record(slug, block, 3, outputs, family=name, layer="ECB", source=source, options=options)


def repnext() -> None:
    from model.repnext import RepDWConvM, RepDWConvS, RepNextClassifier

    source = "RepNeXt@f515377"
    for stride, name in ((1, "RepDWConvS"), (2, "RepDWConvS-strided")):
        geometry = {"stride": [stride, stride], "groups": 3}
        block = RepDWConvS(3, stride)
        about = {"family": name, "layer": "RepDWConvS", "source": source}
        record(f"repnext_small_s{stride}", block, 3, stride, **geometry, **about)
        about = {"family": "RepDWConvM", "layer": "RepDWConvM", "source": source}
        record(f"repnext_medium_s{stride}", RepDWConvM(3, stride), 3, stride, **geometry, **about)
    about = {"family": "RepNeXt-head", "layer": "RepNextClassifier", "source": source}
    head = one_pixel(RepNextClassifier(5, 3, distillation=True))
    record("repnext_head", head, 5, 5, prefix="head.", size=(1, 1), **about)


if __name__ == "__main__":
    torch.manual_seed(0)
    {
        "DiverseBranchBlock": diverse_branch_block,
        "ACNet": acnet,
        "RepLKNet-pytorch": replknet,
        "UniRepLKNet": unireplknet,
        "RepViT": repvit,
        "timm": timm,
        "OREPA_CVPR2022": orepa,
        "yolov7": yolov7,
        "ECBSR": ecbsr,
        "RepNeXt": repnext,
    }[sys.argv[1]]()
