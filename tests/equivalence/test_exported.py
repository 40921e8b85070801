"""A detector's exported file against its checkpoint: its maps, and what stands behind them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.head_model_files import METADATA
from reparam.checkpoint import load_checkpoint
from reparam.detection import Selection
from reparam.equivalence import Probing, verify
from reparam.errors import ExportError, GraphError, UnsupportedModelError
from reparam.exporter import export_onnx
from tests.converter import needs_converter
from tests.golden.detectors.test_detectors import case
from tests.weights import repvgg_arrays, write

pytestmark = needs_converter

SIZE = (64, 32)
SETTINGS = {"act": "relu"}
PROBING = Probing(sizes=(SIZE,), settings=SETTINGS)
FILES: dict[str, dict[str, Any]] = {
    "nms": {"selection": Selection(0.3, 0.4, 10)},
    "rows": {"compat": "paddledetection", "fold_normalize": "ppyoloe"},
    "decoded": {"head": "decoded", "precision": "float16", "dynamic": ["height", "width"]},
    "beside": {"external_data": True},
    "raw": {"head": "raw", "batch": 2},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source"), case("tiny_relu").state)


@pytest.fixture(scope="module")
def files(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, checkpoint = tmp_path_factory.mktemp("files"), load_checkpoint(source)
    for name, options in FILES.items():
        output = folder / f"{name}.onnx"
        export_onnx(checkpoint, output, input_size=SIZE, settings=SETTINGS, **options)
    return {name: folder / f"{name}.onnx" for name in FILES}


def verdicts(source: Path, path: Path) -> dict[str, str]:
    found = verify(source, path, PROBING)
    return {stage.name: stage.verdict for stage in found.stages} | {"": found.verdict}


@pytest.mark.parametrize("name", FILES)
def test_a_right_file_is_equivalent(source: Path, files: dict[str, Path], name: str) -> None:
    found = verdicts(source, files[name])
    expected = {"fused weights": "equal", "onnxruntime": "equal", "": "equivalent"}
    assert found == expected | ({} if name == "raw" else {"head": "equal"})


def scaled(tensor: Any, factor: float) -> None:
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))


def changed(model: Any, ending: str, factor: float) -> None:
    (tensor,) = [one for one in model.graph.initializer if one.name.endswith(ending)]
    scaled(tensor, factor)


def threshold(model: Any, at: int) -> None:
    (node,) = [node for node in model.graph.node if node.op_type == "NonMaxSuppression"]
    (tensor,) = [one for one in model.graph.initializer if one.name == node.input[at]]
    scaled(tensor, 0.5)


def mean(model: Any) -> None:
    subs = [node for node in model.graph.node if node.op_type == "Sub"]
    (node,) = [node for node in subs if node.input[0] == "image"]
    (tensor,) = [one for one in model.graph.initializer if one.name == node.input[1]]
    scaled(tensor, 1.5)


WRONG: dict[str, tuple[str, str, Callable[[Any], None]]] = {
    "projection": ("nms", "head", lambda m: changed(m, "head/projection", 1.001)),
    "stride": ("nms", "head", lambda m: changed(m, "head/steps", 2.0)),
    "overlap": ("nms", "head", lambda m: threshold(m, 3)),
    "score": ("nms", "head", lambda m: threshold(m, 4)),
    "weight": ("nms", "onnxruntime", lambda m: changed(m, "pred_reg.2.weight", 1.01)),
    "mean": ("rows", "onnxruntime", mean),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_told_and_where(
    source: Path, files: dict[str, Path], tmp_path: Path, wrong: str
) -> None:
    name, stage, change = WRONG[wrong]
    model = onnx.load(files[name])
    change(model)
    onnx.save(model, tmp_path / "wrong.onnx")
    found = verdicts(source, tmp_path / "wrong.onnx")
    assert found[""] == "different"
    assert {key for key, verdict in found.items() if verdict == "different"} == {"", stage}


def without(path: Path, key: str, output: Path, value: str | None = None) -> Path:
    model = onnx.load(path)
    kept = [(one.key, one.value) for one in model.metadata_props if one.key != key]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(kept) | ({} if value is None else {key: value}))
    onnx.save(model, output)
    return output


def test_a_file_that_does_not_say_what_it_answers_is_not_called_different(
    source: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    path = without(files["nms"], METADATA, tmp_path / "foreign.onnx")
    found = verify(source, path, PROBING)
    (stage,) = [stage for stage in found.stages if stage.name == "onnxruntime"]
    assert stage.verdict == "undecidable"
    assert "boxes, scores, classes, count" in stage.summary


@pytest.mark.parametrize("value", ["{}", "nms", '{"head": "nms", "layout": "own"}'])
def test_what_a_file_says_of_its_head_must_be_read(
    source: Path, files: dict[str, Path], tmp_path: Path, value: str
) -> None:
    path = without(files["nms"], METADATA, tmp_path / "odd.onnx", value)
    with pytest.raises(ExportError) as caught:
        verify(source, path, PROBING)
    assert METADATA in str(caught.value)


def test_what_a_file_says_of_its_pixels_must_be_read(
    source: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    path = without(files["rows"], "reparam.normalize", tmp_path / "odd.onnx", '{"input": "image"}')
    with pytest.raises(GraphError):
        verify(source, path, PROBING)


def test_another_network_is_different(files: dict[str, Path], source: Path, tmp_path: Path) -> None:
    grey = write(tmp_path, repvgg_arrays(in_channels=1))
    found = verify(grey, files["raw"], Probing(sizes=(SIZE,)))
    assert found.verdict == "different"
    assert any("3 channels" in stage.summary for stage in found.stages)


@pytest.mark.parametrize("shape", [None, (), (1, 8)], ids=str)
def test_a_file_without_an_image_is_different(
    source: Path, tmp_path: Path, shape: tuple[int, ...] | None
) -> None:
    """No input at all, a number, a row."""
    make = onnx.helper
    value = make.make_tensor_value_info
    inputs = [] if shape is None else [value("x", onnx.TensorProto.FLOAT, shape)]
    held = make.make_tensor("w", onnx.TensorProto.FLOAT, (2,), [1.0, 2.0])
    graph = make.make_graph(
        [make.make_node("Add", ["w", "w" if shape is None else "x"], ["y"])] if shape != (1, 8)
        else [make.make_node("Relu", ["x"], ["y"])],
        "none", inputs, [value("y", onnx.TensorProto.FLOAT, None)], [held],
    )  # fmt: skip
    opsets = [make.make_opsetid("", 17)]
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "none.onnx")
    found = verify(source, tmp_path / "none.onnx", PROBING)
    assert found.verdict == "different"
    assert any("takes no image" in stage.summary for stage in found.stages)


def test_sizes_that_a_detector_does_not_take_are_refused(source: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        verify(source, probing=Probing(sizes=((65, 97),), settings=SETTINGS))
    assert "64x96 or 96x128" in str(caught.value)
    own = Probing(settings=SETTINGS, own_input=np.zeros((1, 3, 40, 32), np.float32))
    with pytest.raises(UnsupportedModelError):
        verify(source, probing=own)
