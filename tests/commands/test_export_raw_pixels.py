"""``reparam export --fold-normalize``: what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.converter import needs_converter
from tests.weights import repvgg_arrays, write

pytestmark = needs_converter


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, repvgg_arrays())


def left(source: Path) -> list[str]:
    return sorted(path.name for path in source.parent.iterdir())


def test_a_preset_is_assumed_where_none_is_named(run, source):
    code, out, _ = run("export", source, "--input-size", "32", "--fold-normalize", "--json")
    report = json.loads(out)
    assert code == 0
    assert any("'imagenet', which is assumed" in notice for notice in report["notices"])
    assert report["ops_after"]["Sub"] == 1


def test_checkpoint_behind_the_option(run, source):
    code, out, _ = run("export", "--input-size", "32", "--fold-normalize", source.name)
    assert code == 0
    assert "which is assumed" in " ".join(out.split())
    assert left(source) == ["ckpt.onnx", "ckpt.pdparams"]


def test_numbers(run, source):
    code, out, _ = run(
        "export", source, "--input-size", "32", "--fold-normalize", "0,255,bgr", "--json"
    )
    report = json.loads(out)
    assert (code, report["notices"]) == (0, [])
    assert "Sub" not in report["ops_after"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--onnx", "--fold-normalize", "imagenette"], "'imagenette' is no normalisation"),
        (["--paddle", "--fold-normalize"], "does not take raw pixels"),
        (["--onnx", "--paddle", "--fold-normalize"], "does not take raw pixels"),
        (["--fold-normalize", "0,0,1,1"], "2 means; the image has 3 channel(s)"),
    ],
    ids=" ".join,
)
def test_refused(arguments, said, run, source):
    code, out, err = run("export", source, "--input-size", "32", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert left(source) == ["ckpt.pdparams"]
