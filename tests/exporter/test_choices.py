"""What an export may be told: open axes, opset, names, precision, where the weights go."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_files import weights_in
from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.adapters.paddle_models import import_paddle, state_of
from reparam.errors import ExportError, OutputError
from reparam.exporter import ExportReport, Network, Options, export_network
from tests.converter import needs_converter
from tests.exporter.pair import assert_computes, images, pair

paddle = import_paddle()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return pair(tmp_path_factory.mktemp("pair"))


def exported(network: Network, folder: Path, **options: Any) -> ExportReport:
    return export_network(network, folder / "net.onnx", Options(**options))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@needs_converter
@pytest.mark.parametrize("opset", range(11, 22))
def test_every_opset(opset: int, network: Network, tmp_path: Path) -> None:
    report = exported(network, tmp_path, opset=opset)
    header = onnx.load(str(report.output))
    assert [entry.version for entry in header.opset_import if not entry.domain] == [opset]
    assert report.opset == opset
    assert report.fused_blocks == report.blocks == 10
    x = images(3, 3, 32, 40)
    assert_computes(network, x, run_onnx(load_strictly(report.output), x))


@pytest.fixture(scope="module")
def any_size(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    folder = tmp_path_factory.mktemp("any")
    return exported(network, folder, dynamic=["batch", "height", "width"])


@needs_converter
def test_open_axes_have_names(any_size: ExportReport) -> None:
    assert any_size.input.shape == ("batch", 3, "height", "width")
    assert [output.shape for output in any_size.outputs] == [
        ("batch", 5),
        ("batch", 16, "height_4", "width_4"),
        ("batch", 24, "height_8", "width_8"),
    ]


@needs_converter
@pytest.mark.parametrize(
    "shape", [(1, 32, 32), (2, 33, 47), (3, 8, 97), (1, 200, 31), (2, 1, 1)], ids=str
)
def test_open_axes_take_any_size(
    shape: tuple[int, int, int], network: Network, any_size: ExportReport
) -> None:
    batch, height, width = shape
    x = images(batch, 3, height, width)
    outputs = run_onnx(load_strictly(any_size.output), x)
    assert_computes(network, x, outputs)
    for stride, output in zip((4, 8), outputs[1:], strict=True):  # what the names say
        assert output.shape[2:] == (-(-height // stride), -(-width // stride))


@needs_converter
def test_one_open_axis_leaves_the_others_fixed(network: Network, tmp_path: Path) -> None:
    report = exported(network, tmp_path, dynamic=["width"], batch=2)
    assert report.input.shape == (2, 3, 32, "width")
    assert report.outputs[2].shape == (2, 24, 4, "width_8")
    x = images(2, 3, 32, 55)
    assert_computes(network, x, run_onnx(load_strictly(report.output), x))
    with pytest.raises(ExportError, match="cannot run"):
        run_onnx(load_strictly(report.output), images(2, 3, 33, 55))


@needs_converter
def test_outputs_get_the_names_asked_for(network: Network, tmp_path: Path) -> None:
    names = ["scores", "Relu.1", "p4"]  # the second is what the graph calls a value inside
    report = exported(network, tmp_path, output_names=names, batch=1)
    assert [output.name for output in report.outputs] == names
    session = load_strictly(report.output)
    assert [output.name for output in session.get_outputs()] == names
    assert_computes(network, images(1, 3, 32, 40), run_onnx(session, images(1, 3, 32, 40)))


@needs_converter
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"output_names": ["a", "b"]}, "2 names; needed: 3"),
        ({"output_names": ["a", "a", "b"]}, "both be named 'a'"),
        ({"output_names": ["a", "", "b"]}, "no name"),
        ({"output_names": ["a", "image", "b"]}, "cannot be named 'image'"),
        ({"output_names": ["a", "first.linear.bias", "b"]}, "cannot be named 'first.linear.bias'"),
        ({"dynamic": ["depth"]}, "no axis 'depth'"),
        ({"dynamic": ["batch", "width"], "batch": 4}, "fixed and open"),
        ({"precision": "float8"}, "float8"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_choices_that_cannot_be(
    options: dict[str, Any], match: str, network: Network, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=match):
        exported(network, tmp_path, **options)
    assert names_in(tmp_path) == []


@needs_converter
def test_file_says_what_was_done(any_size: ExportReport) -> None:
    said = {entry.key: entry.value for entry in onnx.load(str(any_size.output)).metadata_props}
    source = hashlib.sha256(any_size.source.read_bytes()).hexdigest()
    assert said["reparam.source_sha256"] == source
    assert said["reparam.blocks"].split()[0] == "first.stage0"
    assert len(said["reparam.blocks"].split()) == int(said["reparam.fused_blocks"]) == 10
    assert said["reparam.dynamic_axes"] == "batch height width"
    assert said["reparam.input_size"] == "32x40"
    assert said["reparam.precision"] == "float32"
    for name in ("paddlepaddle", "paddle2onnx", "onnx"):
        assert said[f"reparam.made_with.{name}"]


@pytest.fixture(scope="module")
def outside(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return exported(network, tmp_path_factory.mktemp("outside"), external_data=True)


@needs_converter
def test_weights_in_a_second_file(network: Network, outside: ExportReport) -> None:
    assert outside.data == outside.output.with_name("net.onnx.data")
    assert names_in(outside.output.parent) == ["net.onnx", "net.onnx.data"]
    assert outside.data_bytes == outside.data.stat().st_size
    check_model(outside.output)
    x = images(2, 3, 32, 40)
    assert_computes(network, x, run_onnx(load_strictly(outside.output), x))
    tensors = onnx.load(str(outside.output), load_external_data=False).graph.initializer
    beside = [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    assert len(beside) > 10
    for tensor in beside:
        where = {entry.key: entry.value for entry in tensor.external_data}
        assert where["location"] == "net.onnx.data"
        assert int(where["offset"]) % 4096 == 0


@needs_converter
def test_pair_of_files_may_be_moved_together(outside: ExportReport, tmp_path: Path) -> None:
    for path in (outside.output, outside.data):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    load_strictly(tmp_path / "net.onnx")
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ExportError, match="cannot load"):
        open_session(tmp_path / "net.onnx")


@needs_converter
def test_weights_that_do_not_fit_into_one_file_go_into_two(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reparam.exporter.onnx_export.LIMIT", 1000)
    report = exported(network, tmp_path)
    assert names_in(tmp_path) == ["net.onnx", "net.onnx.data"]
    assert report.file_bytes < report.data_bytes


@needs_converter
def test_two_files_or_none(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx.data").write_bytes(b"somebody else's")
    with pytest.raises(OutputError, match="exists already"):
        exported(network, tmp_path, external_data=True)
    (tmp_path / "net.onnx").write_bytes(b"old")

    failures = iter([True])

    def fail(path: Path) -> None:
        if path.name == "net.onnx" and next(failures, False):
            raise PermissionError(13, "Permission denied")

    move = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: fail(b) or move(a, b))
    with pytest.raises(OutputError, match="Permission denied"):
        exported(network, tmp_path, external_data=True, force=True)
    assert names_in(tmp_path) == ["net.onnx", "net.onnx.data"]
    assert (tmp_path / "net.onnx.data").read_bytes() == b"somebody else's"
    assert (tmp_path / "net.onnx").read_bytes() == b"old"


@pytest.fixture(scope="module")
def narrow(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return exported(network, tmp_path_factory.mktemp("narrow"), precision="float16")


@needs_converter
def test_float16_network_has_float32_around_it(network: Network, narrow: ExportReport) -> None:
    assert narrow.precision == "float16"
    assert {tensor.dtype for tensor in (narrow.input, *narrow.outputs)} == {"float32"}
    assert narrow.ops_after["Cast"] == 4
    kinds = {array.dtype.name for _, array in weights_in(narrow.output)}
    assert kinds == {"float16", "int64"}
    x = images(2, 3, 32, 40)
    outputs = run_onnx(load_strictly(narrow.output), x)
    assert_computes(network, x, outputs, computed_in="float16")
    assert narrow.worst.verdict == narrow.float16.float32.verdict == "equal"
    assert narrow.worst.distance > 100 * narrow.float16.float32.distance  # it is float16 indeed


@needs_converter
def test_float16_weights_are_rounded_once(network: Network, narrow: ExportReport) -> None:
    exact = network.exact()
    single = state_of(network.exported)
    stored = dict(weights_in(narrow.output))
    for key, array in exact.items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array.astype(np.float32), single[key])
        np.testing.assert_array_equal(stored[key], array.astype(np.float16))
    subnormal = sum(
        int(((np.abs(a) < 2.0**-14) & (a != 0)).sum())
        for a in stored.values()
        if a.dtype.kind == "f"
    )
    assert narrow.float16.subnormal == subnormal > 0


@needs_converter
def test_float16_outside_too(network: Network, tmp_path: Path) -> None:
    report = exported(network, tmp_path, precision="float16", keep_io=False, external_data=True)
    assert {tensor.dtype for tensor in (report.input, *report.outputs)} == {"float16"}
    assert "Cast" not in report.ops_after
    x = images(2, 3, 32, 40).astype(np.float16)
    outputs = run_onnx(load_strictly(report.output), x)
    assert_computes(network, x.astype(np.float32), outputs, computed_in="float16")


@pytest.fixture(scope="module")
def both(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    folder = tmp_path_factory.mktemp("both")
    return exported(network, folder, paddle=folder / "deploy.json", dynamic=["batch", "height"])


@needs_converter
def test_program_for_paddle_inference(network: Network, both: ExportReport) -> None:
    from reparam.adapters.paddle_files import open_predictor, run_predictor

    made = both.paddle
    assert names_in(made.program.parent) == ["deploy.json", "deploy.pdiparams", "net.onnx"]
    assert made.worst.verdict == "equal"
    assert made.input.shape == ("batch", 3, "height", 40)
    assert [output.name for output in made.outputs] == [f"fetch_name_{i}" for i in range(3)]
    predictor = open_predictor(made.program, made.parameters)
    for x in (images(1, 3, 32, 40), images(3, 3, 51, 40)):
        assert_computes(network, x, run_predictor(predictor, x))
    assert json.loads(json.dumps(both.to_json()))["paddle"]["program"] == str(made.program)


@needs_converter
@pytest.mark.parametrize(
    ("program", "match"),
    [("net.onnx.json", None), ("net.json", "two files"), ("deploy", "ending .json")],
)
def test_names_of_a_program(
    program: str, match: str | None, network: Network, tmp_path: Path
) -> None:
    output = tmp_path / ("net.json" if match == "two files" else "net.onnx")
    if match:
        with pytest.raises(OutputError, match=match):
            export_network(network, output, Options(paddle=tmp_path / program))
        assert names_in(tmp_path) == []
        return
    export_network(network, output, Options(paddle=tmp_path / program))
    assert names_in(tmp_path) == ["net.onnx", "net.onnx.json", "net.onnx.pdiparams"]


@needs_converter
def test_network_that_does_not_run_at_another_size(network: Network, tmp_path: Path) -> None:
    picky = replace(network, original=Picky(network.original), any_size=False)
    with pytest.raises(ExportError, match=r"cannot be run on images of shape \(2, 3, 64, 40\)"):
        export_network(picky, tmp_path / "x.onnx", Options(dynamic=["batch", "height"]))
    assert names_in(tmp_path) == []


class Picky(paddle.nn.Layer):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        if x.shape[2] != 32:
            raise ValueError("only 32 pixels")
        return self.network(x)


@needs_converter
def test_program_loads_as_a_paddle_layer(network: Network, both: ExportReport) -> None:
    layer = paddle.jit.load(str(both.paddle.program.with_suffix("")))
    layer.eval()
    x = images(2, 3, 40, 40)
    assert_computes(network, x, [t.numpy() for t in layer(paddle.to_tensor(x))])


def test_program_alone_needs_no_converter(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = export_network(network, None, Options(paddle=tmp_path / "x.json", batch=1))
    assert names_in(tmp_path) == ["x.json", "x.pdiparams"]
    assert (report.output, report.opset, report.fused_blocks) == (None, None, 10)
    assert report.parameters == sum(a.size for a in state_of(network.exported).values())


@needs_converter
def test_unfused_float16_keeps_its_batch_norms(tmp_path: Path) -> None:
    network = pair(tmp_path, fuse=False)
    report = exported(network, tmp_path, precision="float16", batch=1)
    assert report.ops_after["BatchNormalization"] > 20
    assert report.worst.verdict == "equal"
