"""Boxes and scores of a few images, with many overlaps."""

from __future__ import annotations

import numpy as np

from reparam.detection.records import Selection

SELECTION = Selection(score_threshold=0.25, iou_threshold=0.5, top_k=30)


def crowded(seed: int, images: int = 3, anchors: int = 60, classes: int = 3):
    """Return float32 boxes (N, A, 4) and scores (N, C, A); the second image shows nothing."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform(40, 120, (images, anchors, 2))
    half = rng.uniform(10, 30, (images, anchors, 2))
    boxes = np.concatenate([middle - half, middle + half], axis=-1).astype(np.float32)
    scores = rng.uniform(0.0, 1.0, (images, classes, anchors)).astype(np.float32)
    if images > 1:
        scores[1] = 0.1
    return boxes, scores
