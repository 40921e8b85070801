"""Checkpoints recorded elsewhere become ONNX files that compute what was recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam import export
from reparam.adapters.closeness import closeness
from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.checkpoint import fuse_arrays
from reparam.exporter import ExportReport, export_onnx
from tests.adapters.recorded import Recorded, checkpoint, recorded
from tests.converter import needs_converter

pytestmark = needs_converter


@dataclass(frozen=True)
class Exported:
    report: ExportReport
    recorded: Recorded
    folder: Path
    steps: list[str]

    @property
    def bytes(self) -> bytes:
        return self.report.output.read_bytes()

    @property
    def proto(self) -> Any:
        return onnx.load_model_from_string(self.bytes)

    def run(self, *images: int) -> list[np.ndarray]:
        return run_onnx(load_strictly(self.bytes), self.recorded.input[list(images)])


def exported(folder: Path, case: str, **options: Any) -> Exported:
    network = recorded(case)
    saved = checkpoint(folder, network.state)
    steps: list[str] = []
    report = export_onnx(
        saved, folder / "net.onnx", input_size=network.size, progress=steps.append, **options
    )
    return Exported(report, network, folder, steps)


@pytest.fixture(scope="module")
def repvgg(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """RepVGG with a grouped layer, 37 x 45 pixels, any batch."""
    return exported(tmp_path_factory.mktemp("repvgg"), "clas_repvgg")


@pytest.fixture(scope="module")
def cspresnet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """CSPResNet with the large stem and alpha, 40 x 56 pixels, any batch, two outputs of three.

    No output needs the fourth stage.
    """
    settings = {"return_idx": [1, 2]}
    return exported(tmp_path_factory.mktemp("csp"), "det_cspresnet_alpha", settings=settings)


@pytest.fixture(scope="module")
def unfused(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The train-time form, BatchNorms and all, for two images, in another opset."""
    folder = tmp_path_factory.mktemp("unfused")
    return exported(folder, "clas_repvgg", fuse=False, batch=2, opset=13)


@pytest.fixture(params=["repvgg", "cspresnet", "unfused"])
def each(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def assert_close(truth: np.ndarray, reference: np.ndarray, found: np.ndarray) -> None:
    measured = closeness(truth, reference, found)
    assert measured.verdict == "equal", measured


def test_file_is_valid_and_loads_without_a_warning(each: Exported) -> None:
    check_model(each.bytes)
    load_strictly(each.bytes)


def test_nothing_but_the_file_is_left_and_the_input_is_untouched(each: Exported) -> None:
    assert sorted(p.name for p in each.folder.iterdir()) == ["net.onnx", "net.pdparams"]
    source = (each.folder / "net.pdparams").read_bytes()
    assert hashlib.sha256(source).hexdigest() == each.report.source_sha256


def test_progress_tells_the_steps(each: Exported) -> None:
    assert len(each.steps) == 3


@pytest.mark.parametrize("images", [(0,), (1,), (0, 1), (1, 0, 1)], ids=str)
def test_repvgg_computes_what_paddleclas_computed(
    images: tuple[int, ...], repvgg: Exported
) -> None:
    (found,) = repvgg.run(*images)
    (truth,), (reference,) = repvgg.recorded.truth, repvgg.recorded.reference
    assert_close(truth[list(images)], reference[list(images)], found)


@pytest.mark.parametrize("batch", [1, 3])
def test_cspresnet_computes_what_paddledet_computed(batch: int, cspresnet: Exported) -> None:
    outputs = cspresnet.run(*[0] * batch)
    network = cspresnet.recorded
    assert len(outputs) == 2
    for stage, found in zip((0, 1), outputs, strict=True):
        truth, reference = network.truth[stage], network.reference[stage]
        assert_close(np.repeat(truth, batch, 0), np.repeat(reference, batch, 0), found)


def test_unfused_computes_what_paddleclas_computed(unfused: Exported) -> None:
    (found,) = unfused.run(0, 1)
    assert_close(unfused.recorded.truth[0], unfused.recorded.reference[0], found)


def test_fused_repvgg_has_one_convolution_a_block(repvgg: Exported) -> None:
    report = repvgg.report
    assert report.blocks == report.fused_blocks == 6
    assert report.ops_after["Conv"] == 6
    assert report.ops_after["Relu"] == 6
    assert not {"BatchNormalization", "Constant", "Identity"} & set(report.ops_after)
    assert not {"Shape", "Slice", "Concat"} & set(report.ops_after)
    assert "Add" not in report.ops_after
    assert report.ops_after["Gemm"] == 1  # the classifier with its bias
    assert report.ops_before["Add"] == 7
    convs = [node for node in repvgg.proto.graph.node if node.op_type == "Conv"]
    assert all(len(node.input) == 3 for node in convs)


def test_fused_cspresnet_has_no_batch_norm_and_no_unneeded_stage(cspresnet: Exported) -> None:
    report = cspresnet.report
    assert (report.blocks, report.fused_blocks) == (5, 4)
    # stem 3; a stage: conv_down, conv1, conv2, attention, conv3, and two a block
    assert report.ops_after["Conv"] == 3 + 3 * 5 + 2 * 4
    stored = {tensor.name for tensor in cspresnet.proto.graph.initializer}
    assert not any(name.startswith("stages.3.") for name in stored)
    assert not {"BatchNormalization", "Constant", "Identity", "Reshape"} & set(report.ops_after)
    assert report.ops_after["Add"] == 4  # the residuals: no bias stands alone
    assert report.ops_after["HardSigmoid"] == 3


def test_unfused_keeps_branches_and_batch_norms(unfused: Exported) -> None:
    # 6 blocks of two convolutions, one of them with an identity branch
    report = unfused.report
    assert (report.blocks, report.fused_blocks) == (6, 0)
    assert report.ops_after["Conv"] == 12
    assert report.ops_after["BatchNormalization"] == 13
    assert not {"Constant", "Identity"} & set(report.ops_after)
    assert report.opset == 13


def test_weights_in_the_file_are_the_fused_ones_under_their_names(repvgg: Exported) -> None:
    fused, _ = fuse_arrays(repvgg.recorded.state)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in repvgg.proto.graph.initializer}
    for name, array in fused.items():
        np.testing.assert_array_equal(stored[name], array)
    assert repvgg.report.parameters == sum(array.size for array in fused.values())


