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
from reparam.detection import RAW
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


def both_ways(name: str, folder: Path) -> BothWays:
    arrays = random_arrays(layout_of(SMALL[name]).shapes(deploy=False))
    checkpoint = load_checkpoint(write(folder, arrays))
    options = {"input_size": SIZE, "default_head": RAW}
    by_name = export_onnx(checkpoint, folder / "deploy.onnx", **options)
    train = export_onnx(checkpoint, folder / "train.onnx", fuse=False, **options)
    assert train.ops_after["BatchNormalization"] > by_name.blocks
    assert len(train.left_regions) >= by_name.blocks
    model = onnx_ir.load(train.output)
    by_graph = fuse_graph(model)
    onnx_ir.save(model, folder / "fused.onnx")
    return BothWays(checkpoint, by_name, by_graph, folder / "fused.onnx")


# One with a residual and a normalization alone in a block, one with squeeze-excite, one with
# learned affines and one with a neck and a head: what parts of a graph the zoo has.
TRIED = ("cspresnet", "lcnetv2", "lcnetv3-det", "ppyoloe-tiny")


@pytest.mark.parametrize(
    "name",
    [name if name in TRIED else pytest.param(name, marks=pytest.mark.slow) for name in SMALL],
)
def test_both_ways_end_alike(name: str, tmp_path: Path) -> None:
    """In one test, since most of its time goes into two exports."""
    both = both_ways(name, tmp_path)
    have_the_same_operators(both)
    computes_the_network(both)
    keeps_the_names_of_what_no_region_changed(both)


def have_the_same_operators(both: BothWays) -> None:
    assert both.by_graph.failed == both.by_graph.left == []
    assert "BatchNormalization" not in both.by_graph.ops_after
    assert both.by_graph.ops_after["Conv"] == both.by_name.ops_after["Conv"]
    assert both.by_graph.ops_after == both.by_name.ops_after
    assert both.by_name.left_regions == ()


def computes_the_network(both: BothWays) -> None:
    check_model(both.path)
    network = network_of(both.checkpoint)
    x = images(2, network.channels, *SIZE)
    assert_computes(network, x, run_onnx(load_strictly(both.path), x))


def keeps_the_names_of_what_no_region_changed(both: BothWays) -> None:
    untouched = {
        key
        for key in both.checkpoint.arrays
        if (".attn." in key or ".se." in key) and key.endswith(("weight", "bias"))
    }
    stored = {tensor.name for tensor in onnx.load(both.path).graph.initializer}
    assert untouched <= stored
