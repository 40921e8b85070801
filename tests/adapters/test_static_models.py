"""Static programs of users become whole ONNX files, or an error says what is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters import converter, program_repairs, static_models
from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.adapters.paddle_models import import_paddle, run_layer
from reparam.adapters.static_checks import check_nothing_lost
from reparam.adapters.static_models import (
    OLD,
    PIR,
    Converted,
    convert_static,
    find_static,
    is_static,
    kind_of,
)
from reparam.errors import ExportError
from tests.converter import needs_converter, writes_float64_scales
from tests.models.helpers import randomise

paddle = import_paddle()
nn, F = paddle.nn, paddle.nn.functional

_WRITE_OLD = """
import sys
from pathlib import Path
from tests.adapters.test_static_models import net, save
save(net(), Path(sys.argv[1]))
"""


class Net(nn.Layer):
    """Two branches; ``scale`` enlarges what comes of them."""

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(3, 8, 1)
        self.norm, self.head, self.scale = nn.BatchNorm2D(8), nn.Linear(8, 5), scale

    def forward(self, x: Any) -> Any:
        x = F.relu(self.norm(self.wide(x)) + self.narrow(x))
        if self.scale is not None:
            x = F.interpolate(x, scale_factor=self.scale)
        return self.head(x.mean([2, 3])), x


def net(scale: float | None = None) -> Net:
    layer = randomise(Net(scale))
    layer.eval()
    return layer


def save(layer: Any, stem: Path) -> None:
    spec = paddle.static.InputSpec([None, 3, 9, 7], "float32", "image")
    paddle.jit.save(layer, str(stem), input_spec=[spec])


@pytest.fixture(scope="module")
def pir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stem = tmp_path_factory.mktemp("pir") / "inference"
    save(net(), stem)
    return stem.with_suffix(".json")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Paddle wrote programs before version 3, which 3.3 still can."""
    stem = tmp_path_factory.mktemp("old") / "inference"
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_OLD, str(stem)],
        env={**os.environ, "FLAGS_enable_pir_api": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return stem.with_suffix(".pdmodel")


@pytest.fixture
def copied(pir: Path, tmp_path: Path) -> Path:
    """The program of paddle 3, alone with its parameters, to spoil."""
    for path in (pir, pir.with_suffix(".pdiparams")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / pir.name


def converted(program: Path, folder: Path) -> Converted:
    (folder / "work").mkdir()
    return convert_static(find_static(program), folder / "work")


@needs_converter
@pytest.mark.parametrize("kind", ["pir", "old"])
def test_the_file_computes_what_the_program_did(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    program = request.getfixturevalue(kind)
    made = converted(program, tmp_path)
    assert made.source.kind == {"pir": PIR, "old": OLD}[kind]
    assert made.repairs == {}
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 7)).astype(np.float32)
    for found, expected in zip(
        run_onnx(open_session(made.path), x), run_layer(net(), x), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@needs_converter
def test_an_interpolation_is_repaired_and_fails_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(net(2.0), tmp_path / "up")
    made = converted(tmp_path / "up.json", tmp_path)
    repaired = {"float64 scales of an interpolation made float32": 1}
    assert made.repairs == (repaired if writes_float64_scales else {})
    assert "Resize" in {node.op_type for node in onnx.load(made.path).graph.node}
    x = np.random.default_rng(0).normal(size=(1, 3, 9, 7)).astype(np.float32)
    found, expected = run_onnx(open_session(made.path), x), run_layer(net(2.0), x)
    assert found[1].shape == (1, 8, 18, 14)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

    if not writes_float64_scales:
        return
    monkeypatch.setattr(program_repairs, "_float32_scales", lambda _: 0)
    (tmp_path / "again").mkdir()
    with pytest.raises(ExportError, match=r"up\.json") as caught:
        convert_static(find_static(tmp_path / "up.json"), tmp_path / "again")
    assert "FloatAttribute" in caught.value.found  # as the converter says it


def test_a_pair_is_found_from_its_folder_its_program_or_both(pir: Path, copied: Path) -> None:
    static = find_static(copied)
    assert static == find_static(copied.parent)
    assert static.parameters == copied.with_suffix(".pdiparams")
    other = copied.with_name("weights.bin")
    static.parameters.rename(other)
    assert find_static(copied, other).parameters == other
    with pytest.raises(ExportError, match="no parameters for") as caught:
        find_static(copied)
    assert "inference.pdiparams" in caught.value.found
    assert is_static(pir)
    assert is_static(pir.parent)
    assert not is_static(Path("model.onnx"))


def test_parameters_of_another_name_beside_it_are_named(copied: Path) -> None:
    copied.with_suffix(".pdiparams").rename(copied.with_name("best.pdiparams"))
    with pytest.raises(ExportError) as caught:
        find_static(copied)
    assert "there: best.pdiparams" in caught.value.found
    assert find_static(copied.parent).parameters.name == "best.pdiparams"  # the one pair there


def test_two_programs_in_a_folder_are_listed_and_other_json_is_not(copied: Path) -> None:
    copied.with_name("config.json").write_text("{}")
    assert find_static(copied.parent).program == copied
    copied.with_name("other.json").write_bytes(copied.read_bytes())
    with pytest.raises(ExportError, match="which static program") as caught:
        find_static(copied.parent)
    assert caught.value.found == "2: inference.json, other.json"
    for path in copied.parent.glob("*.json"):
        path.unlink()
    with pytest.raises(ExportError, match="no program in"):
        find_static(copied.parent)


def test_program_and_parameters_the_wrong_way_round(copied: Path) -> None:
    parameters = copied.with_suffix(".pdiparams")
    with pytest.raises(ExportError, match="is no static program") as caught:
        find_static(parameters, copied)
    assert caught.value.found == "parameters"
    assert copied.name in caught.value.hint
    with pytest.raises(ExportError, match="holds no parameters") as caught:
        find_static(copied, copied)
    assert caught.value.found == PIR


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"a": 1}', "JSON that is no program of Paddle"),
        (b"[]", "JSON that is no program of Paddle"),
        (b'{"program": {"regions": []}, "base_code": {"magic": "pir"}}', "JSON that is no program"),
        (b'{"program": ', "no JSON"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"\x08\x08", "perhaps an ONNX file"),
        (b"hello", "a file that begins with b'hello'"),
    ],
)
def test_what_is_no_program_is_refused(content: bytes, found: str, copied: Path) -> None:
    copied.write_bytes(content)
    with pytest.raises(ExportError, match="is no static program") as caught:
        find_static(copied)
    assert found in caught.value.found


