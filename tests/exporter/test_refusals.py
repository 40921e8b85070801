"""An export that cannot be right, or is interrupted, leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from reparam.adapters.closeness import Closeness, closeness
from reparam.adapters.converter import Converter
from reparam.adapters.onnx_checks import load_strictly
from reparam.checkpoint import Checkpoint, fuse_arrays
from reparam.errors import (
    CheckpointError,
    ExportError,
    NotEquivalentError,
    OutputError,
    ReparamError,
    UnsupportedModelError,
)
from reparam.exporter import checking, export_onnx, exporting, onnx_export
from reparam.exporter.checking import check_operators, check_weights
from tests.adapters.recorded import checkpoint, recorded
from tests.converter import needs_converter

pytestmark = needs_converter


SIZE = recorded("clas_repvgg").size


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the converter makes of the recorded RepVGG, kept so that it runs once here."""
    kept: list[bytes] = []
    result = Converter.result

    def keep(converter: Converter, timeout: float) -> bytes:
        kept.append(result(converter, timeout))
        return kept[-1]

    folder = tmp_path_factory.mktemp("raw")
    saved = checkpoint(folder, recorded("clas_repvgg").state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Converter, "result", keep)
        export_onnx(saved, folder / "net.onnx", input_size=SIZE)
    return kept[0]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """The recorded RepVGG, alone in its folder; temporary files go where a test can see them."""
    temporary, folder = tmp_path / "temporary", tmp_path / "folder"
    temporary.mkdir()
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return checkpoint(folder, recorded("clas_repvgg").state)


def left_behind(saved: Checkpoint) -> list[str]:
    temporary = saved.path.parents[1] / "temporary"
    return sorted(p.name for p in (*saved.path.parent.iterdir(), *temporary.iterdir()))


def refuse(
    saved: Checkpoint, kind: type[BaseException], match: str | None = None, **options: Any
) -> BaseException:
    """Export, see it refused, and see that nothing changed."""
    before = saved.path.read_bytes()
    with pytest.raises(kind, match=match) as caught:
        export_onnx(saved, saved.path.with_name("net.onnx"), input_size=SIZE, **options)
    assert left_behind(saved) == ["net.pdparams"]
    assert saved.path.read_bytes() == before
    return caught.value


def patch_converter(monkeypatch: pytest.MonkeyPatch, made: bytes | BaseException) -> None:
    class Fake(Converter):
        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def start(self) -> None:
            assert all(path.is_file() for path in self.inputs)

        def result(self, timeout: float) -> bytes:
            if isinstance(made, BaseException):
                raise made
            return made

    monkeypatch.setattr(exporting, "Converter", Fake)


