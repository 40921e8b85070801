"""Large images are checked with small ones, where these show as much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from reparam.adapters.converter import Converter
from reparam.adapters.onnx_checks import load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.errors import ExportError, NotEquivalentError
from reparam.exporter import Network, Options, Tensor, export_network, exporting, onnx_export
from reparam.exporter.checking import check_run
from reparam.exporter.probing import probe_sizes, takes_small_probes
from tests.converter import needs_converter
from tests.exporter.pair import assert_computes, images, pair

LARGE = (160, 176)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all images that the network is run on."""
    shapes: list[tuple[int, ...]] = []
    make = onnx_export.probes_of

    def record(*given: Any, **named: Any) -> Any:
        probes = make(*given, **named)
        shapes.extend(probe.images.shape for probe in probes)
        return probes

    monkeypatch.setattr(onnx_export, "probes_of", record)
    return shapes


@needs_converter
def test_small_images_are_enough_for_a_network_of_ours(
    network: Network, probed: list[Any], tmp_path: Path
) -> None:
    program = tmp_path / "net.json"
    options = Options(input_size=LARGE, batch=2, paddle=program)
    report = export_network(network, tmp_path / "net.onnx", options)
    assert probed == [(2, 3, 96, 128)]
    assert report.paddle.worst.verdict == "equal"
    assert report.paddle.outputs[2].shape == (2, 24, 20, 22)
    assert report.input.shape == (2, 3, *LARGE)
    x = images(2, 3, *LARGE)
    assert_computes(network, x, run_onnx(load_strictly(report.output), x))


@needs_converter
@pytest.mark.parametrize("lost", ["network", "graph"])
def test_another_network_or_graph_is_compared_at_its_own_size(
    lost: str, network: Network, probed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lost == "network":
        network = replace(network, any_size=False)
    else:
        monkeypatch.setattr(onnx_export, "is_free_of_sizes", lambda *_: False)
    export_network(network, tmp_path / "net.onnx", Options(input_size=LARGE))
    assert probed[-1] == (2, 3, *LARGE)
    assert len(probed) == {"network": 1, "graph": 2}[lost]


@needs_converter
def test_wrong_graph_is_caught_with_small_images(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Converter):
        def result(self, timeout: float) -> bytes:
            model = onnx.load_model_from_string(super().result(timeout))
            conv = [n for n in model.graph.node if n.op_type == "Conv"][3]
            next(a for a in conv.attribute if a.name == "pads").ints[:] = [0, 0, 2, 2]
            return bytes(model.SerializeToString())

    monkeypatch.setattr(exporting, "Converter", Wrong)
    with pytest.raises(NotEquivalentError, match="is not that of the network"):
        export_network(network, tmp_path / "net.onnx", Options(input_size=LARGE))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "any_size", "sizes"),
    [
        ({}, True, [(32, 40)]),
        ({"input_size": (640, 480)}, True, [(96, 128)]),
        ({"input_size": (8, 4000)}, True, [(8, 128)]),
        ({"input_size": (640, 640)}, False, [(640, 640)]),
        ({"dynamic": ["height"]}, True, [(32, 40), (65, 40)]),
        ({"dynamic": ["height", "width"], "input_size": (640, 640)}, True, [(96, 128), (65, 97)]),
        ({"dynamic": ["width"], "input_size": (64, 64)}, False, [(64, 64), (64, 128)]),
    ],
)
def test_sizes(options: dict[str, Any], any_size: bool, sizes: list[Any], network: Network) -> None:
    chosen, known = Options(**options), replace(network, any_size=any_size)
    assert probe_sizes(known, chosen, takes_small_probes(known, chosen)) == sizes


SCORES = Tensor("scores", ("batch", 5), "float32")


@pytest.mark.parametrize(
    "output",
    [
        np.zeros((2, 6), np.float32),
        np.zeros((2, 5, 1), np.float32),
        np.zeros((2, 5), np.float64),
        np.array([[0, 0, np.nan, 0, 0]], np.float32),
        np.array([[0, 0, 0, 0, np.inf]], np.float32),
    ],
    ids=["size", "rank", "dtype", "NaN", "infinity"],
)
def test_outputs_that_are_not_as_declared(output: np.ndarray) -> None:
    check_run([np.zeros((3, 5), np.float32)], [SCORES])
    with pytest.raises(ExportError, match="'scores' of the exported file is not as the file says"):
        check_run([output], [SCORES])
