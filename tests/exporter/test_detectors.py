"""PP-YOLOE as an ONNX file, with each head, against what paddledet makes of the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters import head_model_files
from reparam.adapters.head_model_joining import with_inner_outputs
from reparam.adapters.onnx_checks import load_strictly
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.detection import Maps, Selection, certify
from reparam.detection.classes import Classes
from reparam.detection.selecting import Detections
from reparam.errors import (
    ConfigurationError,
    ExportError,
    NotEquivalentError,
    UnsupportedModelError,
)
from reparam.exporter import Options, detectors, export_onnx, network_of, onnx_export
from tests.converter import needs_converter
from tests.golden.detectors.recording import Arrays
from tests.golden.detectors.test_detectors import bound, case
from tests.weights import cspresnet_arrays, write

pytestmark = needs_converter

CASE = "tiny_relu"
SIZES = ((32, 224), (64, 32))
STRICT = Selection(score_threshold=0.3, iou_threshold=0.4, top_k=10, candidates=20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(write(tmp_path_factory.mktemp("detector"), case(CASE).state))


def exported(checkpoint: Checkpoint, folder: Path, **options: Any) -> Any:
    options.setdefault("input_size", SIZES[0])
    settings = {"act": "relu"}
    return export_onnx(checkpoint, folder / "net.onnx", settings=settings, **options)


def run(path: Path, image: np.ndarray, **more: np.ndarray) -> Arrays:
    session = load_strictly(path)
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {session.get_inputs()[0].name: image, **more})
    return dict(zip(names, found, strict=True))


def near(found: np.ndarray, recorded: Arrays, name: str) -> bool:
    """Whether an output is as near to the peer's in float64 as float32 allows."""
    truth = recorded[f"truth/{name}"]
    assert found.shape == truth.shape
    return bool(np.abs(found - truth).max() <= bound(recorded, name, "float32"))


