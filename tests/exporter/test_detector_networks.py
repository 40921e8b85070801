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
from tests.converter import needs_converter, writes_float64_scales
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
    assert (REPAIR in report.repairs) == writes_float64_scales
    assert (f"{REPAIR}: 1" in caplog.messages) == writes_float64_scales
    assert report.worst.verdict == "equal"
    session = load_strictly(report.output)
    coarse, _, fine, _ = run_onnx(session, np.zeros((3, 3, 64, 48), np.float32))
    assert (coarse.shape, fine.shape) == ((3, 3, 8, 6), (3, 3, 16, 12))

    if not writes_float64_scales:
        return
    monkeypatch.setattr(program_repairs, "_float32_scales", lambda _: 0)
    with pytest.raises(ExportError) as caught:
        export(report.source, tmp_path / "other.onnx", model=detector("scale"), input_size=SIZE)
    assert "FloatAttribute" in caught.value.found  # as the converter says it
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("how", ["scales", "corners", "bicubic"])
def test_an_upsampling_is_one_operator(how: str, tmp_path: Path) -> None:
    report = exported(tmp_path, how)
    assert report.repairs.get(REPAIR, 0) == writes_float64_scales
    assert set(report.ops_after) == {"Add", "Concat", "Conv", "GlobalAveragePool", "MaxPool",
                                     "Mul", "Relu", "Resize", "Sigmoid"}  # fmt: skip
    assert constants_of_resize(report.output) == [[1, 1, 2, 2], None]
    assert report.worst.verdict == "equal"


@pytest.mark.parametrize("how", ["size", "shape"])
def test_sizes_that_are_known_are_scales(how: str, tmp_path: Path) -> None:
    """One is told its size, the other takes that of a map, whose size is known here."""
    report = exported(tmp_path, how)
    assert report.repairs["computed sizes of a Resize made constant scales"] == 1
    assert not {"Shape", "Slice", "Cast", "Gather"} & set(report.ops_after)
    assert constants_of_resize(report.output) == [[1, 1, 2, 2], None]
    assert report.worst.verdict == "equal"


def test_open_sizes_have_names(tmp_path: Path) -> None:
    report = exported(tmp_path, "shape", dynamic=["batch", "height", "width"])
    shapes = [output.shape for output in report.outputs]
    assert shapes[::2] == [("batch", 3, "height_8", "width_8"), ("batch", 3, "height_4", "width_4")]
    (image,) = np.random.default_rng(0).normal(size=(1, 1, 3, 50, 35)).astype(np.float32)
    coarse, _, fine, _ = run_onnx(load_strictly(report.output), image)
    assert (coarse.shape[2:], fine.shape[2:]) == ((7, 5), (13, 9))


@pytest.mark.parametrize("opset", [11, 21])
def test_every_opset(opset: int, tmp_path: Path) -> None:
    """The file was checked with types and shapes, and loaded without a warning, before it is."""
    report = exported(tmp_path, "scale", opset=opset)
    assert report.opset == opset
    assert report.worst.verdict == "equal"
    assert constants_of_resize(report.output) == [[1, 1, 2, 2], None]
