"""Detectors outside the zoo are told by the names that their own projects give."""

from __future__ import annotations

import json
import lzma
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import reparam
from reparam.adapters.checkpoint_layers import architecture_of
from reparam.architectures import recognise
from reparam.checkpoint.detectors import DETECTORS, detector_of
from reparam.checkpoint.fusing import fuse_arrays
from reparam.errors import UnsupportedModelError
from tests.models.structures import LAYOUTS, SMALL

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = json.loads(lzma.decompress((GOLDEN / "detector_names" / "shapes.json.xz").read_bytes()))
PADDLE = {
    "cascade_rcnn/cascade_rcnn_r50_fpn_1x_coco": "Cascade R-CNN",
    "centernet/centernet_r50_140e_coco": "CenterNet",
    "convnext/ppyoloe_convnext_tiny_36e_coco": "PP-YOLOE with ConvNeXt as its backbone",
    "deformable_detr/deformable_detr_r50_1x_coco": "Deformable DETR",
    "detr/detr_r50_1x_coco": "DETR",
    "dino/dino_r50_4scale_1x_coco": "DINO",
    "faster_rcnn/faster_rcnn_r50_1x_coco": "Faster R-CNN",
    "faster_rcnn/faster_rcnn_r50_fpn_1x_coco": "Faster R-CNN",
    "fcos/fcos_dcn_r50_fpn_1x_coco": "FCOS",
    "fcos/fcos_r50_fpn_1x_coco": "FCOS",
    "focalnet/ppyoloe_plus_focalnet_tiny_36e_coco": "PP-YOLOE with FocalNet as its backbone",
    "gfl/gfl_r50_fpn_1x_coco": "GFL",
    "gfl/gflv2_r50_fpn_1x_coco": "GFLv2",
    "mask_rcnn/mask_rcnn_r50_fpn_1x_coco": "Mask R-CNN",
    "mask_rtdetr/mask_rtdetr_hgnetv2_s_6x_coco": "Mask RT-DETR",
    "mot/fairmot/fairmot_dla34_30e_1088x608": "FairMOT",
    "mot/jde/jde_darknet53_30e_1088x608": "JDE",
    "picodet/picodet_l_640_coco_lcnet": "PicoDet",
    "picodet/picodet_xs_320_coco_lcnet": "PicoDet",
    "ppyolo/ppyolo_mbv3_small_coco": "PP-YOLO",
    "ppyolo/ppyolo_r18vd_coco": "PP-YOLO",
    "ppyolo/ppyolo_r50vd_dcn_1x_coco": "PP-YOLO",
    "ppyolo/ppyolo_tiny_650e_coco": "PP-YOLO",
    "ppyolo/ppyolov2_r50vd_dcn_365e_coco": "PP-YOLOv2",
    "ppyoloe/ppyoloe_crn_s_300e_coco": None,
    "ppyoloe/ppyoloe_plus_crn_s_80e_coco": None,
    "ppyoloe/ppyoloe_plus_crn_t_auxhead_300e_coco": None,
    "ppyoloe/ppyoloe_plus_crn_t_auxhead_relu_320_300e_coco": None,
    "ppyoloe_seg/ppyoloe_seg_l_80e_coco": "PP-YOLOE-seg",
    "ppyoloe_seg/ppyoloe_seg_s_80e_coco": "PP-YOLOE-seg",
    "retinanet/retinanet_r50_fpn_1x_coco": "RetinaNet",
    "rotate/fcosr/fcosr_x50_3x_dota": "FCOSR",
    "rotate/ppyoloe_r/ppyoloe_r_crn_s_3x_dota": "PP-YOLOE-R",
    "rotate/s2anet/s2anet_conv_2x_dota": "S2ANet",
    "rtdetr/rtdetr_hgnetv2_l_6x_coco": "RT-DETR",
    "rtdetr/rtdetr_r18vd_6x_coco": "RT-DETR",
    "rtdetr/rtdetr_r50vd_6x_coco": "RT-DETR",
    "rtdetrv2/rtdetrv2_r18vd_120e_coco": "RT-DETRv2",
    "rtdetrv2/rtdetrv2_r50vd_6x_coco": "RT-DETRv2",
    "smalldet/ppyoloe_p2_crn_l_80e_sliced_DOTA_500_025": None,
    "smalldet/ppyoloe_plus_sod_crn_l_80e_coco": "PP-YOLOE-SOD",
    "smalldet/visdrone/ppyoloe_crn_s_p2_alpha_80e_visdrone": None,
    "solov2/solov2_r50_fpn_1x_coco": "SOLOv2",
    "sparse_rcnn/sparse_rcnn_r50_fpn_3x_pro100_coco": "Sparse R-CNN",
    "ssd/ssd_mobilenet_v1_300_120e_voc": "SSD",
    "ssd/ssd_vgg16_300_240e_voc": "SSD",
    "ssd/ssdlite_mobilenet_v1_300_coco": "SSD",
    "swin/ppyoloe_plus_swin_tiny_36e_coco": "PP-YOLOE with Swin Transformer as its backbone",
    "tood/tood_r50_fpn_1x_coco": "TOOD",
    "ttfnet/ttfnet_darknet53_1x_coco": "TTFNet",
    "vitdet/ppyoloe_vit_base_csppan_cae_36e_coco": "PP-YOLOE with ViT as its backbone",
    "yolof/yolof_r50_c5_1x_coco": "YOLOF",
    "yolov3/yolov3_darknet53_270e_coco": "YOLOv3",
    "yolov3/yolov3_mobilenet_v1_270e_coco": "YOLOv3",
    "yolov3/yolov3_r34_270e_coco": "YOLOv3",
    "yolox/yolox_crn_s_300e_coco": "YOLOX",
    "yolox/yolox_nano_300e_coco": "YOLOX",
    "yolox/yolox_s_300e_coco": "YOLOX",
}
# A few names each, as the attributes of the projects' modules give them.
TORCH = {
    "YOLOX": "backbone.backbone.dark2.0.conv.weight backbone.C3_p4.conv1.conv.weight "
    "head.cls_preds.0.weight head.reg_preds.0.weight head.obj_preds.0.weight",
    "YOLOv6": "backbone.stem.rbr_dense.conv.weight backbone.ERBlock_2.0.rbr_1x1.conv.weight "
    "neck.Rep_p4.conv1.rbr_dense.conv.weight detect.stems.0.conv.weight detect.cls_preds.0.weight",
    "DAMO-YOLO": "backbone.block_list.0.conv.conv.weight neck.bu_conv13.conv.weight "
    "neck.merge_3.conv1.conv.weight head.gfl_cls.0.weight head.gfl_reg.0.weight",
    "YOLOv7": "model.0.conv.weight model.51.cv3.conv.weight model.105.anchors model.105.m.0.weight "
    "model.105.ia.0.implicit model.105.im.0.implicit",
    "YOLOv9": "model.2.cv2.0.cv1.conv.weight model.2.cv2.0.m.0.cv1.conv1.conv.weight "
    "model.22.cv2.0.0.conv.weight model.22.cv3.0.0.conv.weight model.22.dfl.conv.weight",
    "YOLOv10": "model.2.m.0.cv1.conv.weight model.23.cv2.0.0.conv.weight "
    "model.23.cv3.0.0.0.conv.weight model.23.one2one_cv2.0.0.conv.weight model.23.dfl.conv.weight",
    "YOLO11 or a later one": "model.2.m.0.cv1.conv.weight model.23.cv2.0.0.conv.weight "
    "model.23.cv3.0.0.0.conv.weight model.23.dfl.conv.weight",
    "YOLOv8": "model.2.m.0.cv1.conv.weight model.22.cv2.0.0.conv.weight "
    "model.22.cv3.0.0.conv.weight model.22.cv3.0.2.weight model.22.dfl.conv.weight",
    "YOLOv5": "model.0.conv.weight model.2.cv3.conv.weight model.24.anchors model.24.m.0.weight",
    "RTMDet": "backbone.stem.0.conv.weight neck.reduce_layers.0.conv.weight "
    "bbox_head.rtm_cls.0.weight bbox_head.rtm_reg.0.weight",
    "RT-DETR": "backbone.conv1.conv1_1.conv.weight encoder.input_proj.0.0.weight "
    "encoder.fpn_blocks.0.bottlenecks.0.conv1.norm.running_mean decoder.enc_score_head.weight",
    "TOOD": "backbone.conv1.weight bbox_head.inter_convs.0.conv.weight bbox_head.tood_cls.weight "
    "bbox_head.cls_decomp.reduction_conv.conv.weight",
    "FCOS": "neck.lateral_convs.0.conv.weight bbox_head.conv_cls.weight "
    "bbox_head.conv_reg.weight bbox_head.conv_centerness.weight",
    "GFL": "neck.lateral_convs.0.conv.weight bbox_head.gfl_cls.weight bbox_head.gfl_reg.weight",
    "Faster R-CNN": "rpn_head.rpn_cls.weight rpn_head.rpn_reg.weight "
    "roi_head.bbox_head.fc_cls.weight",
    "Faster R-CNN of torchvision": "rpn.head.cls_logits.weight "
    "roi_heads.box_predictor.cls_score.weight roi_heads.box_predictor.bbox_pred.weight",
    "SSD": "backbone.features.0.weight head.classification_head.module_list.0.weight "
    "head.regression_head.module_list.0.weight",
}
FUSED = {  # blocks, BatchNorms that are folded besides, BatchNorms that stay
    "rtdetr/rtdetr_r18vd_6x_coco": (12, 16, 29),
    "rtdetr/rtdetr_hgnetv2_l_6x_coco": (12, 92, 6),
    "rotate/ppyoloe_r/ppyoloe_r_crn_s_3x_dota": (11, 59, 0),
    "ppyoloe_seg/ppyoloe_seg_s_80e_coco": (11, 62, 0),
    "smalldet/ppyoloe_plus_sod_crn_l_80e_coco": (33, 78, 0),
    "yolox/yolox_s_300e_coco": (0, 74, 0),
}


