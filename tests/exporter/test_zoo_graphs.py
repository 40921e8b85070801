"""The zoo in train-time form, exported as it is, is fused from its graph alone as far as by name.

One way: checkpoint -> blocks by their names -> ONNX. The other: checkpoint -> ONNX with all its
branches -> regions of the graph. Both have to end with the same convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir
import pytest

from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_runtime import run_onnx
from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.exporter import ExportReport, export_onnx, network_of
from reparam.graph.fusing import fuse_graph
from reparam.graph.records import GraphReport
from tests.converter import needs_converter
from tests.exporter.pair import assert_computes, images
from tests.models.structures import SMALL, layout_of
from tests.weights import random_arrays, write

pytestmark = needs_converter

SIZE = (32, 32)


@dataclass(frozen=True)
class BothWays:
    checkpoint: Checkpoint
    by_name: ExportReport
    by_graph: GraphReport
    path: Path


@pytest.fixture(scope="module", params=SMALL)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    folder = tmp_path_factory.mktemp(request.param)
    arrays = random_arrays(layout_of(SMALL[request.param]).shapes(deploy=False))
    checkpoint = load_checkpoint(write(folder, arrays))
    by_name = export_onnx(checkpoint, folder / "deploy.onnx", input_size=SIZE)
    train = export_onnx(checkpoint, folder / "train.onnx", input_size=SIZE, fuse=False)
    assert train.ops_after["BatchNormalization"] > by_name.blocks
    assert len(train.left_regions) >= by_name.blocks
    model = onnx_ir.load(train.output)
    by_graph = fuse_graph(model)
    onnx_ir.save(model, folder / "fused.onnx")
    return BothWays(checkpoint, by_name, by_graph, folder / "fused.onnx")


def test_both_ways_end_with_the_same_operators(both: BothWays) -> None:
    assert both.by_graph.failed == both.by_graph.left == []
    assert "BatchNormalization" not in both.by_graph.ops_after
    assert both.by_graph.ops_after["Conv"] == both.by_name.ops_after["Conv"]
    assert both.by_graph.ops_after == both.by_name.ops_after
    assert both.by_name.left_regions == ()


def test_the_fused_graph_computes_the_network(both: BothWays) -> None:
    check_model(both.path)
    network = network_of(both.checkpoint)
    x = images(2, network.channels, *SIZE)
    assert_computes(network, x, run_onnx(load_strictly(both.path), x))


def test_weights_that_no_region_changed_keep_their_names(both: BothWays) -> None:
    untouched = {
        key
        for key in both.checkpoint.arrays
        if (".attn." in key or ".se." in key) and key.endswith(("weight", "bias"))
    }
    if not untouched:
        pytest.skip("no attention in it")
    stored = {tensor.name for tensor in onnx.load(both.path).graph.initializer}
    assert untouched <= stored