def test_raw_maps_are_the_peers_whatever_the_size_and_the_batch(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    report = exported(checkpoint, tmp_path, head="raw", dynamic=["batch", "height", "width"])
    assert (report.head, report.selection) == ("raw", None)
    names = [f"{kind}_{stride}" for stride in (32, 16, 8) for kind in ("cls", "reg")]
    assert [output.name for output in report.outputs] == names
    for image, recorded in zip(case(CASE).images, case(CASE).runs, strict=True):
        found = run(report.output, image)
        for level, stride in enumerate((32, 16, 8)):
            for kind in ("cls", "reg"):
                assert near(found[f"{kind}_{stride}"], recorded, f"{kind}{level}")


@pytest.mark.parametrize("index", [0, 1])
def test_decoded_boxes_are_the_peers(checkpoint: Checkpoint, tmp_path: Path, index: int) -> None:
    dynamic = ["batch", "height", "width"] if index else None
    report = exported(checkpoint, tmp_path, head="decoded", input_size=SIZES[index],
                      dynamic=dynamic)  # fmt: skip
    found = run(report.output, case(CASE).images[index])
    assert list(found) == ["boxes", "scores"]
    assert near(found["boxes"], case(CASE).runs[index], "boxes")
    assert near(found["scores"], case(CASE).runs[index], "scores")


@pytest.mark.parametrize(
    ("index", "limits", "selection"), [(0, "default", Selection()), (1, "strict", STRICT)]
)
def test_rows_of_paddledetection_are_the_peers(
    checkpoint: Checkpoint, tmp_path: Path, index: int, limits: str, selection: Selection
) -> None:
    report = exported(checkpoint, tmp_path, compat="paddledetection", input_size=SIZES[index],
                      selection=selection)  # fmt: skip
    assert report.selection.candidates == (selection.candidates or 1000)
    recorded = case(CASE).runs[index]
    scale = recorded["scale_factor"]
    found = run(report.output, case(CASE).images[index], scale_factor=scale)
    rows, count = found["fetch_name_0"], found["fetch_name_1"]
    peers = recorded[f"float32/{limits}_rows"]
    assert count.tolist() == recorded[f"float32/{limits}_count"].tolist()
    assert rows.shape == peers.shape
    assert np.array_equal(rows[:, 0], peers[:, 0])
    assert np.abs(rows[:, 1] - peers[:, 1]).max() <= bound(recorded, "scores", "float32")
    off = np.abs(rows[:, 2:] - peers[:, 2:]).max()
    assert off <= bound(recorded, "boxes", "float32") / float(scale.min())


def test_detections_are_certified_for_any_batch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    report = exported(checkpoint, tmp_path, input_size=SIZES[1], selection=STRICT)
    assert [output.name for output in report.outputs] == ["boxes", "scores", "classes", "count"]
    assert report.outputs[0].shape == ("batch", 10, 4)
    inner = ["head/decoded_boxes", "head/decoded_scores"]
    laid_open = tmp_path / "open.onnx"
    onnx.save(with_inner_outputs(onnx.load(report.output), inner), laid_open)
    images = case(CASE).images[1]
    for batch in (images, images[:1], np.zeros_like(images)):
        *found, boxes, scores = run(laid_open, batch).values()
        assert certify(boxes, scores, STRICT, Detections(*found)) is None
        told = run(report.output, batch)
        assert all(np.array_equal(a, b) for a, b in zip(found, told.values(), strict=True))

    header = onnx.load(report.output)
    maps = Maps((32, 16, 8), 4, (0.0, 1.0))
    plan = head_model_files.plan_in(header, maps)
    assert (plan.head, plan.layout, plan.selection) == ("nms", "own", STRICT)
    for entry in header.metadata_props:
        if entry.key == head_model_files.METADATA:
            entry.value = entry.value.replace("own", "yours")
    with pytest.raises(ExportError):
        head_model_files.plan_in(header, maps)


def test_an_image_without_objects_gives_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    report = exported(checkpoint, tmp_path, input_size=SIZES[1], selection=Selection(0.999))
    nothing = run(report.output, case(CASE).images[1])
    assert nothing["count"].tolist() == [0, 0, 0]
    assert set(nothing["classes"].ravel()) == {-1}
    assert not nothing["boxes"].any()
    assert not nothing["scores"].any()


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float16"},
        {"precision": "float16", "keep_io": False, "head": "decoded", "external_data": True},
        {"batch": 2, "fuse": False, "opset": 11, "output_names": ["a", "b", "c", "d"]},
        {"fold_normalize": "ppyoloe,bgr", "compat": "paddledetection", "opset": 21},
    ],
    ids=str,
)
def test_other_choices_pass_their_checks(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    report = exported(checkpoint, tmp_path, input_size=SIZES[1], **options)
    assert report.worst.verdict == "equal"
    assert report.fused_blocks == (0 if options.get("fuse") is False else report.blocks)
    dtype = "float16" if options.get("keep_io") is False else "float32"
    assert report.input.dtype == dtype
    assert report.outputs[0].dtype == "float32"
    if "output_names" in options:
        assert [output.name for output in report.outputs] == options["output_names"]


def test_the_auxiliary_head_is_ignored_and_reported(tmp_path: Path) -> None:
    source = load_checkpoint(write(tmp_path, case("tiny_aux").state))
    report = export_onnx(source, tmp_path / "net.onnx", head="raw", input_size=SIZES[1])
    (notice,) = [notice for notice in report.notices if "aux_head" in notice]
    assert "aux_neck" in notice
    assert report.blocks == report.fused_blocks
    held = {tensor.name for tensor in onnx.load(report.output).graph.initializer}
    assert not any(name.startswith("aux_") for name in held)
    found = run(report.output, case("tiny_aux").images[1])
    assert near(found["cls_32"], case("tiny_aux").runs[1], "cls0")


REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a size that is no multiple": ({"input_size": (100, 64)}, UnsupportedModelError, "96x64"),
    "a size to check with": (
        {"input_size": (33, 64), "dynamic": ["height", "width"]}, UnsupportedModelError, "64x64"
    ),
    "rows without selecting": (
        {"head": "decoded", "compat": "paddledetection"}, ExportError, "--head decoded"
    ),
    "other classes": ({"classes": Classes(7)}, ConfigurationError, "7 classes were given"),
    "an unknown head": ({"head": "boxes"}, ExportError, "no head 'boxes'"),
    "an unknown layout": ({"compat": "yolov5"}, ExportError, "no compat 'yolov5'"),
    "a threshold": ({"selection": Selection(1.0)}, ExportError, "score threshold"),
    "a name too many": ({"output_names": ["a"], "head": "decoded"}, ExportError, "needed: 2"),
    "a name that is taken": (
        {"output_names": ["image", "b"], "head": "decoded"}, ExportError, "image"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_it_refuses(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    options, kind, text = REFUSALS[name]
    with pytest.raises(kind) as caught:
        exported(checkpoint, tmp_path, **options)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"head": "nms"}, "--head"),
        ({"compat": "paddledetection"}, "--compat"),
        ({"classes": Classes(3)}, "--classes"),
        ({"selection": Selection(0.5)}, "thresholds"),
    ],
)
def test_a_backbone_has_no_head(tmp_path: Path, options: dict[str, Any], what: str) -> None:
    source = load_checkpoint(write(tmp_path, cspresnet_arrays()))
    with pytest.raises(ExportError) as caught:
        export_onnx(source, tmp_path / "net.onnx", **options)
    assert what in str(caught.value)
    assert "no detector" in str(caught.value)
    assert not (tmp_path / "net.onnx").exists()


