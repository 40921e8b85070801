"""Implicit knowledge: a learned vector added before the last convolution of a head, one after it.

Source: Wang et al. 2021, YOLOR (arXiv 2105.04206), section 4; the heads of YOLOv7 and PaddleYOLO.

The vectors stay in the file, as zeros and ones, so that a head that keeps applying them is right.
"""

from __future__ import annotations

from reparam.checkpoint.families.family import NO_NORM, Family
from reparam.checkpoint.families.terms import ALWAYS, POINT, Chain, Kernel, Maybe, Scale


def _head(conv: str, before: str, after: str, **record: object) -> Family:
    """Return the record of ``conv``, numbered by ``{n}``, and the vectors around it."""
    parts = (
        Maybe(Scale(shift=before, neutral=True)),
        Kernel(conv, POINT, bias=ALWAYS),
        Maybe(Scale(factor=after, neutral=True)),
    )
    return Family(
        name="Implicit",
        term=Chain(*(parts if before else parts[1:]), label=conv),
        deploy=conv,
        epsilon=NO_NORM,
        part=conv,
        dense=True,
        **record,  # type: ignore[arg-type]
    )


_HEAD = ("ia", "im", "m", "m2", "m_kpt", "anchors", "anchor_grid", "w_bin_sigmoid", "h_bin_sigmoid")
_NAMES = ("yolo_output", "yolo_output_aux", "yolo_output_ia", "yolo_output_im")
_VECTORS = ("ia2", "ia3", "im2", "im3")
_U = (*_VECTORS, "cv2", "cv3", "dfl", "anchors", "strides", "stride")
_PADDLE_U = (*_VECTORS, "conv_reg", "conv_cls", "proj")

FAMILIES = (
    _head(
        "m.{n}",
        "ia.{n}.implicit",
        "im.{n}.implicit",
        anchors=("ia", "im"),
        stays=_HEAD,
        source="yolov7, models/yolo.py: IDetect, IAuxDetect, IKeypoint, IBin",
    ),
    _head(
        "yolo_output.{n}",
        "yolo_output_ia.{n}.ia",
        "yolo_output_im.{n}.im",
        anchors=("yolo_output_ia", "yolo_output_im"),
        stays=(*_NAMES, "anchors"),
        source="PaddleYOLO, ppdet/modeling/heads/yolov7_head.py: YOLOv7Head",
        remark="PaddleYOLO's head leaves its implicit vectors out of evaluation unless its fuse() "
        "was called; in the fused file they are part of the convolution",
    ),
    *(
        _head(
            f"cv{i}.{{n}}.2",
            "",
            f"im{i}.{{n}}.implicit",
            anchors=(f"im{i}",),
            stays=_U,
            source="yolov7, branch u6: IV6Detect",
        )
        for i in (2, 3)
    ),
    *(
        _head(
            f"{name}.{{n}}.2",
            "",
            f"im{i}.{{n}}.im",
            anchors=(f"im{i}",),
            stays=_PADDLE_U,
            source="PaddleYOLO, ppdet/modeling/heads/yolov7_head.py: YOLOv7uHead",
        )
        for i, name in ((2, "conv_reg"), (3, "conv_cls"))
    ),
)
