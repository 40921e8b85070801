"""``fuse`` on ONNX graphs against what networks make of themselves with their own code.

    python -m benchmarks.graph_peers [--peer-python PYTHON] [--folder FOLDER] [NETWORK ...]

Networks of timm are exported unfused by an interpreter that has torch and timm (--peer-python, or
the variable REPARAM_PEER_PYTHON), and again after timm's own re-parameterization, which knows the
code of every block. Names with the prefix zoo_ are networks of this project, whose own way is to
fuse the checkpoint before the export. Here each unfused file, and it alone, is fused as a graph.

A JSON line for each network and form of its file: nodes before, of its own deploy form, and ours;
how far both are from what the network computes in float64, in units of the bound of
``reparam.adapters.closeness``. Then a Markdown table. Exits with 1 if a result has more Conv +
BatchNormalization + Add nodes than the network's own, or other outputs.

--folder keeps the exported files there, and takes those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import graph_timm, graph_zoo
from benchmarks.graph_ways import PEERS, Failed, take

Row = dict[str, Any]

FORMS = ("train", "plain")  # BatchNorms kept; exported as usual
MORE = ("dynamo",)  # measured where somebody has put such a file into the folder
COUNTED = ("Conv", "BatchNormalization", "Add")
SHOWN = (*COUNTED, "Mul", "MatMul", "Gemm")
WORDS = ("network", "form", "outputs", "verdict")  # columns
GOOD = ("as few", "fewer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK",
                        help="of timm, or zoo_NAME; all of both if none is named")  # fmt: skip
    parser.add_argument("--peer-python", default=os.environ.get("REPARAM_PEER_PYTHON"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tools", action="store_true",
                        help="also count what onnxslim and onnxsim leave")  # fmt: skip
    options = parser.parse_args()
    names = options.networks or [*graph_zoo.NAMES, *graph_timm.OWN, *graph_timm.PLAIN]
    with tempfile.TemporaryDirectory(prefix="reparam-graph-peers-") as scratch:
        folder = options.folder or Path(scratch)
        tools = PEERS if options.tools and options.peer_python else ()
        rows = [row for name in names for row in measured(name, folder, options.peer_python, tools)]
    print(f"\n{table(rows)}")
    return 0 if all(row["verdict"] in GOOD for row in rows) else 1


def measured(name: str, folder: Path, peer: str | None, tools: Sequence[str]) -> list[Row]:
    """Return, and print, the rows of one network."""
    failure = exported(name, folder, peer)
    rows = []
    more = [form for form in MORE if (folder / f"{name}.{form}.onnx").exists()]
    for form in (*FORMS, *more):
        row: Row = {"benchmark": "graph_peers", "network": name, "form": form}
        row |= {"verdict": "not exported", "why": failure} if failure else measure(
            folder, name, form
        )  # fmt: skip
        if not failure:
            row["tools"] = {tool: left_by(tool, folder / f"{name}.{form}.onnx", str(peer))
                            for tool in tools}  # fmt: skip
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def exported(name: str, folder: Path, peer: str | None, size: int | None = None) -> str | None:
    """See to it that the files of a network are in the folder; return why they cannot be.

    Args:
        name: of the network.
        folder: may have files of it, which are taken whatever their size.
        peer: the interpreter with torch and timm.
        size: of images, in pixels; small if None.
    """
    needed = [folder / f"{name}.{form}.onnx" for form in (*FORMS, "own")]
    if all(path.exists() for path in (*needed, folder / f"{name}.npz")):
        return None
    if name.startswith(graph_zoo.PREFIX):
        graph_zoo.make(name, folder, size or graph_zoo.SIZE)
        return None
    if peer is None:
        return "no --peer-python, whose interpreter has torch and timm"
    command = [peer, graph_timm.__file__, str(folder), name]
    command += [] if size is None else ["--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1]).get("failed")


def measure(folder: Path, name: str, form: str) -> Row:
    """Fuse one file; return its nodes and how close its outputs are."""
    import onnx_ir as ir

    from reparam.graph.fusing import fuse_graph

    source, own = folder / f"{name}.{form}.onnx", folder / f"{name}.own.onnx"
    model = ir.load(source)
    start = time.perf_counter()
    try:
        fuse_graph(model)
    except Exception as error:  # noqa: BLE001 - any error is a finding, and the next one is tried
        return {"verdict": "failed", "why": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - start
    ours = folder / f"{name}.{form}.ours.onnx"
    ir.save(model, ours)
    nodes = {"before": ops_of(source), "own": ops_of(own), "ours": ops_of(ours)}
    closest = {way: distance(folder / f"{name}.npz", source, path)
               for way, path in {"ours": ours, "own": own}.items()}  # fmt: skip
    return {
        "verdict": verdict(nodes, closest["ours"]["verdict"]),
        "counted": {way: total(ops, COUNTED) for way, ops in nodes.items()},
        "all": {way: total(ops) for way, ops in nodes.items()},
        "outputs": closest,
        "seconds": round(seconds, 2),
        "nodes": {way: {op: ops.get(op, 0) for op in SHOWN} for way, ops in nodes.items()},
    }


def left_by(tool: str, source: Path, peer: str) -> str:
    """Return the nodes that another tool leaves, or what it says instead."""
    with tempfile.TemporaryDirectory(prefix="reparam-graph-peers-") as scratch:
        output = Path(scratch) / "x.onnx"
        try:
            take(tool, source, output, peer)
        except Failed as failure:
            return str(failure)
        ops = ops_of(output)
    return f"{total(ops, COUNTED)} ({total(ops)})"


def ops_of(path: Path) -> Mapping[str, int]:
    """Return how many nodes of which operator a file has; a Constant is a weight, not a node."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return Counter(node.op_type for node in nodes if node.op_type != "Constant")


