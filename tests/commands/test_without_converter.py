"""Where paddle2onnx is missing, as on Python 3.13, everything but the ONNX export works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reparam import fuse
from reparam.checkpoint import load_checkpoint
from tests.adapters.graphs import model, node
from tests.commands.processes import contents, one_error, reparam, scripted
from tests.weights import repvgg_arrays, write

HIDDEN = "import sys\nsys.modules['paddle2onnx'] = None"
GROUPS = {3: 2}  # of the network below, as repvgg_arrays makes it


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path, repvgg_arrays())


def by_hand(source: Path, factor: float = 1.0) -> Path:
    """Write the fused network as an ONNX file without any converter; ``factor`` spoils it."""
    output = fuse(source, source.with_name("fused.pdparams"), force=True).output
    assert output is not None
    arrays = dict(load_checkpoint(output).arrays)
    arrays["linear.bias"] = arrays["linear.bias"] * np.float32(factor)
    nodes, value, stage = [], "x", ""
    blocks = [k.removesuffix(".rbr_reparam.weight") for k in arrays if k.endswith("m.weight")]
    for number, block in enumerate(blocks):
        first, stage = block.partition(".")[0] != stage, block.partition(".")[0]
        names = [f"{block}.rbr_reparam.{part}" for part in ("weight", "bias")]
        geometry = {"pads": [1] * 4, "strides": [2 if first else 1] * 2}
        group = GROUPS.get(number, 1)
        nodes.append(node("Conv", [value, *names], [f"c{number}"], group=group, **geometry))
        value = f"r{number}"
        nodes.append(node("Relu", [f"c{number}"], [value]))
    nodes += [
        node("GlobalAveragePool", [value], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "linear.weight", "linear.bias"], ["fetch_name_0"]),
    ]
    shapes = {"x": ["batch", 3, 32, 40]}
    path = source.with_name("by_hand.onnx")
    path.write_bytes(model(nodes, arrays, {"fetch_name_0": ["batch", 5]}, shapes))
    return path


@pytest.mark.parametrize("command", [["export", "--onnx"], ["bench"]])
def test_what_needs_it_says_so_and_what_to_do(source, command):
    before = contents(source.parent)
    name, *options = command
    done = scripted(HIDDEN, name, source, *options)
    one_error(done, "needs the converter paddle2onnx", "found:", "try:")
    assert contents(source.parent) == before


def test_verify_of_an_onnx_file(source):
    for factor, code, verdict in ((1.0, 0, "equivalent"), (1.01, 1, "different")):
        done = scripted(HIDDEN, "verify", source, by_hand(source, factor), "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["verdict"]) == (code, verdict), report


def test_bench_of_onnx_files(source):
    path = by_hand(source)
    other = path.with_name("other.onnx")
    other.write_bytes(path.read_bytes())
    done = scripted(HIDDEN, "bench", path, other, "--rounds", "1", "--seconds", "0.01", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["measurements"]) == 2


def test_verify_of_networks_and_inspect_of_both(source):
    assert reparam("inspect", by_hand(source)).returncode == 0
    done = scripted(HIDDEN, "verify", source, "--input-size", "32", "--json")
    stages = {stage["name"]: stage["verdict"] for stage in json.loads(done.stdout)["stages"]}
    assert stages == {"other arrays": "equal", "blocks": "equal", "network": "equal"}


def test_the_demonstration_leaves_the_onnx_part_out_and_says_so(tmp_path):
    kept = tmp_path / "kept"
    done = scripted(HIDDEN, "demo", "--network", "repvgg", "--keep", kept)
    assert done.returncode == 0, done.stderr
    assert "1,000 of 1,000 predictions the same" in done.stdout
    assert "note: no ONNX files: " in done.stdout
    assert sorted(path.name for path in kept.iterdir()) == [
        "repvgg.deploy.pdparams", "repvgg.deploy.pdparams.manifest.json", "repvgg.pdparams",
    ]  # fmt: skip
