"""Hold the head model to what paddledet made of the same maps; README.md says how."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reparam.adapters.head_model import OWN, PADDLEDETECTION, HeadPlan, build_head
from reparam.adapters.onnx_checks import load_strictly
from reparam.conv.bounds import gamma
from reparam.detection.decoding import decode, rounding_bounds
from reparam.detection.records import DECODED, NMS, Maps, Selection

SETTINGS = ["all", "best", "candidates", "none"]


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "ppyoloe_head.npz") as stored:
        return {key: stored[key] for key in stored.files}


def about() -> dict[str, Any]:
    return json.loads(str(golden()["about"]))


def maps() -> Maps:
    told = about()
    return Maps(tuple(told["strides"]), told["classes"], tuple(map(float, range(told["bins"]))))


def arrays(images: int = 3) -> list[np.ndarray]:
    return [golden()[f"map/{index}"][:images] for index in range(6)]


def sizes(fixed: bool) -> tuple[tuple[int, int], ...] | None:
    return tuple(array.shape[2:] for array in arrays()[::2]) if fixed else None


def selection(name: str) -> Selection:
    told = about()["settings"][name]
    return Selection(
        told["score_threshold"], told["nms_threshold"], told["keep_top_k"], told["nms_top_k"]
    )


def run(plan: HeadPlan, images: int) -> list[np.ndarray]:
    session = load_strictly(build_head(plan).SerializeToString())
    feeds = dict(zip(maps().names, arrays(images), strict=True))
    if plan.layout == PADDLEDETECTION:
        feeds["scale_factor"] = golden()["scale_factor"][:images]
    return session.run(None, feeds)


def test_the_reference_decodes_as_the_peer_does() -> None:
    boxes, scores = decode(maps(), arrays())
    box_bound, score_bound = rounding_bounds(maps(), arrays())
    assert (np.abs(boxes - golden()["boxes"]) <= box_bound).all()
    assert np.abs(scores - golden()["scores"]).max() <= score_bound


@pytest.mark.parametrize("fixed", [True, False])
def test_the_model_decodes_as_the_peer_does(fixed: bool) -> None:
    boxes, scores = run(HeadPlan(maps(), DECODED, sizes=sizes(fixed)), 3)
    box_bound, score_bound = rounding_bounds(maps(), arrays())
    assert (np.abs(boxes - golden()["boxes"]) <= 2 * box_bound).all()  # both round
    assert np.abs(scores - golden()["scores"]).max() <= 2 * score_bound


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("fixed", [True, False])
def test_the_rows_are_the_peers_in_its_order(name: str, images: int, fixed: bool) -> None:
    batch = images if fixed else None
    plan = HeadPlan(maps(), NMS, selection(name), PADDLEDETECTION, sizes(fixed), batch)
    rows, count = run(plan, images)
    expected = golden()[f"rows/{name}/{images}"].reshape(-1, 6)
    assert count.dtype == np.int32
    np.testing.assert_array_equal(count, golden()[f"count/{name}/{images}"])
    assert (len(expected) == 0) == (name == "none")
    assert rows.shape == expected.shape
    np.testing.assert_array_equal(rows[:, 0], expected[:, 0])
    box_bound, score_bound = rounding_bounds(maps(), arrays())
    scale = golden()["scale_factor"].min()
    box = 2 * box_bound.max() / scale + gamma(2, "float32") * np.abs(expected[:, 2:])
    assert (np.abs(rows[:, 1] - expected[:, 1]) <= 2 * score_bound).all()
    assert (np.abs(rows[:, 2:] - expected[:, 2:]) <= box).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_our_layout_holds_the_same_detections(name: str) -> None:
    boxes, scores, classes, count = run(HeadPlan(maps(), NMS, selection(name), OWN), 3)
    expected = golden()[f"rows/{name}/3"].reshape(-1, 6)
    np.testing.assert_array_equal(count, golden()[f"count/{name}/3"])
    at = 0
    box_bound, score_bound = rounding_bounds(maps(), arrays())
    for image, rows in enumerate(count):
        part = expected[at : at + rows]
        at += rows
        scale = golden()["scale_factor"][image]
        part = part[np.argsort(-part[:, 1], kind="stable")]
        np.testing.assert_array_equal(classes[image, :rows], part[:, 0])
        assert (np.abs(scores[image, :rows] - part[:, 1]) <= 2 * score_bound).all()
        corners = part[:, 2:] * scale[[1, 0, 1, 0]]
        bound = 2 * box_bound.max() + gamma(3, "float32") * np.abs(corners)
        assert (np.abs(boxes[image, :rows] - corners) <= bound).all()
