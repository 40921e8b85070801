"""Blocks to train with go through fuse, verify and export as a user's own network does."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.adapters.foreign_models import ForeignModel
from reparam.checkpoint import load_checkpoint
from reparam.conv import Conv
from reparam.equivalence import Probing, verify
from reparam.exporter import export
from reparam.exporter.layer_fusing import fuse_layers
from reparam.models.training.dbb import IdentityConv
from tests.converter import needs_converter
from tests.training_network import weights
from tests.weights import write

MODEL = ForeignModel("tests.training_network:build")
BLOCKS = ["stem", *(f"body.{i}" for i in range(6)), "large.0", "large.1", "plain.0"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("trained"), weights())


def test_fused_and_verified(source, tmp_path):
    result = fuse_layers(source, MODEL, tmp_path / "deploy.pdparams")
    report = result.report
    assert [proved.block.where for proved in report.fused] == BLOCKS
    assert all(proved.check.verdict == "equal" for proved in report.fused)
    assert report.network.verdict == "equal"
    names = load_checkpoint(result.output).arrays
    for name in ("stem.fused_conv", "body.0.dbb_reparam", "body.2.rbr_reparam",
                 "body.4.reparam_conv", "large.0.lkb_reparam", "large.1.lk_origin",
                 "plain.0.dbb_reparam"):  # fmt: skip
        assert f"{name}.weight" in names
        assert f"{name}.bias" in names
    assert not any(".bn" in name or "_bn" in name for name in names)
    verification = verify(source, result.output, Probing(sizes=((24, 20),), model=MODEL))
    assert verification.verdict == "equivalent"


def test_a_block_that_is_described_wrongly_is_fused_from_its_names(source, tmp_path, monkeypatch):
    """The comparison of blocks knows nothing of what they say of themselves."""
    right = fuse_layers(source, MODEL, tmp_path / "right.pdparams")
    monkeypatch.setattr(
        IdentityConv, "as_conv", lambda self: Conv.of(self.weight.numpy(), groups=self.groups)
    )
    found = fuse_layers(source, MODEL, tmp_path / "found.pdparams")
    ours = [done.block for done in found.report.fused if done.block.by == "reparam"]
    assert [block.where for block in ours] == ["body.0", "plain.0"]
    assert all("makes another function" in block.problem for block in ours)
    assert all(done.check.verdict == "equal" for done in found.report.fused)
    expected, made = (load_checkpoint(one.output).arrays for one in (right, found))
    assert made.keys() == expected.keys()
    for name, array in made.items():
        assert np.allclose(array, expected[name], rtol=1e-6, atol=1e-6 * np.abs(array).max())


@needs_converter
def test_exported(source, tmp_path):
    report = export(source, tmp_path / "net.onnx", model=MODEL, input_size=(24, 20))
    assert report.worst.verdict == "equal"
    assert report.ops_after["Conv"] == len(BLOCKS)
    # what the user put after a block is the user's own
    assert report.ops_after.get("BatchNormalization", 0) <= 1
    assert not {"AveragePool", "Pad"} & set(report.ops_after)
