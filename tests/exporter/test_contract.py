"""The contract of a file says what is true, and PaddleDetection's programs can read their part."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reparam.adapters.head_model import PADDLEDETECTION
from reparam.detection.records import DECODED, HEADS, NMS, RAW, Maps, Preprocessing, Selection
from reparam.exporter import Tensor
from reparam.exporter.contract import (
    METADATA,
    Described,
    as_metadata,
    contract,
    infer_cfg,
    infer_cfg_of,
    infer_cfg_text,
)
from reparam.exporter.contract_outputs import meanings_of
from reparam.normalization import PRESETS, Normalization

MAPS = Maps((32, 16, 8), 3, tuple(map(float, range(5))))
IMAGENET = Preprocessing(PRESETS["imagenet"].mean, PRESETS["imagenet"].std)
OUTPUTS = {
    RAW: {name: ("batch", 20 if name[0] == "r" else 3, 2, 2) for name in MAPS.names},
    DECODED: {"boxes": ("batch", 84, 4), "scores": ("batch", 3, 84)},
    NMS: {"boxes": ("batch", 300, 4), "scores": ("batch", 300), "classes": ("batch", 300),
          "count": ("batch",)},
}  # fmt: skip


def detector(head: str = NMS, **changed: Any) -> Described:
    about = Described(
        architecture="ppyoloe_s",
        source_sha256="0" * 64,
        size=(64, 96),
        inputs=(Tensor("image", ("batch", 3, 64, 96), "float32"),),
        outputs=tuple(Tensor(name, shape, "float32") for name, shape in OUTPUTS[head].items()),
        preprocessing=IMAGENET,
        maps=MAPS,
        head=head,
        selection=Selection(),
    )
    return replace(about, **changed)


def read(text: str) -> Any:
    """The values of a text, which are the same for a reader of JSON and for one of YAML."""
    values = json.loads(text)
    assert yaml.safe_load(text) == values
    return values


def as_paddledetection_reads(text: str) -> dict[str, Any]:
    """What its programs take from the file, each key that they cannot do without."""
    said = yaml.safe_load(text)
    supported = {"YOLO", "PPYOLOE", "SSD", "RCNN"}
    assert any(name in said["arch"] for name in supported)
    assert said["mode"] in ("paddle", "trt_fp32", "trt_fp16", "trt_int8")
    assert isinstance(said["min_subgraph_size"], int)
    assert isinstance(said["draw_threshold"], float)
    assert isinstance(said["use_dynamic_shape"], bool)
    assert all(isinstance(label, str) for label in said["label_list"])
    return said


STEPS = {
    "Resize": {"target_size", "keep_ratio", "interp"},
    "NormalizeImage": {"mean", "std", "is_scale", "norm_type"},
    "Permute": set(),
}


def fed(steps: list[dict[str, Any]], image: np.ndarray) -> np.ndarray:
    """An RGB image (H, W, 3) of the right size, as the steps of PaddleDetection leave it."""
    for step in steps:
        arguments = {key: value for key, value in step.items() if key != "type"}
        assert set(arguments) == STEPS[step["type"]]
        if step["type"] == "Resize":
            assert tuple(arguments["target_size"]) == image.shape[:2]
        elif step["type"] == "NormalizeImage":
            image = image * (1 / 255) if arguments["is_scale"] else image
            if arguments["norm_type"] == "mean_std":
                image = (image - arguments["mean"]) / arguments["std"]
        else:
            image = image.transpose(2, 0, 1)
    return image


PIXELS = np.random.default_rng(3).integers(0, 256, (64, 96, 3)).astype(float)


@pytest.mark.parametrize(
    "known",
    [IMAGENET, Preprocessing(), Preprocessing((5.0, 6.0, 7.0), (2.0, 3.0, 4.0), scale=False)],
)
def test_both_forms_feed_the_same_image(known: Preprocessing) -> None:
    said = as_paddledetection_reads(infer_cfg_text(infer_cfg(detector(preprocessing=known))))
    pixels = said["reparam"]["inputs"][0]["pixels"]
    assert pixels["formula"] == "x = (pixel * scale - mean) / std"
    by_formula = (PIXELS * pixels["scale"] - pixels["mean"]) / pixels["std"]
    assert not pixels["raw"]
    needed = (PIXELS * (1 / 255 if known.scale else 1) - known.mean) / known.std
    np.testing.assert_allclose(fed(said["Preprocess"], PIXELS), needed.transpose(2, 0, 1))
    np.testing.assert_allclose(by_formula, needed)


def test_raw_pixels_are_not_normalised_twice() -> None:
    said = infer_cfg(detector(normalization=PRESETS["ppyoloe"]))
    assert [step["type"] for step in said["Preprocess"]] == ["Resize", "NormalizeImage", "Permute"]
    assert np.array_equal(fed(said["Preprocess"], PIXELS), PIXELS.transpose(2, 0, 1))
    image = said["reparam"]["inputs"][0]
    assert image["pixels"]["raw"]
    assert (image["pixels"]["scale"], image["pixels"]["mean"], image["pixels"]["std"]) == (
        1.0, [0.0], [1.0],
    )  # fmt: skip
    assert image["in_the_file"]["mean"] == [0.485, 0.456, 0.406]
    assert image["channels"] == "RGB"


def test_turned_channels_stop_a_reader_that_cannot_turn_them() -> None:
    about = detector(normalization=replace(PRESETS["ppyoloe"], bgr=True))
    said = infer_cfg(about)
    assert said["reparam"]["inputs"][0]["channels"] == "BGR"
    with pytest.raises(KeyError, match="RGBToBGR"):
        fed(said["Preprocess"], PIXELS)


def test_what_is_not_known_is_not_said() -> None:
    lost = detector(preprocessing=None)
    assert not lost.has_infer_cfg
    assert infer_cfg(lost) is None
    image = contract(lost)["inputs"][0]
    assert image["channels"] is image["pixels"] is image["resize"] is None
    assert not image["assumed"]
    told = replace(lost, normalization=PRESETS["ppyoloe+"])
    assert told.has_infer_cfg
    assert infer_cfg(told)["Preprocess"][0]["interp"] == 2


def test_what_is_no_detector_has_no_file_of_its_own() -> None:
    about = Described(
        "repvgg_a0", "0" * 64, (32, 32), labels=5, usual=PRESETS["imagenet"],
        inputs=(Tensor("x", (1, 3, 32, 32), "float32"),),
        outputs=(Tensor("fetch_name_0", (1, 5), "float32"),),
    )  # fmt: skip
    assert infer_cfg(about) is None
    said = contract(about)
    assert said["classes"] == {"number": 5, "first": 0, "names": None}
    assert "logits" in said["outputs"][0]["meaning"]
    assert said["inputs"][0]["pixels"]["std"] == [0.229, 0.224, 0.225]
    assert said["boxes"] is said["strides"] is said["thresholds"] is None
    features = replace(about, labels=None, outputs=about.outputs * 2)
    assert [output["meaning"] for output in contract(features)["outputs"]] == [None, None]
    grey = replace(about, inputs=(Tensor("x", (1, 1, 32, 32), "float32"),))
    assert contract(grey)["inputs"][0]["channels"] is None


@pytest.mark.parametrize("head", HEADS)
def test_every_output_has_its_meaning(head: str) -> None:
    said = contract(detector(head))
    assert [output["name"] for output in said["outputs"]] == list(OUTPUTS[head])
    for output in said["outputs"]:
        axes = output["meaning"].split("):")[0].split(",")
        assert len([axis for axis in axes if axis]) == len(output["shape"])
    if head == RAW:
        assert said["boxes"]["projection"] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert "class logits" in said["outputs"][2]["meaning"]
        assert "4 * 5, H/16, W/16" in said["outputs"][3]["meaning"]
    else:
        assert said["boxes"] == {
            "format": "x1 y1 x2 y2",
            "unit": "pixels of the input",
            "clipped": False,
        }
    assert said["thresholds"]["in_the_file"] == (head == NMS)
    assert said["strides"] == [32, 16, 8]
    assert said["inputs"][0]["resize"] == {
        "size": [64, 96], "keep_ratio": False, "interpolation": "cubic", "opencv": 2,
        "multiple_of": 32,
    }  # fmt: skip


def test_the_layout_of_paddledetection() -> None:
    image = Tensor("image", ("batch", 3, "height", 96), "float32")
    about = detector(
        layout=PADDLEDETECTION,
        inputs=(image, Tensor("scale_factor", ("batch", 2), "float32")),
        outputs=(Tensor("a", ("M", 6), "float32"), Tensor("b", ("batch",), "int32")),
    )
    said = infer_cfg(about)
    assert said["use_dynamic_shape"] is True
    assert infer_cfg(detector())["use_dynamic_shape"] is False
    assert said["reparam"]["boxes"]["unit"] == "pixels of the original image"
    assert "height and width" in said["reparam"]["inputs"][1]["meaning"]
    assert "class, score, x1" in said["reparam"]["outputs"][0]["meaning"]


def test_another_number_of_outputs_or_another_head_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="zip"):
        contract(replace(detector(), outputs=detector(RAW).outputs))
    with pytest.raises(ValueError, match="no head 'mask'"):
        meanings_of(MAPS, "mask")


def test_names_and_thresholds() -> None:
    selection = Selection(1e-5, 0.6, 100, 1000)
    names = ["no", "1", "1e-05", "naïve", "猫", "a: b # c", "\x7f\t\"'\\", "~", "null"]
    about = detector(maps=replace(MAPS, classes=len(names)), classes=names, selection=selection)
    said = read(infer_cfg_text(infer_cfg(about)))
    assert said["label_list"] == said["reparam"]["classes"]["names"] == names
    assert said["NMS"] == {
        "name": "MultiClassNMS", "score_threshold": 1e-5, "nms_threshold": 0.6,
        "keep_top_k": 100, "nms_top_k": 1000,
    }  # fmt: skip
    assert said["reparam"]["thresholds"]["score_threshold"] == 1e-5
    assert infer_cfg(detector())["NMS"]["nms_top_k"] == -1
    assert infer_cfg(detector())["label_list"] == ["0", "1", "2"]
    assert "NMS" not in infer_cfg(detector(RAW, selection=None))


def test_metadata_are_the_same_values() -> None:
    about = detector()
    (text,) = as_metadata(about).values()
    assert json.loads(text) == infer_cfg(about)["reparam"] == contract(about)
    assert list(as_metadata(about)) == [METADATA]


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False,
    allow_infinity=False), st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))
)  # fmt: skip
KEYS = st.text("abcdef_", min_size=1, max_size=8)


@given(
    st.dictionaries(
        KEYS,
        st.recursive(
            LEAVES,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
            max_leaves=12,
        ),
        max_size=4,
    )
)
def test_the_text_is_json_and_yaml(values: dict[str, Any]) -> None:
    text = infer_cfg_text(values)
    assert text.isascii()
    assert read(text) == values


def test_plain_json_would_be_read_otherwise() -> None:
    assert yaml.safe_load(json.dumps({"score_threshold": 1e-5})) == {"score_threshold": "1e-05"}


def test_its_name(tmp_path: Any) -> None:
    assert infer_cfg_of(tmp_path / "model.onnx") == tmp_path / "model.infer_cfg.json"
    assert infer_cfg_of(tmp_path / "a.b") == tmp_path / "a.b.infer_cfg.json"


def test_a_normalisation_for_all_channels() -> None:
    image = contract(detector(normalization=Normalization((127.5,), (127.5,))))["inputs"][0]
    assert image["in_the_file"]["mean"] == [127.5]
