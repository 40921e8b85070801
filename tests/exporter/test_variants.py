"""Exported files of variants compute what PaddleClas computed, squeeze-excite and groups too."""

from __future__ import annotations

from pathlib import Path

import pytest

from reparam.adapters.closeness import closeness
from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.checkpoint import fuse_arrays
from reparam.exporter import export_onnx
from tests.adapters.recorded import checkpoint, recorded
from tests.converter import needs_converter


@needs_converter
@pytest.mark.parametrize(
    ("case", "deployed", "convolutions"),
    [
        ("clas_repvgg_se", False, 6 + 12),
        ("clas_repvgg_se", True, 6 + 12),
        ("clas_repvgg_g4", True, 8),
    ],
)
def test_the_file_computes_what_paddleclas_computed_before_deploying(
    case: str, deployed: bool, convolutions: int, tmp_path: Path
) -> None:
    network = recorded(case)
    arrays = fuse_arrays(network.state)[0] if deployed else network.state
    saved = checkpoint(tmp_path, arrays)
    report = export_onnx(saved, tmp_path / "net.onnx", input_size=network.size)
    assert report.ops_after["Conv"] == convolutions
    (found,) = run_onnx(load_strictly(report.output.read_bytes()), network.input)
    measured = closeness(network.truth[0], network.reference[0], found)
    assert measured.verdict == "equal", measured
