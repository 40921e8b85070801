"""Latency of ONNX files on onnxruntime, as they are, fused as graphs, and slimmed by other tools.

    python -m benchmarks.graph_latency [--rounds 10] [--seconds 1.0] [--threads N]
                                       [--peer-python PYTHON] [--folder FOLDER] [NETWORK ...]

NETWORK is a path of an ONNX file, one of timm, or zoo_NAME, exported unfused at 224 pixels as
``benchmarks.graph_peers`` does. The baseline is the file that the usual export writes, with all of
onnxruntime's own optimisations on, which fold what they can. It is measured against

    ours       the file after ``fuse_graph``
    own        the network's own deploy form, where the export made one
    onnxslim, onnxsim   what these make of it, where --peer-python has them

by the protocol of ``reparam bench``: a process for each measurement, in alternating order. Among
the networks are some with nothing to fuse, which have to stay as they are.

Prints a JSON line for each network: nodes, medians, and for each file baseline time / its time
with a 95 % interval and the verdict. Exits with 1 if a fused file is slower than its baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.graph_peers import exported
from benchmarks.graph_ways import PEERS, Failed, nodes_of, take

BASELINE = "as exported"
FUSED = ("repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050",
         "ghostnetv3_050", "lcnetv2_small", "levit_128s", "nextvit_small")  # fmt: skip
NOTHING = ("resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224")
SIZE = 224


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=[*FUSED, *NOTHING], metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer-python", default=os.environ.get("REPARAM_PEER_PYTHON"))
    parser.add_argument("--folder", type=Path, help="keep exports here, and take those found")
    options = parser.parse_args()
    good = True
    for name in options.networks:
        with tempfile.TemporaryDirectory(prefix="reparam-graph-latency-") as scratch:
            row = {"benchmark": "graph_latency", "network": name}
            row |= measure(name, Path(scratch), options)
        print(json.dumps(row), flush=True)
        good &= row.get("verdicts", {}).get("ours") in ("faster", "within noise")
    return 0 if good else 1


def measure(name: str, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one network comes to; a way that fails is left out, and told."""
    from reparam.latency import ModelUnderTest, measure_models

    files, failed = files_of(name, scratch, options)
    if "ours" not in files:
        return {"failed": failed}
    found = measure_models(
        [ModelUnderTest(label, path) for label, path in files.items()],
        threads=options.threads,
        batch=1,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=0.5,
    )
    comparisons = {other.label: result for other, result in found.comparisons}
    return {
        "input": [str(tensor) for tensor in found.baseline.inputs],
        "nodes": {label: nodes_of(path) for label, path in files.items()},
        "nodes_run": {m.label: run_nodes(m.nodes) for m in found.measurements},
        "median_ms": {m.label: round(1e3 * m.summary.median, 3) for m in found.measurements},
        "speedup": {label: round(c.speedup, 3) for label, c in comparisons.items()},
        "interval": {
            label: c.interval and [round(bound, 3) for bound in c.interval]
            for label, c in comparisons.items()
        },
        "verdicts": {label: c.verdict for label, c in comparisons.items()},
        "failed": failed,
        "threads": found.threads,
        "rounds": found.rounds,
        "environment": str(found.environment),
        "warnings": list(found.warnings),
    }


def run_nodes(nodes: Any) -> int | None:
    """Return how many nodes are left after the runtime's own optimisations."""
    return None if nodes is None else sum(sum(counts.values()) for counts in nodes.values())


def files_of(
    name: str, scratch: Path, options: argparse.Namespace
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files to measure by label, the baseline first, and what failed."""
    source = Path(name)
    own = None
    if source.suffix != ".onnx":
        folder = options.folder or scratch
        failure = exported(name, folder, options.peer_python, SIZE)
        if failure:
            return {}, {"export": failure}
        source, own = (folder / f"{name}.{form}.onnx" for form in ("plain", "own"))
    files, failed = {BASELINE: source}, {}
    for way in ("ours", *(PEERS if options.peer_python else ())):
        output = scratch / f"{way}.onnx"
        try:
            take(way, source, output, options.peer_python)
        except Failed as failure:
            failed[way] = str(failure)
            continue
        files[way] = output
    if own is not None:
        files["own"] = own
    return files, failed


if __name__ == "__main__":
    sys.exit(main())
