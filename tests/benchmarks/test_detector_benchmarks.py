"""What the benchmarks of detectors say is right, is right: no time is taken here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.detector_speed import family, profiled_share, resident
from benchmarks.detector_weights import let_pass, maps_of, settle
from benchmarks.ppyoloe_judging import (
    Arrays,
    Original,
    certified,
    judge_decoded,
    judge_maps,
    judge_rows,
)
from benchmarks.ppyoloe_original_settings import settings_of
from benchmarks.ppyoloe_peers import VARIANTS, table
from reparam import create_model
from reparam.detection import Selection
from tests.golden.detectors.recording import load
from tests.golden.detectors.weights import chooser, images, random_state

GOLDEN = load(Path(__file__).parents[1] / "golden" / "detectors" / "ppyoloe_plus.npz")
STRIDES = (32, 16, 8)
LEVELS = {f"{kind}_{stride}": f"{kind}{i}" for i, stride in enumerate(STRIDES)
          for kind in ("cls", "reg")}  # fmt: skip


@pytest.fixture
def original() -> Original:
    """The golden case as the benchmark records its own."""
    arrays = {f"{i}/image": x for i, x in enumerate(GOLDEN.images)}
    for i, run in enumerate(GOLDEN.runs):
        arrays |= {f"{i}/{key}": value for key, value in run.items()}
        for part in ("rows", "count"):
            arrays[f"{i}/scaled_{part}"] = run[f"float32/default_{part}"]
    arrays |= {key: v for key, v in GOLDEN.runs[0].items() if key.startswith("nudged/")}
    return Original(Path("x.pdparams"), arrays)


def of_float32(names: dict[str, str]) -> list[Arrays]:
    return [{name: run[f"float32/{key}"] for name, key in names.items()} for run in GOLDEN.runs]


def answers() -> tuple[list[Arrays], list[Arrays]]:
    """Rows in PaddleDetection's layout, and the boxes and scores that they are of."""
    rows = of_float32({"rows": "default_rows", "count": "default_count"})
    return rows, of_float32({"boxes": "boxes", "scores": "scores"})


def test_the_peer_itself_is_right(original: Original) -> None:
    maps, (rows, decoded) = judge_maps(original, of_float32(LEVELS), STRIDES), answers()
    assert maps["right"]
    assert maps["of_bound"] <= 0.25
    assert judge_decoded(original, decoded)["right"]
    judged = judge_rows(original, rows, decoded, scaled=True)
    assert judged["right"]
    assert judged["matched"] == judged["rows"] > 100


@pytest.mark.parametrize("name", LEVELS)
def test_a_map_that_is_off_by_a_thousandth_is_wrong(original: Original, name: str) -> None:
    found = of_float32(LEVELS)
    found[1][name] = found[1][name] * np.float32(1.001)
    judged = judge_maps(original, found, STRIDES)
    assert not judged["right"]
    assert judged["of_bound"] == judged["outputs"][name] > 10


def test_maps_by_other_names_or_of_another_shape_are_wrong(original: Original) -> None:
    found = of_float32({**LEVELS, "more": "cls0"})
    assert "outputs are" in judge_maps(original, found, STRIDES)["failed"]
    found = of_float32(LEVELS)
    found[0]["cls_8"] = found[0]["cls_8"][..., :-1]
    assert judge_maps(original, found, STRIDES)["of_bound"] == float("inf")


def without_first(rows: np.ndarray, count: np.ndarray) -> Arrays:
    return {"rows": rows[1:], "count": count - np.eye(1, len(count), dtype=count.dtype)[0]}


def moved(rows: np.ndarray, count: np.ndarray) -> Arrays:
    return {"rows": rows + np.array([0, 0, 1, 0, 0, 0], rows.dtype), "count": count}


def twice(rows: np.ndarray, count: np.ndarray) -> Arrays:
    return {"rows": np.concatenate([rows[:1], rows[:1], rows[2:]]), "count": count}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(without_first, "is missing"), (moved, "no box of this network"), (twice, "overlap|twice")],
)
def test_detections_that_are_not_the_right_ones_are_wrong(
    original: Original, spoil: Callable[..., Arrays], said: str
) -> None:
    rows, decoded = answers()
    rows[1] = spoil(*rows[1].values())
    judged = judge_rows(original, rows, decoded, scaled=True)
    assert not judged["right"]
    assert np.any([part in judged["failed"] for part in said.split("|")])


def test_too_many_detections_are_not_certified() -> None:
    boxes, scores = np.zeros((1, 2, 4), np.float32), np.full((1, 1, 2), 0.5, np.float32)
    rows = [np.array([[0, 0.5, 0, 0, 0, 0]] * 2)]
    wrong = certified(rows, boxes, scores, np.ones((1, 2)), Selection(top_k=1))
    assert wrong == "image 0: 2 detections; 1 at most are wanted"


def test_as_many_scores_pass_as_are_asked_for() -> None:
    layer = create_model(
        "ppyoloe", head="raw", layers=[1, 1, 1, 1], channels=[8, 8, 12, 16, 20],
        neck_channels=[24, 16, 12], neck_blocks=1, num_classes=3,
    )  # fmt: skip
    layer.eval()
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    state = random_state(shapes, "small")
    layer.set_state_dict(state)
    x = images((2, 3, 64, 96), 3).astype(np.float32)
    before = maps_of(layer, x)["cls2"]
    settle(layer, x, chooser(state, "small"))
    assert np.abs(maps_of(layer, x)["cls2"] - before).max() > 0
    let_pass(layer, x, 50, 0.01)
    logits = np.concatenate([v.ravel() for k, v in maps_of(layer, x).items() if k[:3] == "cls"])
    assert (1 / (1 + np.exp(-logits.astype(np.float64))) > 0.01).sum() == 50


def test_memory_is_that_of_a_process_and_its_children() -> None:
    assert family(os.getpid())[0] == os.getpid()
    assert resident(os.getpid()) > 10_000_000
    gone = 2**22 + 1  # beyond the largest process id
    assert family(gone) == []
    assert resident(gone) == 0


def test_every_variant_has_the_settings_of_its_configuration() -> None:
    for name in VARIANTS:
        told = settings_of(name)
        assert told["backbone"]["use_alpha"] is ("plus" in name)
        assert ("aux" in told) is (name == "ppyoloe_plus_t")


def test_the_table_has_as_many_cells_in_every_line() -> None:
    rows = [
        {"network": "a", "step": "recognised", "right": True, "parameters": 7, "blocks": 2},
        {"network": "a", "step": "raw", "right": True, "of_bound": 0.5},
        {"network": "b", "step": "nms", "right": False, "rows": 5, "matched": 4},
        {"network": "b", "step": "raw", "right": False, "failed": "no"},
    ]
    lines = table(rows).splitlines()
    assert {line.count("|") for line in lines} == {6}
    assert "**wrong**, 4 of 5 rows" in lines[-1]


def test_the_profile_tells_the_nodes_behind_the_maps(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    for name, behind in (("head/last", True), ("last", False)):
        nodes = [onnx.helper.make_node("Exp", ["x"], ["y"], name="first"),
                 onnx.helper.make_node("Sin", ["y"], ["z"], name=name)]  # fmt: skip
        shape = [1, 64, 64]
        graph = onnx.helper.make_graph(
            nodes, "g", [value("x", 1, shape)], [value("z", 1, shape)]
        )  # fmt: skip
        opset = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "x")
        share = profiled_share(tmp_path / "x", np.ones((1, 64, 64), np.float32), threads=1)
        assert (share > 0) is behind
