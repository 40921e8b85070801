"""What is one operator in a graph becomes one before the file is written, and is checked as such.

The network has two branches that no block is known of, and a linear layer with a bias.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.adapters.paddle_models import import_paddle, state_of
from reparam.errors import ExportError, NotEquivalentError
from reparam.exporter import ExportReport, Network, Options, ending, export_network, onnx_export
from reparam.graph import global_pool, moves_plan, moves_regroup, rewriting
from reparam.graph.proving import Proof
from tests.converter import needs_converter
from tests.exporter.pair import assert_computes, images
from tests.models.helpers import randomise

paddle = import_paddle()
nn, F = paddle.nn, paddle.nn.functional
pytestmark = needs_converter

CHANNELS = 48
"""So many that the one convolution, and the wide one before it, are no light weights."""


class Branches(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, CHANNELS, 3, stride=2, padding=1)
        self.wide = nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1, bias_attr=False)
        self.wide_norm = nn.BatchNorm2D(CHANNELS)
        self.narrow = nn.Conv2D(CHANNELS, CHANNELS, 1, bias_attr=False)
        self.narrow_norm = nn.BatchNorm2D(CHANNELS)
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.first(x))
        x = F.relu(self.wide_norm(self.wide(x)) + self.narrow_norm(self.narrow(x)) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="module")
def network() -> Network:
    layer = randomise(Branches())
    layer.eval()
    return Network(
        name="branches", original=layer, exported=layer, input_name="image", channels=3,
        default_size=(20, 16), source=Path("branches.pdparams"), source_sha256="0" * 64,
        source_form="train-time",
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_network(network, tmp_path_factory.mktemp("ending") / "net.onnx", Options())


def weights_of(path: Path) -> dict[str, np.ndarray]:
    stored = onnx.load(path).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}


def assert_equal(network: Network, path: Path) -> None:
    x = images(2, 3, 20, 16)
    assert_computes(network, x, run_onnx(load_strictly(path), x))


def test_no_region_is_left_and_the_file_computes_the_network(
    network: Network, report: ExportReport
) -> None:
    assert report.ops_before["BatchNormalization"] == 2
    assert report.ops_after["Conv"] == 2
    assert report.ops_after["Gemm"] == 1
    assert not {"BatchNormalization", "Add", "MatMul"} & set(report.ops_after)
    assert [(one.kind, one.kernel) for one in report.fused_regions] == [
        ("fuse-branches", (3, 3)),
        ("fold-bias", ()),
    ]
    assert report.left_regions == ()
    assert report.worst.verdict == "equal"
    assert_equal(network, report.output)


def test_what_no_region_changed_has_its_name_and_its_bits(
    network: Network, report: ExportReport
) -> None:
    state, stored = state_of(network.exported), weights_of(report.output)
    for key in ("first.weight", "first.bias", "head.weight", "head.bias"):
        assert stored[key].tobytes() == state[key].tobytes()
    assert not any(key.startswith(("wide", "narrow")) for key in stored)
    assert sum(key not in state for key in stored) == 3  # a weight, a bias, a Reshape's target


def test_shapes_inferred_on_the_way_are_not_in_the_file(report: ExportReport) -> None:
    model = onnx.load(report.output)
    told = {value.name for value in model.graph.value_info}
    assert "head.weight" in told  # as the converter writes it
    assert not any(name.startswith(report.fused_regions[0].where + ".") for name in told)


def test_report_is_json(report: ExportReport) -> None:
    told = json.loads(json.dumps(report.to_json()))
    assert told["fused_regions"][0]["after"] == {"Conv": 1}
    assert told["left_regions"] == []


def test_the_form_of_the_checkpoint_is_kept_if_asked_for_and_said(
    network: Network, tmp_path: Path
) -> None:
    kept = export_network(replace(network, finish=False), tmp_path / "net.onnx", Options())
    assert kept.ops_after["BatchNormalization"] == 2
    assert kept.ops_after["Conv"] == 3
    assert kept.fused_regions == ()
    assert {one.kind for one in kept.left_regions} == {"fuse-branches", "fold-bias"}
    assert {one.reason for one in kept.left_regions} == {ending.AS_ASKED}
    state, stored = state_of(network.exported), weights_of(kept.output)
    assert {key for key in stored if key in state} == set(state)


def test_weights_in_a_second_file_and_in_float16(network: Network, tmp_path: Path) -> None:
    options = Options(precision="float16", external_data=True)
    narrow = export_network(network, tmp_path / "net.onnx", options)
    assert narrow.ops_after["Conv"] == 2
    assert narrow.data_bytes > 2 * 9 * CHANNELS**2
    stored = weights_of(narrow.output)
    made = stored[f"{narrow.fused_regions[0].where}.weight"]
    assert made.dtype == np.float16
    assert made.shape == (CHANNELS, CHANNELS, 3, 3)
    assert narrow.worst.verdict == "equal"


def test_what_is_not_proved_stays_and_is_told(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(*_: Any, **__: Any) -> Proof:
        return Proof(False, 1.0, 0.5, 2.0, "corner", (0, 0, 0, 0))

    for module in (rewriting, moves_plan, moves_regroup, global_pool):
        monkeypatch.setattr(module, "prove", prove)
    told = export_network(network, tmp_path / "net.onnx", Options())
    assert told.ops_after["BatchNormalization"] == 2
    assert told.ops_after["MatMul"] == 1
    assert told.fused_regions == ()
    assert told.left_regions
    assert all("0.5 is allowed" in one.reason for one in told.left_regions)
    assert_equal(network, told.output)


@pytest.mark.parametrize("wrong", ["a whole channel", "one tap"])
def test_a_wrong_fuser_is_caught_by_the_outputs(
    wrong: str, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ending.fuse_graph

    def fuse_wrongly(model: Any, *given: Any) -> Any:
        told = real(model, *given)
        value = model.graph.initializers[f"{told.fused[0].where}.weight"]
        weight = value.const_value.numpy().copy()
        if wrong == "one tap":
            weight[:, :, 0, 0] = 0.0
        else:
            weight[3] *= 1.5
        value.const_value = onnx_ir.tensor(weight, name=value.name)
        return told

    monkeypatch.setattr(ending, "fuse_graph", fuse_wrongly)
    with pytest.raises(NotEquivalentError, match="is not that of the network"):
        export_network(network, tmp_path / "net.onnx", Options())
    assert not list(tmp_path.iterdir())


def test_a_made_weight_that_is_written_wrong_is_caught_whatever_the_outputs_show(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_export.write_model

    def write(proto: Any, weights: Any, *given: Any) -> None:
        changed = {name: array.copy() for name, array in weights.items()}
        made = next(name for name in changed if name not in state_of(network.exported))
        changed[made][0, 0, 0, 0] = np.nextafter(changed[made][0, 0, 0, 0], np.float32(9))
        real(proto, changed, *given)

    monkeypatch.setattr(onnx_export, "write_model", write)
    with pytest.raises(ExportError) as caught:
        export_network(network, tmp_path / "net.onnx", Options())
    assert "not as in the network" in caught.value.found


def test_nothing_to_fuse_leaves_the_same_model(network: Network, tmp_path: Path) -> None:
    class Plain(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2D(3, 4, 3)

        def forward(self, x: Any) -> Any:
            return F.relu(self.conv(x))

    layer = randomise(Plain())
    layer.eval()
    plain = replace(network, original=layer, exported=layer)
    fused, kept = (
        export_network(replace(plain, finish=finish), tmp_path / f"{finish}.onnx", Options())
        for finish in (True, False)
    )
    assert fused.fused_regions == fused.left_regions == kept.left_regions == ()
    assert fused.output.read_bytes() == kept.output.read_bytes()


def test_a_program_beside_the_file_is_not_fused_and_that_is_said(
    network: Network, tmp_path: Path
) -> None:
    program = tmp_path / "net.json"
    told = export_network(network, tmp_path / "net.onnx", Options(paddle=program))
    assert told.paddle.worst.verdict == "equal"
    (notice,) = told.notices
    assert notice.startswith("the program for Paddle Inference keeps 2 region(s)")
