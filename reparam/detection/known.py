"""Detectors that are not in the zoo, told by the names in their checkpoints. Standard library only.

For each there are a few patterns: a checkpoint is of the first detector of which each one matches
a key. A pattern begins where a part of a name begins, so wrappers before it do not matter. None
names what fusing blocks or folding BatchNorms takes away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PADDLE = "PaddleDetection"
_MMDET, _MEGVII = "mmdetection", "YOLOX of Megvii"
_TORCHVISION, _ULTRALYTICS = "torchvision", "Ultralytics"


@dataclass(frozen=True)
class KnownDetector:
    """A detector that is known by name alone.

    Attributes:
        name: of the detector.
        project: whose names its checkpoint has.
        note: what else a user may want to know, in a few words; empty if nothing.
        evidence: patterns of names that all have to be there.
        source: of the names.
    """

    name: str
    project: str
    evidence: tuple[str, ...]
    source: str
    note: str = ""

    @property
    def title(self) -> str:
        """Name and project, and the note if there is one, in a few words."""
        note = f"; {self.note}" if self.note else ""
        return f"{self.name} ({self.project}{note})"

    def told_by(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return the first key that each pattern matches."""
        text = "\n".join(keys)
        found = (_first(pattern, text) for pattern in self.evidence)
        return tuple(_line_around(text, match) for match in found if match)


def detector_of(keys: Iterable[str]) -> KnownDetector | None:
    """Return the detector that a checkpoint with these names is of, None if none is known.

    A PP-YOLOE that is in the zoo is not one of them: one with a part that the zoo lacks is.

    Args:
        keys: names of arrays, or a mapping of them to shapes; in train-time or deploy form.
    """
    text = "\n".join(keys)
    for known in DETECTORS:
        if all(_first(pattern, text) for pattern in known.evidence):
            return known
    return None


def _first(pattern: str, text: str) -> re.Match[str] | None:
    """Return the first match that begins with a part of a name, or with the dot after one.

    Looking behind is not left to the pattern: one that begins with letters is found many times
    faster.
    """
    for match in re.finditer(pattern, text):
        if match.start() == 0 or text[match.start()] == "." or text[match.start() - 1] in ".\n":
            return match
    return None


def _line_around(text: str, match: re.Match[str]) -> str:
    end = text.find("\n", match.end())
    return text[text.rfind("\n", 0, match.start()) + 1 : None if end < 0 else end]


_PPYOLOE_HEAD = r"yolo_head\.stem_cls\.\d+\.fc\."
_FPN = r"neck\.fpn_inner_res\d_sum"
_YOLO_OUTPUT = r"yolo_head\.yolo_output\.\d"
_RTDETR_NECK = r"fpn_blocks\.0\.bottlenecks\.0\."
_HEADS = "ppdet/modeling/heads/"
_NECKS = "ppdet/modeling/necks/"
_ARCHITECTURES = "ppdet/modeling/architectures/"

