"""Hold the reader of torch.save to files that PyTorch wrote; README.md says how they were made."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint
from reparam.checkpoint.pipeline import fuse
from reparam.conv import Conv, evaluate
from reparam.equivalence import Probing, verify
from reparam.errors import CheckpointError

HERE = Path(__file__).parent
VERSIONS = ("1.13", "2.14")
EPSILON = 1e-5  # the default of torch.nn.BatchNorm2d, which the block keeps


@pytest.fixture(params=VERSIONS)
def version(request) -> str:
    return request.param


@pytest.fixture(params=["zip", "legacy"])
def path(version, request, tmp_path) -> Path:
    return Path(shutil.copy(HERE / f"{version}_{request.param}.pth", tmp_path / "x.pth"))


def truth(version: str) -> dict[str, np.ndarray]:
    with np.load(HERE / f"{version}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def test_every_tensor_is_read_to_the_last_bit(path, version):
    found = load_checkpoint(path)
    expected = {
        key.removeprefix("state/"): array
        for key, array in truth(version).items()
        if key.startswith("state/")
    }
    assert list(found.arrays) == list(expected)
    for key, array in expected.items():
        got = found.arrays[key]
        assert got.shape == array.shape
        assert got.tobytes() == array.tobytes()
        assert got.dtype.name == ("bfloat16" if key == "odd.bfloat16" else array.dtype.name)
    assert found.layout.left_out == ("epoch", "optimizer", "args", "best", "dtype", "device")


@pytest.mark.parametrize("ending", ["safetensors", "pdparams"])
def test_the_fused_block_computes_what_pytorch_computed(path, version, ending):
    if version == "2.14" and ending == "pdparams":
        with pytest.raises(CheckpointError, match="uint16"):
            fuse(path, epsilon=EPSILON, format=ending)
        return
    fused = fuse(path, epsilon=EPSILON, format=ending).output
    assert fused.name == f"x.deploy.{ending}"
    arrays, recorded = load_checkpoint(fused).arrays, truth(version)
    weight, bias = (arrays[f"block.rbr_reparam.{part}"] for part in ("weight", "bias"))
    x, expected = recorded["input"], recorded["output"]
    got = evaluate(Conv.of(weight, bias, padding=1), x)
    # Each stored value was rounded once, by at most u = 2**-24 of itself.
    off_by = evaluate(Conv.of(np.abs(weight), np.abs(bias), padding=1), np.abs(x)) * 2.0**-24
    assert (np.abs(got - expected) <= off_by * (1 + 1e-6)).all()
    assert verify(path, fused, Probing(epsilon=EPSILON)).verdict == "equivalent"
