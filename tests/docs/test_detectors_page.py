"""The page of detectors names every detector that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparam.detection.known import DETECTORS

PAGE = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({known.name for known in DETECTORS}))
def test_every_detector_is_named(name):
    words = name.removeprefix("PP-YOLOE with ").removesuffix(" as its backbone")
    table = PAGE.split("## Known by name")[1]
    assert f" {words}" in table
