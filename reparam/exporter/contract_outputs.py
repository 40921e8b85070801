"""What the outputs of a detector's file mean, in words and numbers."""

from __future__ import annotations

from typing import Any

from reparam.adapters.head_model import OWN, PADDLEDETECTION
from reparam.detection import DECODED, NMS, RAW, Maps

_CORNERS = "x1 y1 x2 y2"


def meanings_of(maps: Maps, head: str | None, layout: str = OWN) -> list[str]:
    """Return what each output of a file is, in order; renaming outputs changes nothing here.

    Raises:
        ValueError: there is no such head.
    """
    if head == RAW:
        return [text for stride in maps.strides for text in _of_maps(maps, stride)]
    if head == DECODED:
        return ["(N, A, 4): a box for each cell", "(N, classes, A): scores from 0 to 1"]
    if head != NMS:
        raise ValueError(f"no head '{head}'")
    if layout == PADDLEDETECTION:
        return [
            "(M, 6): class, score, x1, y1, x2, y2 of all detections, image after image",
            "(N,): detections of each image",
        ]
    return [
        "(N, K, 4): boxes of the detections, best first; 0 behind the last",
        "(N, K): their scores from 0 to 1; 0 behind the last",
        "(N, K): their classes; -1 behind the last",
        "(N,): detections of each image",
    ]


def _of_maps(maps: Maps, stride: int) -> tuple[str, str]:
    cells = f"H/{stride}, W/{stride}"
    return (
        f"(N, classes, {cells}): class logits of each cell, before sigmoid",
        f"(N, 4 * {maps.bins}, {cells}): logits of the distances of each cell to the left, top, "
        "right and bottom of its box, one for each bin",
    )


def boxes_of(maps: Maps | None, head: str | None, layout: str = OWN) -> dict[str, Any] | None:
    """Return how a box is written, and what it takes to make one of the maps."""
    if maps is None:
        return None
    if head == RAW:
        return {
            "format": "distances left top right bottom",
            "unit": "strides",
            "bins": maps.bins,
            "projection": list(maps.projection),
            "distance": "the mean of projection under the softmax over the bins",
            "from": "the centre of the cell: (column + 0.5, row + 0.5) strides",
        }
    of = "original image" if layout == PADDLEDETECTION and head == NMS else "input"
    # A box of an object at the border may lie partly outside: neither form of the head clips it.
    return {"format": _CORNERS, "unit": f"pixels of the {of}", "clipped": False}