def total(ops: Mapping[str, int], of: Iterable[str] | None = None) -> int:
    return sum(ops.get(op, 0) for op in (ops if of is None else of))


def verdict(nodes: Mapping[str, Mapping[str, int]], outputs: str) -> str:
    """Return what is to be said of a result: it has to be the same function with as few nodes."""
    if outputs == "different":
        return outputs
    ours, own = total(nodes["ours"], COUNTED), total(nodes["own"], COUNTED)
    return "fewer" if ours < own else "as few" if ours == own else "more"


def distance(probe: Path, reference: Path, candidate: Path) -> Row:
    """Return the worst output's distance from the truth, in units of the bound and of scale."""
    from reparam.adapters.closeness import closeness

    with np.load(probe) as arrays:
        images = arrays["images"]
        truth = [arrays[f"truth_{n}"] for n in range(len(arrays.files) - 1)]
    found, known = run(candidate, images), run(reference, images)
    each = [closeness(*three) for three in zip(truth, known, found, strict=True)]
    worst = max(each, key=lambda one: one.distance / one.bound)
    kinds = [one.verdict for one in each]
    return {
        "verdict": next((k for k in ("different", "undecidable") if k in kinds), "equal"),
        "of_bound": float(f"{worst.distance / worst.bound:.2g}"),
        "of_scale": float(f"{worst.distance / worst.scale:.1e}"),
    }


def run(path: Path, images: np.ndarray) -> Sequence[np.ndarray]:
    from reparam.adapters.onnx_runtime import open_session, run_onnx

    return run_onnx(open_session(path, threads=2), images)


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown table: Conv + BatchNormalization + Add, and all nodes in brackets."""
    tools = list(next((row["tools"] for row in rows if row.get("tools")), {}))
    columns = ["network", "form", "before", *tools, "its own", "ours", "outputs", "verdict", "s"]
    lines = [columns, ["---" if c in WORDS else "---:" for c in columns]]
    lines += [line(row, tools) for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def line(row: Row, tools: Sequence[str]) -> list[str]:
    """Return the cells of a row; outputs are worst distance / bound."""
    name = [row["network"], row["form"]]
    others = [row.get("tools", {}).get(tool, "") for tool in tools]
    if "counted" not in row:
        return [*name, "", *others, "", "", "", row["verdict"], ""]
    before, own, ours = (
        f"{row['counted'][way]} ({row['all'][way]})" for way in ("before", "own", "ours")
    )
    found = row["outputs"]["ours"]
    outputs = f"{found['verdict']}, {found['of_bound']:g}"
    return [*name, before, *others, own, ours, outputs, row["verdict"], f"{row['seconds']:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