@pytest.mark.parametrize("error", [ExportError("the converter failed"), KeyboardInterrupt()])
def test_failed_or_interrupted_conversion(
    error: BaseException, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_converter(monkeypatch, error)
    assert refuse(saved, type(error)) is error


@pytest.mark.parametrize("made", [b"", b"garbage"])
def test_conversion_that_gives_no_model(
    made: bytes, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_converter(monkeypatch, made)
    refuse(saved, ExportError, "not an ONNX model")


def tampered(raw: bytes, how: Callable[[Any], None]) -> bytes:
    model = onnx.load_model_from_string(raw)
    how(model.graph)
    return bytes(model.SerializeToString())


def change_a_weight(graph: Any) -> None:
    """Change one tap of one kernel in its last bit: no output would show it."""
    for node in graph.node:
        value = node.attribute[0].t if node.op_type == "Constant" else None
        if value is not None and len(value.dims) == 4:
            array = numpy_helper.to_array(value).copy()
            array[0, 0, 1, 1] = np.nextafter(array[0, 0, 1, 1], np.float32(0))
            value.CopyFrom(numpy_helper.from_array(array))
            return


def drop_a_relu(graph: Any) -> None:
    next(n for n in graph.node if n.op_type == "Relu").op_type = "Identity"


def change_padding(graph: Any) -> None:
    conv = next(n for n in graph.node if n.op_type == "Conv")
    pads = next(a for a in conv.attribute if a.name == "pads")
    pads.ints[:] = [0, 0, 2, 2]  # the output keeps its shape


def add_an_output(graph: Any) -> None:
    graph.output.append(helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, ["N", 10]))
    graph.node.append(helper.make_node("Relu", ["fetch_name_0"], ["extra"]))


def add_a_convolution(graph: Any) -> None:
    first = next(n for n in graph.node if n.op_type == "Conv")
    second = type(first)()
    second.CopyFrom(first)
    second.name, second.output[0] = "second", "also"
    graph.node.insert(list(graph.node).index(first) + 1, second)
    add = next(n for n in graph.node if n.op_type == "Relu")
    half = helper.make_node("Max", [add.input[0], "also"], ["both"])
    graph.node.insert(list(graph.node).index(add), half)
    add.input[0] = "both"


TAMPERED = {
    "a weight": (change_a_weight, ExportError, "is not the network"),
    "no Relu": (drop_a_relu, NotEquivalentError, "is not that of the network"),
    "padding": (change_padding, NotEquivalentError, "is not that of the network"),
    "an output": (add_an_output, ExportError, "is not the network"),
    "a convolution": (add_a_convolution, ExportError, "is not the network"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_converter_that_writes_another_network(
    name: str, raw: bytes, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, kind, message = TAMPERED[name]
    patch_converter(monkeypatch, tampered(raw, how))
    refuse(saved, kind, message)


def test_network_that_overflows(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    huge = {k: v * np.float32(1e18) if v.ndim == 4 else v for k, v in saved.arrays.items()}
    patch_converter(monkeypatch, raw)
    monkeypatch.setattr(onnx_export, "check_file", lambda path, *_: load_strictly(path))
    again = checkpoint(saved.path.parent, huge)
    refuse(again, NotEquivalentError, "not finite on a made-up image")


def test_undecidable_comparison_is_reported_and_no_refusal(
    raw: bytes, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecidable(truth: Any, reference: Any, candidate: Any, **_: Any) -> Closeness:
        return replace(closeness(truth, reference, candidate), verdict="undecidable")

    patch_converter(monkeypatch, raw)
    monkeypatch.setattr(checking, "closeness", undecidable)
    report = export_onnx(saved, saved.path.with_name("net.onnx"), input_size=SIZE)
    assert report.worst.verdict == "undecidable"


def test_file_that_is_there_survives_a_failure(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = saved.path.with_name("net.onnx")
    output.write_bytes(b"old")
    patch_converter(monkeypatch, ExportError("failed"))
    with pytest.raises(ExportError, match="failed"):
        export_onnx(saved, output, input_size=SIZE, force=True)
    assert output.read_bytes() == b"old"
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(saved, output, input_size=SIZE)
    assert left_behind(saved) == ["net.onnx", "net.pdparams"]


def test_file_that_is_there_is_replaced_when_asked(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    output = saved.path.with_name("net.onnx")
    output.write_bytes(b"old")
    patch_converter(monkeypatch, raw)
    report = export_onnx(saved, output, input_size=SIZE, force=True)
    assert output.stat().st_size == report.file_bytes
    assert left_behind(saved) == ["net.onnx", "net.pdparams"]


def test_checkpoint_itself_is_never_the_output(saved: Checkpoint) -> None:
    before = saved.path.read_bytes()
    with pytest.raises(OutputError, match="cannot write"):
        export_onnx(saved, saved.path, input_size=SIZE, force=True)
    assert saved.path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"batch": 0}, ExportError, "at least one pixel and one image"),
        ({"opset": 10}, ExportError, "opset 10"),
        ({"settings": {"colour": 1}}, UnsupportedModelError, "colour"),
        ({"settings": {"class_num": 11}}, CheckpointError, "linear"),
    ],
    ids=["batch", "opset", "setting", "setting that does not fit"],
)
def test_arguments(
    options: dict[str, Any], kind: type[ReparamError], match: str, saved: Checkpoint
) -> None:
    refuse(saved, kind, match, **options)


@pytest.mark.parametrize("size", [(0, 32), (32, -1)])
def test_input_size(size: tuple[int, int], saved: Checkpoint) -> None:
    with pytest.raises(ExportError, match="at least one pixel"):
        export_onnx(saved, saved.path.with_name("net.onnx"), input_size=size)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(
    ("spoil", "kind", "match"),
    [
        (lambda a: a.pop("linear.bias"), CheckpointError, "1 missing: linear.bias"),
        (lambda a: a.update(more=a["linear.bias"]), CheckpointError, "1 unexpected: more"),
        (
            lambda a: a.update({"linear.bias": a["linear.bias"][:3]}),
            CheckpointError,
            "1 of the wrong shape: linear.bias",
        ),
        (
            lambda a: a.update({"linear.bias": a["linear.bias"] * np.float32(np.nan)}),
            CheckpointError,
            "'linear.bias' holds a value that is not finite",
        ),
        (lambda a: [a.pop(k) for k in list(a)[4:]], UnsupportedModelError, "reparam knows"),
    ],
    ids=["missing", "unexpected", "misshapen", "NaN", "unknown"],
)
def test_checkpoint_with_a_defect(
    fuse: bool, spoil: Any, kind: type[ReparamError], match: str, saved: Checkpoint
) -> None:
    arrays = dict(saved.arrays)
    spoil(arrays)
    refuse(checkpoint(saved.path.parent, arrays), kind, match, fuse=fuse)


@pytest.mark.parametrize("form", ["mixed", "deploy"])
def test_half_fused_checkpoint_is_finished(
    form: str, raw: bytes, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused, _ = fuse_arrays(saved.arrays)
    if form == "mixed":
        kept = {k: v for k, v in saved.arrays.items() if not k.startswith("stage2.")}
        fused = {**kept, **{k: v for k, v in fused.items() if k.startswith("stage2.")}}
    patch_converter(monkeypatch, raw)
    again = checkpoint(saved.path.parent, fused)
    report = export_onnx(again, saved.path.with_name("net.onnx"), input_size=SIZE)
    assert (report.source_form, report.blocks, report.fused_blocks) == (form, 6, 6)


def test_float64_checkpoint_is_noted(
    raw: bytes, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_converter(monkeypatch, raw)
    wide = {key: array.astype(np.float64) for key, array in saved.arrays.items()}
    again = checkpoint(saved.path.parent, wide)
    report = export_onnx(again, saved.path.with_name("net.onnx"), input_size=SIZE)
    assert report.notices == ("weights of float64 were rounded to float32",)


@pytest.mark.parametrize(
    ("found", "needed", "wrong"),
    [
        ({"Conv": 3}, {"Conv": 2}, "3 Conv nodes; needed: 2"),
        ({}, {"Conv": 1}, "0 Conv nodes; needed: 1"),
        ({"BN": 1}, {"BN": 0}, "1 BN nodes; needed: 0"),
        ({"Identity": 1}, {}, "1 Identity nodes; needed: 0"),
        ({"Constant": 2}, {}, "2 Constant nodes; needed: 0"),
    ],
)
def test_operators_that_are_not_those_of_the_layer(
    found: dict[str, int], needed: dict[str, int], wrong: str
) -> None:
    with pytest.raises(ExportError, match=wrong):
        check_operators(found, needed)


def test_operators_of_the_layer_pass() -> None:
    check_operators({"Conv": 2, "Relu": 5}, {"Conv": 2, "BatchNormalization": 0})


def test_weights_are_compared_bit_for_bit() -> None:
    state = {"w": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    stored = {**state, "other": np.array([1])}
    assert check_weights(stored.items(), state, [("x", "w", "b"), ("x", "w")]) == set(stored)
    with pytest.raises(ExportError, match=r"1 weight.* not as in the network, 'b'"):
        check_weights({**state, "b": -state["b"]}.items(), state, [])
    with pytest.raises(ExportError, match=r"1 weight.* not in the network, 'v'"):
        check_weights(state.items(), state, [("x", "v")])
