"""Static programs that are made to confuse or starve who reads them."""

from __future__ import annotations

import pytest

from reparam.adapters.static_models import convert_static, find_static
from reparam.errors import ExportError
from tests.converter import needs_converter
from tests.hostile.harness import TIMEOUT, Case, check, run
from tests.hostile.static_files import CASES, GOOD, HEAD, SCALE, case, scaled


@needs_converter
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused(case: Case, tmp_path):
    with pytest.raises(ExportError) as caught:
        convert_static(find_static(case.make(tmp_path)), tmp_path)
    assert case.says in str(caught.value)


@needs_converter
@pytest.mark.parametrize("content", [GOOD, HEAD + "}", scaled({"N": "scale", "AT": SCALE})])
def test_what_has_the_right_form_reaches_the_converter(content, tmp_path):
    with pytest.raises(ExportError, match="paddle2onnx"):
        convert_static(find_static(case("", "", content).make(tmp_path)), tmp_path)


@needs_converter
@pytest.mark.parametrize(
    "case",
    [CASES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in CASES[1:])],
    ids=lambda case: case.name,
)
def test_fuse_answers_in_time(case: Case, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    path = case.make(folder)
    check(run(["fuse", path.name, "--timeout", TIMEOUT], folder), says=case.says)