def test_a_program_for_paddle_answers_with_maps(checkpoint: Checkpoint, tmp_path: Path) -> None:
    program = tmp_path / "net.json"
    settings = {"act": "relu"}
    with pytest.raises(ExportError) as caught:
        export_onnx(checkpoint, None, paddle=program, head="nms", settings=settings)
    assert "--head raw" in str(caught.value)
    report = export_onnx(checkpoint, None, paddle=program, settings=settings, input_size=SIZES[1])
    assert len(report.paddle.outputs) == 6
    assert any("maps of each level" in notice for notice in report.notices)


# Wrong heads: each of them has to be told before a file gets its name.


def turned(maps: Maps) -> Maps:
    return Maps(maps.strides, maps.classes, maps.projection[::-1])


def swapped(maps: Maps) -> Maps:
    return Maps(maps.strides[::-1], maps.classes, maps.projection)


@pytest.mark.parametrize("wrong", [turned, swapped])
@pytest.mark.parametrize("head", ["decoded", "nms"])
def test_a_head_that_decodes_otherwise_is_told_alone(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, wrong: Any, head: str
) -> None:
    build = detectors.build_head
    network = network_of(checkpoint, settings={"act": "relu"})
    monkeypatch.setattr(
        detectors, "build_head", lambda plan: build(replace(plan, maps=wrong(plan.maps)))
    )
    with pytest.raises((NotEquivalentError, ExportError)):
        detectors.with_head(None, network, Options(head=head, input_size=SIZES[1]))


def test_a_wrong_head_is_told_once_it_is_joined(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head alone is right; what stands behind the maps in the file is not."""
    join = detectors.join

    def wrongly(network: Any, model: Any) -> Any:
        joined = join(network, model)
        for tensor in joined.graph.initializer:
            if tensor.name == "head/projection":
                values = onnx.numpy_helper.to_array(tensor) * np.float32(1.001)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return joined

    monkeypatch.setattr(detectors, "join", wrongly)
    with pytest.raises(NotEquivalentError) as caught:
        exported(checkpoint, tmp_path, head="nms")
    assert "boxes" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_maps_that_are_joined_in_another_order_are_told(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class logits of two levels have one shape here, so that only values tell."""
    cut = onnx_export.cut_at_maps

    def wrongly(header: Any, names: Sequence[str]) -> Any:
        first, second = names.index("cls_16"), names.index("cls_8")
        turned = list(names)
        turned[first], turned[second] = turned[second], turned[first]
        return cut(header, turned)

    monkeypatch.setattr(onnx_export, "cut_at_maps", wrongly)
    with pytest.raises((NotEquivalentError, ExportError)):
        exported(checkpoint, tmp_path, head="decoded")
