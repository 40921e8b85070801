"""What has to be known to read the maps of a detector, and to feed it, as values."""

from __future__ import annotations

from dataclasses import dataclass

RAW, DECODED, NMS = "raw", "decoded", "nms"
HEADS = (RAW, DECODED, NMS)
"""The forms in which a detector's answer can leave a file."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Maps:
    """The maps of a detector that predicts the distances to the sides of a box as distributions.

    For each stride, in this order, there are two maps: class logits (N, classes, H, W), and
    logits of distances (N, 4 * bins, H, W), channels in the order left, top, right, bottom, each
    with its bins. A distance in strides is the mean of ``projection`` under the softmax over the
    bins; the centre of a cell is (column + 0.5, row + 0.5) strides.

    Attributes:
        strides: in pixels of the image, one for each pair of maps.
        classes: number of classes.
        projection: (bins,), the distance that each bin stands for, in strides.

    Source: Li et al. 2020, Generalized Focal Loss (arXiv 2006.04388), section 3.1; Xu et al. 2022,
    PP-YOLOE (arXiv 2203.16250), section 2.2.
    """

    strides: tuple[int, ...]
    classes: int
    projection: tuple[float, ...]

    @property
    def bins(self) -> int:
        return len(self.projection)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps, in order."""
        return tuple(f"{kind}_{stride}" for stride in self.strides for kind in ("cls", "reg"))


@dataclass(frozen=True)
class Selection:
    """How boxes become detections, class by class (non-maximum suppression).

    Attributes:
        score_threshold: a box takes part if its score is above.
        iou_threshold: a box goes if its overlap with a better one of its class is above.
        top_k: detections of one image that are kept, best first.
        candidates: boxes of one class and image that take part, best first; None is all.
    """

    score_threshold: float = 0.01
    iou_threshold: float = 0.7
    top_k: int = 300
    candidates: int | None = None


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before a detector sees it: resize, scale, normalise, N C H W.

        x = (pixels / 255 - mean) / std, RGB; without 1 / 255 where ``scale`` is False

    Attributes:
        mean: of each channel.
        std: of each channel.
        scale: pixels are divided by 255 first.
        keep_ratio: of the resize; False stretches the image to the size of the input.
        interpolation: OpenCV's number of it; 2 is cubic, 1 linear.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: bool = True
    keep_ratio: bool = False
    interpolation: int = 2