def told(keys):
    found = detector_of(keys)
    return None if found is None else found.name


def small(name):
    """Return random weights under the names of a detector, of a sixteenth of the channels."""
    rng = np.random.default_rng(len(name))
    arrays = {}
    for key, shape in SHAPES[name].items():
        narrow = [max(n // 16, 1) if n >= 16 else n for n in shape[:2]] + shape[2:]
        spread = (0.2, 3) if key.endswith("_variance") else (-1, 1)
        arrays[key] = rng.uniform(*spread, size=narrow).astype(np.float32)
    return arrays


def test_every_recorded_detector_has_an_answer():
    assert set(PADDLE) == set(SHAPES)


@pytest.mark.parametrize("name", PADDLE)
def test_paddledetection(name):
    assert told(SHAPES[name]) == PADDLE[name]
    assert told(f"module.{key}" for key in SHAPES[name]) == PADDLE[name]
    if PADDLE[name]:
        assert recognise({key: tuple(shape) for key, shape in SHAPES[name].items()}) is None


@pytest.mark.parametrize("name", TORCH)
def test_pytorch(name):
    keys = TORCH[name].split()
    assert told(keys) == name.split(" of ")[0]
    assert told(key.removeprefix("model.") for key in keys) == name.split(" of ")[0]


def test_every_entry_is_tested():
    lists = chain(SHAPES.values(), (text.split() for text in TORCH.values()))
    assert {detector_of(keys) for keys in lists} - {None} == set(DETECTORS)


@pytest.mark.parametrize("known", DETECTORS, ids=lambda known: f"{known.name} {known.project}")
def test_each_piece_of_evidence_is_needed(known):
    """Without the keys that one pattern is after, it is not that detector any more."""
    lists = (keys for keys in (*SHAPES.values(), *(t.split() for t in TORCH.values())))
    keys = next(list(keys) for keys in lists if detector_of(keys) == known)
    assert [bool(re.search(p, k)) for p, k in zip(known.evidence, known.told_by(keys), strict=True)]
    for pattern in known.evidence:
        assert detector_of([key for key in keys if not re.search(pattern, key)]) != known


def test_a_part_of_a_name_is_no_evidence():
    keys = TORCH["YOLOv6"].split()
    assert told(key.replace("detect.", "redetect.") for key in keys) is None


class TestTheZoo:
    @pytest.mark.parametrize("name", SMALL)
    @pytest.mark.parametrize("prefix", ["", "backbone.", "model."])
    def test_networks(self, name, prefix):
        layout = LAYOUTS[type(SMALL[name])].layout(SMALL[name])
        for deploy in (False, True):
            assert told(prefix + key for key in layout.shapes(deploy=deploy)) is None

    @pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.npz")), ids=lambda path: path.stem)
    def test_recorded_blocks_and_networks(self, path):
        with np.load(path) as recorded:
            keys = [name.split("/", 1)[-1] for name in recorded.files]
        assert told(keys) == ("YOLOv7" if path.stem == "yolov7_implicit" else None)  # its head

    @pytest.mark.parametrize("name", sorted(n for n, answer in PADDLE.items() if answer is None))
    def test_a_ppyoloe_of_which_much_is_missing(self, name):
        for part in ("backbone.", "neck.", "yolo_head.", "aux"):
            assert told(key for key in SHAPES[name] if not key.startswith(part)) is None


class TestFusing:
    @pytest.mark.parametrize("name", FUSED)
    def test_blocks_and_pairs(self, name):
        fused, report = fuse_arrays(small(name), fold_bn=True)
        left = sum(key.endswith("._mean") for key in fused)
        assert (len(report.fused), len(report.folded), left) == FUSED[name]
        assert report.architecture is None
        assert any(f"the detector {PADDLE[name]} (Paddle" in notice for notice in report.notices)
        assert told(fused) == PADDLE[name]  # the deploy form is told as well

    @pytest.mark.parametrize("name", [n for n in FUSED if FUSED[n][0]][:4])
    def test_the_result_is_verified(self, name, tmp_path):
        before, after = tmp_path / "x.pdparams", tmp_path / "x.deploy.pdparams"
        reparam.save_checkpoint(before, small(name))
        reparam.fuse(before, after)
        assert reparam.verify(before, after).verdict == "equivalent"

    @pytest.mark.parametrize("name", sorted(n for n, answer in PADDLE.items() if answer))
    def test_export_says_what_it_is_and_the_way_out(self, name):
        arrays = {key: np.empty(shape) for key, shape in list(SHAPES[name].items())}
        with pytest.raises(UnsupportedModelError) as caught:
            architecture_of(arrays)
        error = caught.value
        assert error.what.startswith(f"the checkpoint is of the detector {PADDLE[name]} (")
        assert "not in the zoo" in error.what
        assert f"{len(arrays)} arrays, '" in error.found
        assert "--model package.module:factory" in error.hint
        assert "reparam fuse model.onnx" in error.hint
        if name in FUSED:
            assert f"fuses the {FUSED[name][0]} blocks" in error.hint or not FUSED[name][0]
