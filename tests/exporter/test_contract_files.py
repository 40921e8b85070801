"""The contract appears with its file or not at all, and is of that file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from reparam.checkpoint import load_checkpoint
from reparam.detection.records import RAW, Maps, Preprocessing
from reparam.errors import ExportError, OutputError
from reparam.exporter import (
    Network,
    Options,
    Tensor,
    describing,
    export_network,
    exporting,
    network_of,
    onnx_export,
)
from reparam.exporter.contract import METADATA, Described
from tests.converter import needs_converter
from tests.weights import cspresnet_arrays, repvgg_arrays, write

pytestmark = needs_converter

MAPS = Maps((4,), 8, (0.0, 1.0, 2.0, 3.0))  # 8 classes, and 4 times 4 bins


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


@pytest.fixture
def as_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two outputs are taken for the maps of one level."""
    real = describing.describe

    def describe(*given: Any) -> Described:
        return replace(real(*given), maps=MAPS, head=RAW, preprocessing=Preprocessing())

    for module in (onnx_export, exporting):
        monkeypatch.setattr(module, "describe", describe)


def made(network: Network, folder: Path, **options: Any) -> Any:
    return export_network(network, folder / "net.onnx", Options(input_size=(32, 40), **options))


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
    assert said["inputs"][0]["shape"] == [1, 3, "height", 40]
    assert said["inputs"][0]["dtype"] == said["outputs"][0]["dtype"] == "float16"
    assert said["inputs"][0]["pixels"]["mean"] == [0.485, 0.456, 0.406]
    assert said["outputs"][0]["name"] == "scores"
    assert said["source_sha256"] == report.source_sha256
    assert said["classes"]["number"] == 5


def test_a_backbone_does_not_say_what_is_not_known(backbone: Network, tmp_path: Path) -> None:
    said = contract_in(made(backbone, tmp_path).output)
    assert said["inputs"][0]["pixels"] is said["classes"] is None
    assert [output["meaning"] for output in said["outputs"]] == [None, None]


@pytest.mark.usefixtures("as_detector")
class TestFileOfADetector:
    def test_beside_the_file(self, backbone: Network, tmp_path: Path) -> None:
        report = made(backbone, tmp_path, batch=2, fold_normalize="ppyoloe+")
        assert report.contract == tmp_path / "net.infer_cfg.json"
        assert json.loads(json.dumps(report.to_json()))["contract"] == str(report.contract)
        said = json.loads(report.contract.read_text())
        assert said["reparam"] == contract_in(report.output)
        assert [step["type"] for step in said["Preprocess"]] == ["Resize", "Permute"]
        assert said["reparam"]["outputs"][1]["shape"] == [2, 24, 4, 5]

    def test_refused_if_there_is_one(self, backbone: Network, tmp_path: Path) -> None:
        there = tmp_path / "net.infer_cfg.json"
        there.write_text("old")
        with pytest.raises(OutputError, match=r"net.infer_cfg.json' exists already"):
            made(backbone, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [there.name]
        made(backbone, tmp_path, force=True)
        assert json.loads(there.read_text())["arch"] == "YOLO"

    def test_not_without_its_file(
        self, backbone: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise ExportError("the disk burns")

        monkeypatch.setattr(exporting, "make_paddle", fail)
        with pytest.raises(ExportError, match="burns"):
            made(backbone, tmp_path, paddle=tmp_path / "net.json")
        assert list(tmp_path.iterdir()) == []

    def test_not_for_a_program_alone(self, backbone: Network, tmp_path: Path) -> None:
        program = tmp_path / "net.json"
        report = export_network(
            backbone, None, Options(input_size=(32, 40), paddle=program, batch=1)
        )
        assert report.contract is None
        assert not (tmp_path / "net.infer_cfg.json").exists()


@pytest.mark.parametrize("wrong", ["inputs", "outputs"])
def test_the_contract_of_another_file_is_refused(
    wrong: str, classifier: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_export.with_interface

    def other(*given: Any) -> Described:
        return replace(real(*given), **{wrong: (Tensor("y", (1, 3, 32, 40), "float64"),)})

    monkeypatch.setattr(onnx_export, "with_interface", other)
    with pytest.raises(ExportError, match=f"the contract of the file has not its {wrong}"):
        made(classifier, tmp_path)
    assert list(tmp_path.iterdir()) == []
