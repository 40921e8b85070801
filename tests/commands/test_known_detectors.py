"""What the commands say of a checkpoint of a detector that is known by its name alone."""

from __future__ import annotations

import json

import pytest

import reparam
from tests.detection.test_known import small

RTDETR, YOLOX = "rtdetr/rtdetr_r18vd_6x_coco", "yolox/yolox_s_300e_coco"


@pytest.fixture
def saved(tmp_path):
    def one(name):
        path = tmp_path / f"{name.rpartition('/')[2]}.pdparams"
        reparam.save_checkpoint(path, small(name))
        return str(path)

    return one


def test_inspect(saved, run):
    code, out, _ = run("inspect", saved(RTDETR))
    said = " ".join(out.split())
    assert code == 0
    assert "the detector RT-DETR (PaddleDetection or PyTorch), which is not in the zoo; its" in said
    assert "12 RepVggBlock" in said
    found = json.loads(run("inspect", saved(YOLOX), "--json")[1])
    assert found["detector"] == "YOLOX (PaddleDetection)"
    assert found["architecture"] is None


def test_inspect_without_blocks(saved, run):
    said = " ".join(run("inspect", saved(YOLOX))[1].split())
    assert "YOLOX (PaddleDetection), which is not in the zoo" in said
    assert "its blocks can be fused" not in said


def test_fuse(saved, run, tmp_path):
    code, out, _ = run("fuse", saved(RTDETR), "--fold-bn")
    assert code == 0
    assert "12 blocks fused" in out
    assert "16 BatchNorms folded" in out
    (line,) = (line for line in out.splitlines() if "RT-DETR" in line)
    assert line == (
        "note: the network is the detector RT-DETR (PaddleDetection or PyTorch), which is not in "
        "the zoo; blocks were told by their names and shapes"
    )
    assert (tmp_path / f"{RTDETR.rpartition('/')[2]}.deploy.pdparams").exists()


def test_export_is_refused(saved, run, tmp_path):
    code, _, err = run("export", saved(RTDETR), "--onnx", "--input-size", "64")
    assert code == 2
    assert err.startswith("Error: the checkpoint is of the detector RT-DETR (PaddleDetection or")
    assert "reparam fuse fuses the 12 blocks of this checkpoint now" in err
    assert not list(tmp_path.glob("*.onnx"))