@pytest.mark.parametrize("name", ["repvgg", "cspresnet"])
def test_interface(name: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(name)
    given, *outputs = made.proto.graph.input, *made.proto.graph.output
    assert [value.name for value in given] == [{"repvgg": "x", "cspresnet": "image"}[name]]
    assert [value.name for value in outputs] == [f"fetch_name_{i}" for i in range(len(outputs))]
    assert made.report.input.shape == ("batch", 3, *made.recorded.size)
    assert {value.shape[0] for value in made.report.outputs} == {"batch"}
    expected = [made.recorded.truth[i].shape[1:] for i in ([0] if name == "repvgg" else [0, 1])]
    assert [value.shape[1:] for value in made.report.outputs] == expected
    assert {value.dtype for value in made.report.outputs} == {"float32"}


def test_fixed_batch_is_fixed(unfused: Exported) -> None:
    assert unfused.report.input.shape == (2, 3, 37, 45)
    assert unfused.report.outputs[0].shape == (2, 10)


def test_file_says_where_it_comes_from(each: Exported) -> None:
    proto = each.proto
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert said["reparam.source_sha256"] == each.report.source_sha256
    assert said["reparam.architecture"] == each.report.architecture
    assert said["reparam.fused_blocks"] == str(each.report.fused_blocks)
    assert float(said["reparam.epsilon"]) == 1e-5
    assert proto.producer_name == "reparam"
    assert proto.producer_version == said["reparam.version"]


def test_report_is_json_and_within_its_own_bound(each: Exported) -> None:
    report = each.report
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert read["output"] == str(each.folder / "net.onnx")
    assert read["file_bytes"] == len(each.bytes)
    assert read["source_form"] == "train-time"
    assert report.worst.verdict == "equal"
    assert 0 < report.worst.distance <= report.worst.bound
    assert read["worst"]["output"] in {output["name"] for output in read["outputs"]}


def test_assumed_is_what_nobody_said(cspresnet: Exported) -> None:
    assert cspresnet.report.assumed == {"act": "swish", "trt": False, "epsilon": 1e-5}
    assert cspresnet.report.settings["return_idx"] == [1, 2]


def test_epsilon_reaches_fusing_folding_and_the_file(cspresnet: Exported, tmp_path: Path) -> None:
    """Exporting in deploy form does not depend on epsilon any more, so both are read from it."""
    made = exported(tmp_path, "det_cspresnet_alpha", epsilon=1e-3, batch=1)
    names = ["stem.conv1.conv.bias", "stages.0.blocks.0.conv2.conv.bias"]
    here, there = (
        {t.name: onnx.numpy_helper.to_array(t) for t in one.proto.graph.initializer}
        for one in (made, cspresnet)
    )
    for name in names:
        assert np.abs(here[name] - there[name]).max() > 1e-5
    said = {entry.key: entry.value for entry in made.proto.metadata_props}
    assert float(said["reparam.epsilon"]) == made.report.epsilon == 1e-3
    assert len(made.report.outputs) == 3


def test_exporting_again_gives_the_same_file_under_the_default_name(
    repvgg: Exported, tmp_path: Path
) -> None:
    saved = checkpoint(tmp_path, repvgg.recorded.state)
    report = export(saved.path, input_size=repvgg.recorded.size)
    assert report.output == tmp_path / "net.onnx"
    assert report.output.read_bytes() == repvgg.bytes
