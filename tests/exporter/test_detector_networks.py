"""A detector's neck and maps through the converter: what it cannot read is put right by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters import program_repairs
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.errors import ExportError
from reparam.exporter import export
from tests.converter import needs_converter
from tests.detector_network import weights
from tests.weights import write

SIZE = (32, 40)
REPAIR = "float64 scales of an interpolation made float32"

pytestmark = needs_converter


def detector(how: str) -> ForeignModel:
    return ForeignModel("tests.detector_network:build", {"how": how})


def exported(folder: Path, how: str, **options: Any) -> Any:
    source = write(folder, weights(how=how))
    return export(source, model=detector(how), input_size=SIZE, **options)


def constants_of_resize(path: Path) -> list[list[float] | None]:
    """Return scales and sizes of the one Resize of a file, where they are constants."""
    graph = onnx.load(path).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (resize,) = (node for node in graph.node if node.op_type == "Resize")
    given = [*resize.input[2:], ""][:2]
    return [held[name].tolist() or None if name in held else None for name in given]


def test_an_interpolation_is_repaired_and_fails_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "reparam.adapters"):
        report = exported(tmp_path, "scale", dynamic=["batch", "height", "width"])
    assert report.repairs[REPAIR] == 1
    assert f"{REPAIR}: 1" in caplog.messages
    assert report.worst.verdict == "equal"
    session = load_strictly(report.output)
    coarse, _, fine, _ = run_onnx(session, np.zeros((3, 3, 64, 48), np.float32))
    assert (coarse.shape, fine.shape) == ((3, 3, 8, 6), (3, 3, 16, 12))

    monkeypatch.setattr(program_repairs, "_float32_scales", lambda _: 0)
    with pytest.raises(ExportError) as caught:
        export(report.source, tmp_path / "other.onnx", model=detector("scale"), input_size=SIZE)
    assert "FloatAttribute" in caught.value.found  # as the converter says it
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("how", ["scales", "bilinear", "corners", "bicubic"])
def test_an_upsampling_is_one_operator(how: str, tmp_path: Path) -> None:
    report = exported(tmp_path, how)
    assert report.repairs[REPAIR] == 1
    assert set(report.ops_after) == {"Add", "Concat", "Conv", "GlobalAveragePool", "MaxPool",
                                     "Mul", "Relu", "Resize", "Sigmoid"}  # fmt: skip
    assert constants_of_resize(report.output) == [[1, 1, 2, 2], None]
    assert report.worst.verdict == "equal"