def test_a_missing_or_empty_file_is_refused(copied: Path) -> None:
    with pytest.raises(ExportError, match="cannot read"):
        find_static(copied.with_name("gone.json"))
    copied.write_bytes(b"")
    with pytest.raises(ExportError, match="is empty"):
        find_static(copied)


@needs_converter
@pytest.mark.parametrize("spoiled", ["cut short", "one more", "another network", "another type"])
def test_parameters_that_are_not_of_the_program(
    spoiled: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "CHILD", Path("/nowhere"))  # refused before anything runs
    parameters = copied.with_suffix(".pdiparams")
    content = parameters.read_bytes()
    if spoiled == "cut short":
        parameters.write_bytes(content[:-40])
    elif spoiled == "one more":
        parameters.write_bytes(content + content)
    elif spoiled == "another network":
        layer = net()
        layer.head = nn.Linear(8, 4)
        save(layer, copied.with_name("other"))
        copied.with_name("other.pdiparams").rename(parameters)
        copied.with_name("other.json").unlink()
    else:
        program = json.loads(copied.read_text())
        text = json.dumps(program)
        assert "0.t_f32" in text
        copied.write_text(text.replace("0.t_f32", "0.t_f16"))
    with pytest.raises(ExportError, match=r"cannot convert .*inference\.json") as caught:
        converted(copied, tmp_path)
    told = {
        "cut short": "truncated",
        "one more": "arrays; needed:",
        "another network": "needed: ",
        "another type": "type 4",
    }
    assert told[spoiled] in str(caught.value)


@needs_converter
def test_an_old_program_that_paddle_cannot_read(old: Path, tmp_path: Path) -> None:
    broken = tmp_path / "inference.pdmodel"
    broken.write_bytes(old.read_bytes()[:2000])
    (tmp_path / "inference.pdiparams").write_bytes(old.with_suffix(".pdiparams").read_bytes())
    with pytest.raises(ExportError, match="paddle cannot read the old program") as caught:
        converted(broken, tmp_path)
    assert "parse" in caught.value.found


@needs_converter
def test_an_old_program_that_hangs_paddle_is_ended(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(static_models, "OLD_PROGRAM_CHILD", child)
    with pytest.raises(ExportError, match="did not finish reading"):
        convert_static(find_static(old), tmp_path, timeout=0.5)


@needs_converter
def test_a_converter_that_drops_or_changes_a_weight_is_caught(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = static_models.convert

    def spoiling(spoil: Any) -> Any:
        def convert(*given: Any, **named: Any) -> bytes:
            model = onnx.load_model_from_string(real(*given, **named))
            tensors = [n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"]
            spoil(next(t for t in tensors if list(t.dims) == [8, 3, 3, 3]))
            return model.SerializeToString()

        return convert

    def lost(tensor: Any) -> None:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), tensor.name))

    def changed(tensor: Any) -> None:
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[0, 0, 0, 0] = np.nextafter(array[0, 0, 0, 0], np.float32(9))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    for number, spoil in enumerate((lost, changed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setattr(static_models, "convert", spoiling(spoil))
        with pytest.raises(ExportError, match="did not write every weight") as caught:
            convert_static(find_static(copied), folder)
        assert "1 of" in caught.value.found


def test_a_weight_that_was_arranged_in_another_way_is_not_lost() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    operators = [
        {"#": "p", "A": [0, 0, 0, "w"], "O": {"%": 1}},
        {"#": "1.matmul", "A": [], "I": [{"%": 2}, {"%": 1}], "O": [{"%": 3}]},
    ]

    def model(array: np.ndarray) -> bytes:
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("MatMul", ["x", "t"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1, 3])],
            [onnx.helper.make_tensor_value_info("y", 1, [1, 2])],
            [onnx.numpy_helper.from_array(array, "t")],
        )
        return onnx.helper.make_model(graph).SerializeToString()

    check_nothing_lost(model(weight.T.copy()), operators, [("w", weight.tobytes())])
    with pytest.raises(ExportError, match="did not write every weight"):
        check_nothing_lost(model(weight[:, :2].T.copy()), operators, [("w", weight.tobytes())])


def test_kinds_are_told_by_content(pir: Path, old: Path) -> None:
    assert kind_of(pir) == PIR
    assert kind_of(old) == OLD
