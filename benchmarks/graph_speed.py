"""Time and memory of fusing a graph, against loading and saving it, and against other tools.

    python -m benchmarks.graph_speed [--rounds 3] [--peer-python PYTHON] [CASE ...]

Cases: chain:KIND for graphs of 1,000 and 10,000 nodes (chain:KIND:NODES for one of that size), of
the kinds that ``benchmarks.graph_chains`` describes; wide and narrow for files of 100 MiB; or the
path of an ONNX file. Every way is a process of its own, in alternating order: see
``benchmarks.graph_ways``. onnxslim and onnxsim take part where --peer-python, or the variable
REPARAM_PEER_PYTHON, names an interpreter that has them; they are ended after --limit seconds.

Prints a JSON line for each measurement, then for each case the medians, the nodes that are left
and the ratios that targets are stated in. Seconds, and cpu for those of processors, are those of
load, work and save, imports apart; process_seconds and process_cpu are of all that a process does.
The target of fuse is three floors, two runtimes and 2 s; "fuse / target" is of it.
Memory is the largest resident set of the process; ratios of it are to the file, with and without
what imports take. Growth is the exponent of cpu in the number of nodes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import graph_chains
from benchmarks.graph_chains import CHAINS
from benchmarks.graph_ways import PEERS, Failed, nodes_of, take

Medians = dict[str, dict[str, float]]

SIZES = (1_000, 10_000)
MIB = 100
BLOCKS = {"wide": 512, "narrow": 128}  # channels
OWN = ("imports", "floor", "runtime", "inspect", "stages", "ours")
PROCESSES = 2.0  # seconds that the target allows for processes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE",
                        default=[*(f"chain:{kind}" for kind in CHAINS), *BLOCKS])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("--peer-python", default=os.environ.get("REPARAM_PEER_PYTHON"))
    options = parser.parse_args()
    for case in options.cases:
        with tempfile.TemporaryDirectory(prefix="reparam-graph-speed-") as folder:
            found = [
                measure(name, path, options)
                for name, path in files_of(case, Path(folder))
            ]  # fmt: skip
        if len(found) > 1:
            report(case=case, growth=growth(*found))
    return 0


def files_of(case: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write and return the files of a case, by name."""
    path = folder / "x.onnx"
    if case in BLOCKS:
        write(str(MIB), BLOCKS[case], path)
        yield case, path
    elif case.startswith("chain:"):
        _, kind, *sizes = case.split(":")
        for nodes in map(int, sizes or SIZES):
            write(kind, nodes, path)
            yield f"chain:{kind}:{nodes}", path
    else:
        yield case, Path(case)


def write(what: str, number: int, path: Path) -> None:
    """Write a file by another process, so that this one stays small."""
    command = [sys.executable, graph_chains.__file__, what, str(number), str(path)]
    subprocess.run(command, check=True)


def measure(case: str, path: Path, options: argparse.Namespace) -> Medians:
    """Measure and print a file on every way; return the medians."""
    peer = options.peer_python
    ways = [*OWN, "command", *(PEERS if peer else ())]
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    left: dict[str, int] = {}
    for turn in range(options.rounds):
        for way in ways if turn % 2 == 0 else ways[::-1]:
            if turn and not samples[way]:
                continue  # it failed before
            with tempfile.TemporaryDirectory(prefix="reparam-graph-speed-") as folder:
                output = Path(folder) / "y.onnx"
                try:
                    found = take(way, path, output, peer, limit=options.limit)
                except Failed as failure:
                    samples[way] = []
                    report(case=case, way=way, round=turn, failed=str(failure))
                    continue
                left[way] = nodes_of(output) if output.exists() else 0
            samples[way].append(found)
            report(case=case, way=way, round=turn, **found)
    median: Medians = {way: medians(each) for way, each in samples.items() if each}
    nodes = {"before": nodes_of(path), **left}
    report(case=case, summary=True, file_mib=mib(path), nodes=nodes, medians=median,
           ratios=ratios(median, mib(path), nodes["before"]))  # fmt: skip
    return median | {"file": {"nodes": nodes["before"]}}


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in samples) for name in samples[0]}


def ratios(median: Medians, file_mib: float, nodes: int) -> dict[str, float]:
    """Return what the targets are stated in."""
    found: dict[str, float] = {}
    base = median["imports"]["peak_mib"]
    for way, numbers in median.items():
        if way == "imports":
            continue
        if "seconds" in numbers:
            for what in ("seconds", "cpu"):
                found[f"{what}, {way} / floor"] = numbers[what] / median["floor"][what]
            found[f"seconds a 1,000 nodes, {way}"] = numbers["seconds"] / nodes * 1_000
        for what in ("process_seconds", "process_cpu"):
            found[f"{what}, {way} / floor"] = numbers[what] / median["floor"][what]
        if file_mib >= MIB / 2:
            found[f"memory, {way} / file"] = numbers["peak_mib"] / file_mib
            found[f"memory less imports, {way} / file"] = (numbers["peak_mib"] - base) / file_mib
    if {"stages", "runtime"} <= median.keys():
        target = 3 * median["floor"]["cpu"] + 2 * median["runtime"]["cpu"] + PROCESSES
        found["cpu, fuse / target"] = median["stages"]["cpu"] / target
    return {name: round(value, 3) for name, value in found.items()}


def growth(few: Medians, many: Medians) -> dict[str, float]:
    """Return the exponents in the number of nodes, of the time of each way."""
    times = math.log(many["file"]["nodes"] / few["file"]["nodes"])
    return {
        way: round(math.log(many[way]["cpu"] / few[way]["cpu"]) / times, 2)
        for way in few
        if way in many and "cpu" in few[way] and way != "imports"
    }


def mib(path: Path) -> float:
    return round(path.stat().st_size / 2**20, 2)


def report(**fields: Any) -> None:
    around = {"load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps({"benchmark": "graph_speed", **around, **fields}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
