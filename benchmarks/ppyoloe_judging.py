"""How far a detector's file is from paddledet's own model, for benchmarks.ppyoloe_peers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reparam.detection import Selection
from reparam.detection.certifying import certify
from reparam.detection.selecting import Detections

SAME_SIZE = 4
ROUNDING = 2.0**-24
FLOOR = 4  # roundings of the output's scale: less than that is luck
UNMATCHED = 0.05
OURS = Selection(score_threshold=0.01, iou_threshold=0.7, top_k=300)
PEERS = replace(OURS, candidates=1000)  # of a class, which its nms_top_k says

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Original:
    """A checkpoint, and what ``benchmarks.ppyoloe_original`` recorded of it."""

    checkpoint: Path
    arrays: Arrays

    @cached_property
    def batches(self) -> list[str]:
        return sorted({key.partition("/")[0] for key in self.arrays if key[0].isdigit()})

    @property
    def images(self) -> list[np.ndarray]:
        return [self.arrays[f"{batch}/image"] for batch in self.batches]

    @property
    def factors(self) -> list[np.ndarray]:
        return [self.arrays[f"{batch}/scale_factor"] for batch in self.batches]

    @cached_property
    def floors(self) -> dict[str, float]:
        """What rounding does to maps, boxes and scores: the worst, relative to the scale."""
        worst = dict.fromkeys(("maps", "boxes", "scores"), FLOOR * ROUNDING)
        for key, truth in self.arrays.items():
            batch, _, name = key.partition("/truth/")
            if not name:
                continue
            single = float(np.abs(self.arrays[f"{batch}/float32/{name}"] - truth).max())
            nudged = float(self.arrays[f"nudged/{name}"]) if batch == "0" else 0.0
            off = max(single, nudged) / float(np.abs(truth).max())
            worst[kind_of(name)] = max(worst[kind_of(name)], off)
        return worst

    def allowed(self, batch: str, name: str) -> float:
        """Return how far an output may be from the truth."""
        scale = float(np.abs(self.arrays[f"{batch}/truth/{name}"]).max())
        return SAME_SIZE * self.floors[kind_of(name)] * scale

    def off(self, batch: str, name: str, found: np.ndarray) -> float:
        """Return how many times what is allowed an output is from the truth."""
        truth = self.arrays[f"{batch}/truth/{name}"]
        if found.shape != truth.shape:
            return float("inf")
        distance = np.abs(found.astype(np.float64) - truth).max()
        return float(distance) / self.allowed(batch, name)


def kind_of(name: str) -> str:
    return name if name in ("boxes", "scores") else "maps"


def judge_maps(original: Original, found: list[Arrays], strides: tuple[int, ...]) -> Any:
    """Return whether maps named cls_32, reg_32, ... are the peer's."""
    names = {f"{kind}_{stride}": f"{kind}{level}" for level, stride in enumerate(strides)
             for kind in ("cls", "reg")}  # fmt: skip
    return _within(original, found, names)


def judge_decoded(original: Original, found: list[Arrays]) -> Any:
    """Return whether boxes and scores are the peer's."""
    return _within(original, found, {"boxes": "boxes", "scores": "scores"})


def _within(original: Original, found: list[Arrays], names: dict[str, str]) -> dict[str, Any]:
    worst: dict[str, float] = {}
    for batch, outputs in zip(original.batches, found, strict=True):
        if set(outputs) != set(names):
            return {"right": False, "failed": f"outputs are {', '.join(outputs)}"}
        for name, other in names.items():
            off = original.off(batch, other, outputs[name])
            worst[name] = max(worst.get(name, 0.0), off)
    most = max(worst.values())
    return {
        "right": most <= 1,
        "of_bound": round(most, 3),
        "outputs": {name: round(off, 3) for name, off in worst.items()},
        "floors": original.floors,
    }


