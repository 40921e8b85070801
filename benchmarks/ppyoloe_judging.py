"""How far a detector's file is from paddledet's own model, for benchmarks.ppyoloe_peers."""

from __future__ import annotations

from dataclasses import dataclass
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
UNMATCHED = 0.02
SELECTION = Selection(score_threshold=0.01, iou_threshold=0.7, top_k=300)

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
    def floor(self) -> float:
        """What rounding does to the network: its worst output, relative to the output's scale."""
        worst = FLOOR * ROUNDING
        for key, truth in self.arrays.items():
            batch, _, name = key.partition("/truth/")
            if not name:
                continue
            scale = float(np.abs(truth).max())
            single = float(np.abs(self.arrays[f"{batch}/float32/{name}"] - truth).max())
            nudged = float(self.arrays[f"nudged/{name}"]) if batch == "0" else 0.0
            worst = max(worst, single / scale, nudged / scale)
        return worst

    def off(self, batch: str, name: str, found: np.ndarray) -> float:
        """Return how many times what is allowed an output is from the truth."""
        truth = self.arrays[f"{batch}/truth/{name}"]
        if found.shape != truth.shape:
            return float("inf")
        distance = np.abs(found.astype(np.float64) - truth).max() / np.abs(truth).max()
        return float(distance) / (SAME_SIZE * self.floor)


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
        "floor": original.floor,
    }


def judge_rows(
    original: Original, found: list[Arrays], decoded: list[Arrays], scaled: bool
) -> dict[str, Any]:
    """Return whether detections are the right ones, and those of the peer.

    Args:
        decoded: boxes and scores that the same network gives; none if they were not computed, and
            then there is nothing to certify by.
        scaled: rows are those of PaddleDetection's layout, in pixels of the original image.
    """
    rows = matched = 0
    said: list[str] = []
    for i, (batch, outputs) in enumerate(zip(original.batches, found, strict=True)):
        ours = _of_rows(outputs) if scaled else _of_padded(outputs)
        peers = _peer_rows(original, batch, "scaled" if scaled else "plain")
        if [len(image) for image in ours] != [len(image) for image in peers]:
            said.append(f"batch {batch}: {[*map(len, ours)]} detections, not {[*map(len, peers)]}")
        tolerance = SAME_SIZE * original.floor * _scales(original, batch, scaled)
        for own, other in zip(ours, peers, strict=True):
            rows += len(other)
            matched += _matched(own, other, tolerance)
        if decoded and not scaled:
            detections = Detections(**outputs)
            wrong = certify(decoded[i]["boxes"], decoded[i]["scores"], SELECTION, detections)
            said += [f"batch {batch}: {wrong}"] if wrong else []
    return {
        "right": rows > 0 and rows - matched <= UNMATCHED * rows and not said,
        "rows": rows,
        "matched": matched,
        "certified": bool(decoded) and not scaled and not said,
        **({"failed": "; ".join(said)} if said else {}),
    }


def _scales(original: Original, batch: str, scaled: bool) -> np.ndarray:
    """Return the scale of each column of a row: class, score, four sides."""
    boxes = float(np.abs(original.arrays[f"{batch}/truth/boxes"]).max())
    shrunk = float(original.arrays[f"{batch}/scale_factor"].min()) if scaled else 1.0
    return np.array([0.0, 1.0, *[boxes / shrunk] * 4])


def _of_padded(outputs: Arrays) -> list[np.ndarray]:
    """Return rows (class, score, x1, y1, x2, y2) of each image."""
    joined = np.concatenate(
        [outputs["classes"][..., None], outputs["scores"][..., None], outputs["boxes"]], axis=-1
    )
    return [rows[:count] for rows, count in zip(joined, outputs["count"], strict=True)]


def _of_rows(outputs: Arrays) -> list[np.ndarray]:
    rows, count = outputs.values()
    return np.split(rows, np.cumsum(count)[:-1])


def _peer_rows(original: Original, batch: str, what: str) -> list[np.ndarray]:
    rows, count = (original.arrays[f"{batch}/{what}_{part}"] for part in ("rows", "count"))
    return np.split(rows, np.cumsum(count)[:-1])


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
