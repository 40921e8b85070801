"""A file of ours in PaddleDetection's layout against what PaddleDetection itself detected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reparam import save_checkpoint
from reparam.adapters.onnx_runtime import open_session
from reparam.exporter import export
from tests.golden.detectors.recording import load
from tests.golden.detectors.test_detectors import CASES, bound


# Of these no decision is within rounding: gaps between scores, and between overlaps and their
# threshold, are at least three times the rounding that the recording shows.
@pytest.mark.parametrize("name", [pytest.param("neck_alpha", marks=pytest.mark.slow), "tiny_aux"])
def test_rows_are_the_peers(name: str, tmp_path: Path) -> None:
    """From the checkpoint alone, any batch and size in one file: no row more, none less."""
    case = load(CASES[name])
    save_checkpoint(tmp_path / "x.pdparams", case.state)
    settings = {"epsilon": float(np.float32(1e-5))}
    export(
        tmp_path / "x.pdparams", tmp_path / "x.onnx", compat="paddledetection",
        dynamic=("batch", "height", "width"), input_size=(64, 64), **settings,
    )  # fmt: skip
    session = open_session(tmp_path / "x.onnx")
    for images, run in zip(case.images, case.runs, strict=True):
        feed = {"image": images, "scale_factor": run["scale_factor"]}
        rows, count = session.run(None, feed)
        np.testing.assert_array_equal(count, run["float32/default_count"])
        theirs = run["float32/default_rows"]
        np.testing.assert_array_equal(rows[:, 0], theirs[:, 0])
        assert np.abs(rows[:, 1] - theirs[:, 1]).max() <= 2 * bound(run, "scores", "float32")
        sides = 2 * bound(run, "boxes", "float32") / run["scale_factor"].min()
        assert np.abs(rows[:, 2:] - theirs[:, 2:]).max() <= sides
