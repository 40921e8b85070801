"""docs/contract.md names every key of a contract, and its example reads one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reparam.exporter import Tensor, export
from reparam.exporter.contract import Described, contract, infer_cfg
from reparam.graph.normalizing import PRESETS
from tests.converter import needs_converter
from tests.exporter.test_contract import detector
from tests.weights import repvgg_arrays, write

TEXT = (Path(__file__).parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")


def keys_of_table(heading: str) -> set[str]:
    section = TEXT.split(heading, 1)[1].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    cells = [line.lstrip("|").split("|")[0] for line in section.splitlines()[2:]]
    return {key.strip() for cell in cells for key in cell.split(",")}


def test_every_key_is_explained_and_no_other() -> None:
    said = contract(detector())
    assert keys_of_table("## The contract") == set(said)
    assert keys_of_table("Of the image:") == set(said["inputs"][0])
    for key in infer_cfg(detector()):
        assert f"`{key}`" in TEXT


def test_presets_are_those_of_the_page() -> None:
    for name in ("imagenet", "ppyoloe", "ppyoloe+"):
        assert f"`{name}`" in TEXT
        assert name in PRESETS


@needs_converter
def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    export(write(tmp_path, repvgg_arrays()), "model.onnx", input_size=(32, 32))
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    exec(code, {})  # our own text, not a user's
    assert "x ['batch', 3, 32, 32] RGB {'raw': False" in capsys.readouterr().out


def test_what_is_not_known_is_null() -> None:
    image = Tensor("x", (1, 3, 8, 8), "float32")
    said = contract(Described("mine:build", "0" * 64, (8, 8), inputs=(image,), outputs=(image,)))
    assert said["outputs"][0]["meaning"] is said["inputs"][0]["pixels"] is None