def judge_rows(
    original: Original, found: list[Arrays], decoded: list[Arrays], scaled: bool
) -> dict[str, Any]:
    """Return whether detections are the right ones, and those of the peer.

    The peer's own rows are certified, too, by its boxes and scores: so both select alike.

    Args:
        decoded: boxes and scores that the same network gives.
        scaled: rows are those of PaddleDetection's layout, in pixels of the original image.
    """
    rows = matched = 0
    said: list[str] = []
    for i, (batch, outputs) in enumerate(zip(original.batches, found, strict=True)):
        factors = original.arrays[f"{batch}/scale_factor"]
        factors = factors if scaled else np.ones_like(factors)
        ours = _of_rows(*outputs.values()) if scaled else _of_padded(outputs)
        peers = _peer_rows(original, batch, "scaled" if scaled else "plain")
        mine = [decoded[i][key] for key in ("boxes", "scores")]
        theirs = [original.arrays[f"{batch}/float32/{key}"] for key in ("boxes", "scores")]
        wrong = certified(ours, *mine, factors, PEERS if scaled else OURS)
        said += [f"batch {batch}: {wrong}"] if wrong else []
        wrong = certified(peers, *theirs, factors, PEERS)
        said += [f"batch {batch}, the peer: {wrong}"] if wrong else []
        boxes = original.allowed(batch, "boxes") / float(factors.min())
        tolerance = np.array([0.0, original.allowed(batch, "scores"), *[boxes] * 4])
        for own, other in zip(ours, peers, strict=True):
            rows += len(other)
            matched += _matched(own, other, tolerance)
    return {
        "right": rows > 0 and rows - matched <= UNMATCHED * rows and not said,
        "rows": rows,
        "matched": matched,
        **({"failed": "; ".join(said)} if said else {}),
    }


def certified(
    rows: list[np.ndarray],
    boxes: np.ndarray,
    scores: np.ndarray,
    factors: np.ndarray,
    selection: Selection,
) -> str | None:
    """Return what is wrong with rows (class, score, x1, y1, x2, y2) of each image, None if nothing.

    Args:
        boxes: (N, A, 4), what was selected from; rows hold them divided by ``factors``.
        scores: (N, C, A), likewise.
        factors: (N, 2): y, x.
    """
    top_k = selection.top_k
    found = Detections(
        boxes=np.zeros((len(rows), top_k, 4), boxes.dtype),
        scores=np.zeros((len(rows), top_k), scores.dtype),
        classes=np.full((len(rows), top_k), -1, np.int64),
        count=np.array([len(image) for image in rows]),
    )
    for i, image in enumerate(rows):
        if len(image) > top_k:
            return f"image {i}: {len(image)} detections; {top_k} at most are wanted"
        best = image[np.argsort(-image[:, 1], kind="stable")]
        found.scores[i, : len(best)], found.classes[i, : len(best)] = best[:, 1], best[:, 0]
        for row, (label, score, *sides) in enumerate(best):
            divided = boxes[i] / np.tile(factors[i, ::-1], 2)
            near = np.abs(divided - sides) <= 2 * ROUNDING * np.abs(divided)
            anchor = np.flatnonzero((scores[i, int(label)] == score) & near.all(axis=1))
            if not len(anchor):
                return f"image {i}: row {row} of class {label:g} is no box of this network"
            found.boxes[i, row] = boxes[i, anchor[0]]
    return certify(boxes, scores, selection, found)


def _of_padded(outputs: Arrays) -> list[np.ndarray]:
    """Return rows (class, score, x1, y1, x2, y2) of each image."""
    joined = np.concatenate(
        [outputs["classes"][..., None], outputs["scores"][..., None], outputs["boxes"]], axis=-1
    )
    return [rows[:count] for rows, count in zip(joined, outputs["count"], strict=True)]


def _of_rows(rows: np.ndarray, count: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, np.cumsum(count)[:-1])


def _peer_rows(original: Original, batch: str, what: str) -> list[np.ndarray]:
    return _of_rows(*(original.arrays[f"{batch}/{what}_{part}"] for part in ("rows", "count")))


def _matched(own: np.ndarray, other: np.ndarray, tolerance: np.ndarray) -> int:
    """Return how many rows of ``other`` have a row of their own in ``own``."""
    free = np.ones(len(own), dtype=bool)
    count = 0
    for row in other:
        near = free & (np.abs(own - row) <= tolerance).all(axis=1)
        if near.any():
            free[np.argmax(near)] = False
            count += 1
    return count
