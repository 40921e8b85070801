"""Files that take raw pixels, and what the command says of them and of their contract."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.converter import needs_converter
from tests.models.structures import CSP, PPYOLOE, layout_of
from tests.weights import random_arrays, repvgg_arrays, write

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


def test_the_contract_of_a_detector_is_told(run, source):
    backbone = CSP((1, 1, 1, 1), (8, 8, 16, 16, 16), False, True)
    detector = PPYOLOE(backbone, (16, 8), neck_blocks=1, spp=False, num_classes=2, bins=5)
    source = write(source.parent, random_arrays(layout_of(detector).shapes()), "det.pdparams")
    code, out, _ = run(
        "export", source, "--input-size", "64x96", "--compat", "paddledetection",
        "--classes", "cat,dog",
    )  # fmt: skip
    assert code == 0
    assert "det.infer_cfg.json,howtofeedit" in "".join(out.split())  # long paths are folded
    said = json.loads(source.with_suffix(".infer_cfg.json").read_text())
    assert said["label_list"] == ["cat", "dog"]
    assert said["NMS"]["nms_top_k"] == 1000
    assert said["Preprocess"][1]["norm_type"] == "none"  # PP-YOLOE+, as it has alpha
    assert [one["name"] for one in said["reparam"]["inputs"]] == ["image", "scale_factor"]
    assert said["reparam"]["boxes"]["unit"] == "pixels of the original image"