# The first that fits wins, so what has more parts stands before what it is made of. Names of
# PaddleDetection are those of its version 2.8.
DETECTORS: tuple[KnownDetector, ...] = (
    KnownDetector(
        "PP-YOLOE-R", PADDLE, (_PPYOLOE_HEAD, r"yolo_head\.pred_angle\.\d"),
        f"{_HEADS}ppyoloe_r_head.py", "rotated boxes",
    ),
    KnownDetector(
        "PP-YOLOE-seg", PADDLE, (_PPYOLOE_HEAD, r"yolo_head\.pred_ins\.\d"),
        f"{_HEADS}ppyoloe_ins_head.py", "boxes and masks",
    ),
    KnownDetector(
        "PP-YOLOE-SOD", PADDLE, (_PPYOLOE_HEAD, r"neck\.encoder\.layers\.0\."),
        f"{_NECKS}custom_pan.py", "its neck has a transformer",
    ),
    KnownDetector(
        "PP-YOLOE with ConvNeXt as its backbone", PADDLE,
        (_PPYOLOE_HEAD, r"backbone\.downsample_layers\.0\."),
        "ppdet/modeling/backbones/convnext.py",
    ),
    KnownDetector(
        "PP-YOLOE with Swin Transformer as its backbone", PADDLE,
        (_PPYOLOE_HEAD, r"backbone\.layers\.0\.blocks\.0\.attn\.relative_position_bias_table"),
        "ppdet/modeling/backbones/swin_transformer.py",
    ),
    KnownDetector(
        "PP-YOLOE with FocalNet as its backbone", PADDLE,
        (_PPYOLOE_HEAD, r"backbone\.layers\.0\.blocks\.0\.modulation\."),
        "ppdet/modeling/backbones/focalnet.py",
    ),
    KnownDetector(
        "PP-YOLOE with ViT as its backbone", PADDLE,
        (_PPYOLOE_HEAD, r"backbone\.blocks\.0\.attn\."),
        "ppdet/modeling/backbones/vision_transformer.py",
    ),
    KnownDetector(
        "JDE", PADDLE, (r"detector\.neck\.yolo_block\.0\.", r"reid\.identify_output\.\d"),
        f"{_ARCHITECTURES}jde.py", "tracks objects too",
    ),
    KnownDetector(
        "FairMOT", PADDLE, (r"detector\.neck\.dla_up\.", r"reid\.reid\.\d"),
        f"{_ARCHITECTURES}fairmot.py", "tracks objects too",
    ),
    KnownDetector(
        "PP-YOLOv2", PADDLE, (_YOLO_OUTPUT, r"neck\.fpn_transition\.\d"), f"{_NECKS}yolo_fpn.py",
    ),
    KnownDetector(
        "YOLOv3", PADDLE, (_YOLO_OUTPUT, r"neck\.yolo_block\.0\.conv_module\.conv0\.conv\.weight"),
        f"{_NECKS}yolo_fpn.py",
    ),
    KnownDetector(
        "PP-YOLO", PADDLE, (_YOLO_OUTPUT, r"neck\.yolo_block\.0\."), f"{_NECKS}yolo_fpn.py",
    ),
    KnownDetector(
        "YOLOX", PADDLE, (r"head\.stem_conv\.0\.", r"head\.conv_reg\.0\."),
        f"{_HEADS}yolox_head.py",
    ),
    KnownDetector(
        "PicoDet", PADDLE, (r"head\.conv_feat\.cls_conv_dw\d", r"head\.head_cls_list\.\d"),
        f"{_HEADS}pico_head.py",
    ),
    KnownDetector(
        "Mask RT-DETR", PADDLE, (_RTDETR_NECK, r"transformer\.mask_query_head\."),
        "ppdet/modeling/transformers/mask_rtdetr_transformer.py", "boxes and masks",
    ),
    KnownDetector(
        "RT-DETRv2", "PaddleDetection or PyTorch",
        (_RTDETR_NECK, r"decoder\.layers\.0\.cross_attn\.num_points_scale"),
        "ppdet/modeling/transformers/rtdetr_transformerv2.py",
    ),
    KnownDetector(
        "RT-DETR", "PaddleDetection or PyTorch", (_RTDETR_NECK, r"enc_score_head\."),
        "ppdet/modeling/transformers/hybrid_encoder.py; github.com/lyuwenyu/RT-DETR",
    ),
    KnownDetector(
        "DINO", PADDLE,
        (r"transformer\.denoising_class_embed\.", r"transformer\.dec_score_head\.0\."),
        "ppdet/modeling/transformers/dino_transformer.py",
    ),
    KnownDetector(
        "Deformable DETR", PADDLE, (r"transformer\.level_embed\.", r"detr_head\.score_head\."),
        "ppdet/modeling/transformers/deformable_transformer.py",
    ),
    KnownDetector(
        "DETR", PADDLE, (r"transformer\.query_pos_embed\.", r"detr_head\.score_head\."),
        "ppdet/modeling/transformers/detr_transformer.py",
    ),
    KnownDetector(
        "FCOSR", PADDLE, (r"yolo_head\.pred_xy\.", r"yolo_head\.pred_angle\."),
        f"{_HEADS}fcosr_head.py", "rotated boxes",
    ),
    KnownDetector(
        "S2ANet", PADDLE, (r"s2anet_head\.fam_cls", r"s2anet_head\.odm_cls"),
        f"{_HEADS}s2anet_head.py", "rotated boxes",
    ),
    KnownDetector(
        "FCOS", PADDLE, (r"fcos_head\.fcos_head_cls\.", r"fcos_head\.fcos_head_centerness\."),
        f"{_HEADS}fcos_head.py",
    ),
    KnownDetector(
        "GFLv2", PADDLE, (r"head\.gfl_head_cls\.", r"head\.dgqp_module\."), f"{_HEADS}gfl_head.py",
    ),
    KnownDetector(
        "GFL", PADDLE, (r"head\.gfl_head_cls\.", r"head\.gfl_head_reg\."), f"{_HEADS}gfl_head.py",
    ),
    KnownDetector(
        "TOOD", "PaddleDetection or mmdetection", (r"tood_cls\.", r"cls_decomp\."),
        f"{_HEADS}tood_head.py",
    ),
    KnownDetector(
        "RetinaNet", PADDLE, (r"head\.retina_cls\.", _FPN), f"{_HEADS}retina_head.py",
    ),
    KnownDetector(
        "YOLOF", PADDLE, (r"neck\.dilated_encoder_blocks\.0\.", r"head\.object_pred\."),
        f"{_HEADS}yolof_head.py",
    ),
    KnownDetector(
        "CenterNet", PADDLE, (r"neck\.(?:dla|ida)_up\.", r"head\.heatmap\.\d"),
        f"{_HEADS}centernet_head.py",
    ),
    KnownDetector(
        "TTFNet", PADDLE, (r"ttf_head\.hm_head\.", r"ttf_head\.wh_head\."), f"{_HEADS}ttf_head.py",
    ),
    KnownDetector(
        "SOLOv2", PADDLE, (r"solov2_head\.", r"mask_head\."), f"{_HEADS}solov2_head.py",
        "masks without boxes",
    ),
    KnownDetector(
        "Sparse R-CNN", PADDLE, (r"head\.head_series\.0\.", r"head\.init_proposal_boxes\."),
        f"{_HEADS}sparsercnn_head.py",
    ),
    KnownDetector(
        "SSD", PADDLE, (r"ssd_head\.boxes0\.", r"ssd_head\.scores0\."), f"{_HEADS}ssd_head.py",
    ),
    KnownDetector(
        "Mask R-CNN", PADDLE, (r"rpn_head\.rpn_rois_score\.", r"mask_head\.mask_fcn_logits\."),
        f"{_HEADS}mask_head.py", "boxes and masks",
    ),
    KnownDetector(
        "Cascade R-CNN", PADDLE, (r"rpn_head\.rpn_rois_score\.", r"bbox_head\.bbox_score_stage0\."),
        f"{_HEADS}cascade_head.py",
    ),
    KnownDetector(
        "Faster R-CNN", PADDLE, (r"rpn_head\.rpn_rois_score\.", r"bbox_head\.bbox_score\."),
        f"{_HEADS}bbox_head.py",
    ),
    KnownDetector(
        "YOLOX", _MEGVII, (r"backbone\.dark2\.0\.", r"head\.obj_preds\.0\."),
        "github.com/Megvii-BaseDetection/YOLOX, yolox/models",
    ),
    KnownDetector(
        "YOLOv6", "YOLOv6 of Meituan", (r"backbone\.ERBlock_2\.0\.", r"detect\.cls_preds\.0\."),
        "github.com/meituan/YOLOv6, yolov6/models",
    ),
    KnownDetector(
        "DAMO-YOLO", "DAMO-YOLO of Alibaba", (r"neck\.merge_3\.", r"head\.gfl_cls\.0\."),
        "github.com/tinyvision/DAMO-YOLO, damo/base_models",
    ),
    KnownDetector(
        "YOLOv7", "yolov7 of Wong Kin-Yiu", (r"\.m\.0\.weight", r"\.ia\.0\.implicit"),
        "github.com/WongKinYiu/yolov7, models/yolo.py",
    ),
    KnownDetector(
        "YOLOv9", "yolov9, or Ultralytics", (r"\.dfl2?\.conv\.", r"\.cv2\.0\.cv1\."),
        "github.com/WongKinYiu/yolov9, models/common.py",
    ),
    KnownDetector(
        "YOLOv10", "yolov10, or Ultralytics", (r"\.dfl\.conv\.", r"\.one2one_cv2\.0\."),
        "github.com/ultralytics/ultralytics, nn/modules/head.py",
    ),
    KnownDetector(
        "YOLO11 or a later one", _ULTRALYTICS,
        (r"\.dfl\.conv\.", r"\.cv3\.0\.0\.0\.conv\."),
        "github.com/ultralytics/ultralytics, nn/modules/head.py",
    ),
    KnownDetector(
        "YOLOv8", _ULTRALYTICS, (r"\.dfl\.conv\.", r"\.cv3\.0\.0\.conv\."),
        "github.com/ultralytics/ultralytics, nn/modules/head.py",
    ),
    KnownDetector(
        "YOLOv5", _ULTRALYTICS,
        (r"\.anchors(?=\n|\Z)", r"\.m\.0\.weight", r"\.cv3\.conv\."),
        "github.com/ultralytics/yolov5, models/yolo.py",
    ),
    KnownDetector(
        "RTMDet", _MMDET, (r"rtm_cls\.", r"rtm_reg\."),
        "github.com/open-mmlab/mmdetection, mmdet/models/dense_heads/rtmdet_head.py",
    ),
    KnownDetector(
        "FCOS", _MMDET, (r"bbox_head\.conv_centerness\.", r"bbox_head\.conv_cls\."),
        "github.com/open-mmlab/mmdetection, mmdet/models/dense_heads/fcos_head.py",
    ),
    KnownDetector(
        "GFL", _MMDET, (r"bbox_head\.gfl_cls\.", r"bbox_head\.gfl_reg\."),
        "github.com/open-mmlab/mmdetection, mmdet/models/dense_heads/gfl_head.py",
    ),
    KnownDetector(
        "Faster R-CNN", _MMDET, (r"rpn_head\.rpn_cls\.", r"roi_head\.bbox_head\.fc_cls\."),
        "github.com/open-mmlab/mmdetection, mmdet/models",
    ),
    KnownDetector(
        "Faster R-CNN", _TORCHVISION,
        (r"rpn\.head\.cls_logits\.", r"roi_heads\.box_predictor\.cls_score\."),
        "github.com/pytorch/vision, torchvision/models/detection",
    ),
    KnownDetector(
        "SSD", _TORCHVISION,
        (r"classification_head\.module_list\.0\.", r"regression_head\.module_list\.0\."),
        "github.com/pytorch/vision, torchvision/models/detection/ssd.py",
    ),
)  # fmt: skip
