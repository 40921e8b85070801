"""The contract appears with its file or not at all, and is of that file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from reparam.adapters.onnx_model import Interface, Value
from reparam.checkpoint import load_checkpoint
from reparam.detection.classes import Classes
from reparam.detection.records import IMAGENET_MEAN, IMAGENET_STD, RAW, Preprocessing
from reparam.errors import ExportError, OutputError
from reparam.exporter import (
    Network,
    Options,
    export_network,
    exporting,
    network_of,
    onnx_export,
)
from reparam.exporter.contract import METADATA, Described
from reparam.exporter.describing import check_described, describe, with_interface
from reparam.exporter.raw_pixels import taking_raw_pixels
from tests.converter import needs_converter
from tests.models.structures import CSP, PPYOLOE, layout_of
from tests.weights import cspresnet_arrays, random_arrays, repvgg_arrays, write

pytestmark = needs_converter

SIZE = (64, 96)
BACKBONE = CSP((1, 1, 1, 1), (8, 8, 16, 16, 16), False, True)
DETECTOR = PPYOLOE(BACKBONE, (16, 8), neck_blocks=1, spp=False, num_classes=5, bins=5)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("classifier")
    return network_of(load_checkpoint(write(folder, repvgg_arrays())))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Two maps, (N, 16, H/4, W/4) and (N, 24, H/8, W/8)."""
    folder = tmp_path_factory.mktemp("backbone")
    checkpoint = load_checkpoint(write(folder, cspresnet_arrays()))
    return network_of(checkpoint, settings={"return_idx": [0, 1]})


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Network:
    arrays = random_arrays(layout_of(DETECTOR).shapes())
    return network_of(load_checkpoint(write(tmp_path_factory.mktemp("detector"), arrays)))


def made(network: Network, folder: Path, **options: Any) -> Any:
    return export_network(network, folder / "net.onnx", Options(input_size=SIZE, **options))


def contract_in(path: Path) -> dict[str, Any]:
    props = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    return json.loads(props[METADATA])


def test_a_classifier_says_it_in_its_metadata(classifier: Network, tmp_path: Path) -> None:
    report = made(
        classifier, tmp_path, precision="float16", keep_io=False, output_names=["scores"],
        dynamic=["height"],
    )  # fmt: skip
    said = contract_in(report.output)
    assert report.contract is None
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert said["inputs"][0]["shape"] == [1, 3, "height", 96]
    assert said["inputs"][0]["dtype"] == said["outputs"][0]["dtype"] == "float16"
    assert said["inputs"][0]["pixels"]["mean"] == [0.485, 0.456, 0.406]
    assert said["outputs"][0]["name"] == "scores"
    assert said["source_sha256"] == report.source_sha256
    assert said["classes"]["number"] == 5


def test_a_backbone_does_not_say_what_is_not_known(backbone: Network, tmp_path: Path) -> None:
    said = contract_in(made(backbone, tmp_path).output)
    assert said["inputs"][0]["pixels"] is said["classes"] is None
    assert [output["meaning"] for output in said["outputs"]] == [None, None]


class TestFileOfADetector:
    def test_beside_the_file(self, detector: Network, tmp_path: Path) -> None:
        names = Classes(5, ("cat", "dog", "owl", "fox", "bat"))
        report = made(detector, tmp_path, batch=2, fold_normalize="", classes=names)
        assert report.contract == tmp_path / "net.infer_cfg.json"
        assert json.loads(json.dumps(report.to_json()))["contract"] == str(report.contract)
        said = json.loads(report.contract.read_text())
        assert said["reparam"] == contract_in(report.output)
        _, step, _ = said["Preprocess"]
        assert (step["mean"], step["std"], step["is_scale"]) == ([0] * 3, [1] * 3, False)
        assert said["label_list"] == list(names.names)
        outputs = said["reparam"]["outputs"]
        assert [output["name"] for output in outputs] == ["boxes", "scores", "classes", "count"]
        assert outputs[0]["shape"] == [2, 300, 4]

    def test_refused_if_there_is_one(self, detector: Network, tmp_path: Path) -> None:
        there = tmp_path / "net.infer_cfg.json"
        there.write_text("old")
        with pytest.raises(OutputError, match=r"net.infer_cfg.json' exists already"):
            made(detector, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [there.name]
        made(detector, tmp_path, force=True, head=RAW)
        assert "class logits" in json.loads(there.read_text())["reparam"]["outputs"][0]["meaning"]

    def test_not_without_its_file(
        self, detector: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise ExportError("the disk burns")

        monkeypatch.setattr(exporting, "make_paddle", fail)
        with pytest.raises(ExportError, match="burns"):
            made(detector, tmp_path, paddle=tmp_path / "net.json", head=RAW)
        assert list(tmp_path.iterdir()) == []

    def test_not_where_nobody_knows_how_images_are_normalised(
        self, detector: Network, tmp_path: Path
    ) -> None:
        lost = replace(detector, assumed={"use_alpha": False})
        old = tmp_path / "net.infer_cfg.json"
        old.write_text("old")
        report = made(lost, tmp_path, head=RAW)
        assert report.contract is None
        assert old.read_text() == "old"
        assert report.notices[-1] == f"'{old}' was there before, and says nothing of this file"
        assert any("no net.infer_cfg.json is written" in notice for notice in report.notices)
        assert contract_in(report.output)["inputs"][0]["pixels"] is None

    def test_what_is_known_of_it(self, detector: Network) -> None:
        plain = replace(detector, settings={**detector.settings, "use_alpha": False})
        lost = replace(detector, assumed={"use_alpha": False})
        given = Preprocessing((1.0,) * 3, (2.0,) * 3, scale=False, keep_ratio=True)
        for network, options, known, assumed in (
            (detector, Options(), Preprocessing(), True),
            (plain, Options(), Preprocessing(IMAGENET_MEAN, IMAGENET_STD), True),
            (lost, Options(), None, True),
            (lost, Options(preprocessing=given), given, False),
        ):
            about = describe(network, options)
            assert (about.preprocessing, about.assumed) == (known, assumed)
            assert about.has_infer_cfg == (known is not None)
        told, options = taking_raw_pixels(lost, Options(preprocessing=given, fold_normalize=""))
        assert options.normalization.mean == (1.0,) * 3
        assert options.normalization.scale == 1.0
        assert "as the configuration says" in told.notices[-1]


def test_the_contract_of_another_file_is_refused(
    classifier: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_export.with_interface

    def other(*given: Any) -> Described:
        about = real(*given)
        return replace(about, outputs=(replace(about.outputs[0], dtype="float64"),))

    monkeypatch.setattr(onnx_export, "with_interface", other)
    with pytest.raises(ExportError, match="the contract of the file has not its outputs"):
        made(classifier, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_compared_as_outputs_are(classifier: Network) -> None:
    image, scores = Value("x", (1, 3, 64, 96), "float32"), Value("y", (1, 5), "float32")
    interface = Interface((image,), (scores,), 17, 8, 0)
    about = with_interface(describe(classifier, Options()), interface, ["w"])
    check_described(about, interface)
    for changed in ({"name": "z"}, {"shape": (1, 3, 64, 64)}, {"dtype": "float16"}):
        other = replace(interface, inputs=(replace(image, **changed),))
        with pytest.raises(ExportError, match="has not its inputs"):
            check_described(about, other)
