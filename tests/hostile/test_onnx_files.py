"""ONNX files that are made to crash, stall or starve who reads them."""

from __future__ import annotations

import pytest

from tests.hostile.harness import Case, check, run
from tests.hostile.onnx_files import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inspect_answers_in_time(case: Case, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    path = case.make(folder)
    check(run(["inspect", path.name], folder), code=case.code, says=case.says)
