"""A program without its heavy weights: the same graph, and nothing but these is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.converter import convert
from reparam.adapters.light_program import lighten, outputs_in, parameters_in
from reparam.adapters.onnx_model import arrays_of, interface_of, op_counts
from reparam.adapters.paddle_models import import_paddle, state_of
from reparam.adapters.static_program import save_static
from reparam.errors import ExportError
from tests.converter import needs_converter

paddle = import_paddle()


class Net(paddle.nn.Layer):
    """A convolution, one with a weight that is read in another way too, and a product."""

    def __init__(self):
        super().__init__()
        self.plain = paddle.nn.Conv2D(3, 4, 3, padding=1)
        self.shared = paddle.nn.Conv2D(4, 4, 3, padding=1)
        self.norm = paddle.nn.BatchNorm2D(4)
        self.linear = paddle.nn.Linear(4, 5)

    def forward(self, x):
        y = self.norm(self.shared(self.plain(x)))
        return [self.linear(y.mean([2, 3])), y, paddle.nn.functional.relu(self.shared.weight)]


@pytest.fixture(scope="module")
def layer() -> Any:
    paddle.seed(7)
    return Net()


@pytest.fixture(scope="module")
def static(layer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_static(layer, "image", (None, 3, 8, None), tmp_path_factory.mktemp("static"))


def target(folder: Path) -> tuple[Path, Path]:
    return folder / "light.json", folder / "light.pdiparams"


def test_parameters_are_named_by_their_keys(layer: Any, static: tuple[Path, Path]) -> None:
    before = {key: tensor.name for key, tensor in layer.state_dict().items()}
    held = dict(parameters_in(*static))
    assert set(held) == set(layer.state_dict())
    assert held == {key: array.tobytes() for key, array in state_of(layer).items()}
    assert not set(before.values()) & set(held)  # and the Layer's own names are as they were


@needs_converter
def test_tracing_as_written_gives_the_same_program(
    layer: Any, static: tuple[Path, Path], tmp_path: Path
) -> None:
    straight = save_static(layer, "image", (None, 3, 8, None), tmp_path, straight=True)
    assert dict(parameters_in(*straight)) == dict(parameters_in(*static))
    assert op_counts(convert(*straight)) == op_counts(convert(*static))


def test_only_weights_that_nothing_else_reads_become_inputs(
    layer: Any, static: tuple[Path, Path], tmp_path: Path
) -> None:
    heavy = lighten(static, target(tmp_path), light=8).heavy
    assert heavy == {"plain.weight", "linear.weight"}
    kept = dict(parameters_in(*target(tmp_path)))
    assert set(kept) == set(layer.state_dict()) - heavy
    assert kept == {key: state_of(layer)[key].tobytes() for key in kept}


@needs_converter
def test_the_graph_is_the_same_but_for_these(static: tuple[Path, Path], tmp_path: Path) -> None:
    heavy = lighten(static, target(tmp_path), light=8).heavy
    whole, light = convert(*static), convert(*target(tmp_path))
    shapes = {value.name: value.shape for value in interface_of(light).inputs}
    assert set(shapes) == {"image", *heavy}
    assert (shapes["plain.weight"], shapes["linear.weight"]) == ((4, 3, 3, 3), (4, 5))
    counts = op_counts(whole)
    lost = counts["Constant"] - op_counts(light)["Constant"]
    assert lost == len(heavy)
    assert {**op_counts(light), "Constant": counts["Constant"]} == counts
    constants = {n.output[0] for n in onnx.load_model_from_string(light).graph.node
                 if n.op_type == "Constant"} | set(arrays_of(light))  # fmt: skip
    assert not constants & heavy


def test_nothing_is_heavy_where_all_is_small(static: tuple[Path, Path], tmp_path: Path) -> None:
    assert lighten(static, target(tmp_path)).heavy == set()
    assert target(tmp_path)[1].read_bytes() == static[1].read_bytes()


def test_outputs(static: tuple[Path, Path]) -> None:
    assert outputs_in(static[0]) == [
        ("fetch_name_0", (None, 5), "float32"),
        ("fetch_name_1", (None, 4, 8, None), "float32"),
        ("fetch_name_2", (4, 4, 3, 3), "float32"),
    ]


@pytest.mark.parametrize(
    ("program", "parameters"),
    [
        (lambda text: "{}", None),
        (lambda text: "not json", None),
        (lambda text: json.dumps({"program": {"regions": []}}), None),
        (None, lambda content: content[:-1]),
        (None, lambda content: content + b"\0"),
        (None, lambda content: b"\1" + content[1:]),
        (None, lambda content: content[:10]),
        (None, lambda content: b""),
    ],
    ids=["no program", "no JSON", "empty", "cut", "too long", "version", "cut in a head", "none"],
)
def test_files_that_are_not_as_paddle_writes_them(
    program: Any, parameters: Any, static: tuple[Path, Path], tmp_path: Path
) -> None:
    source = tmp_path / "model.json", tmp_path / "model.pdiparams"
    text, content = static[0].read_text(), static[1].read_bytes()
    source[0].write_text(program(text) if program else text)
    source[1].write_bytes(parameters(content) if parameters else content)
    with pytest.raises(ExportError, match=r"paddle 3\.3|truncated|more than"):
        lighten(source, target(tmp_path), light=8)
    if parameters:
        with pytest.raises(ExportError, match=r"paddle 3\.3|truncated|more than"):
            list(parameters_in(*source))


def test_float32_is_what_is_measured(tmp_path: Path) -> None:
    """A weight of the size of the limit stays; one byte more of a limit less, and it goes."""
    layer = paddle.nn.Conv2D(3, 4, 3, bias_attr=False)
    size = int(np.prod(layer.weight.shape)) * 4
    static = save_static(layer, "image", (1, 3, 8, 8), tmp_path)
    assert lighten(static, target(tmp_path), light=size).heavy == set()
    assert lighten(static, target(tmp_path), light=size - 1).heavy == {"weight"}
