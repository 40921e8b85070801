"""Every variant with random weights through fuse, verify and export, and the table of it.

    python -m benchmarks.variants [--only 'repvgg_b*,cspresnet_s'] [--results build/variants.jsonl]

Each command runs in a process of its own, as a user runs it. Every variant adds one JSON line to
the results; one that is there is not run again (--again does). The Markdown table of all of them
goes to stdout. Exits with 1 if anything is not as it has to be.

Whether outputs can tell a wrong network is not taken for granted: the exported file is also
compared with a checkpoint whose first fused weight is wrong by 1 %, and has to differ from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.variant_table import table
from benchmarks.variant_weights import CHECKPOINTS, write_checkpoint
from reparam import load_checkpoint, save_checkpoint

Row = dict[str, Any]

# The setting that no checkpoint tells, and that changes what is run and exported.
TRT = "+trt"
VARIANTS = (*CHECKPOINTS, *(f"{name}{TRT}" for name in CHECKPOINTS if name.endswith("+alpha+stem")))


@dataclass(frozen=True)
class Command:
    """What one command came to."""

    code: int
    report: dict[str, Any]
    seconds: float
    peak_mib: int


def run(*arguments: str | Path) -> Command:
    """Run ``reparam`` in a process of its own; its log goes nowhere unless it fails."""
    command = [sys.executable, "-m", "reparam", *map(str, arguments), "--json"]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=out, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        log.seek(0)
        text = out.read().decode()
        if not text:
            raise RuntimeError(f"{' '.join(command)}\n{log.read().decode()}")
    report = json.loads(text)
    return Command(process.returncode, report, round(seconds, 1), usage.ru_maxrss // 1024)


def measure(name: str, sizes: str, input_size: str, folder: Path) -> Row:
    """Return what every command found in the variant ``name``."""
    source, onnx = folder / "variant.pdparams", folder / "variant.onnx"
    made = write_checkpoint(name.removesuffix(TRT), source)
    settings = ["--model-arg", "trt=True"] if name.endswith(TRT) else []
    commands = {"fuse": run("fuse", source, "-o", folder / "variant.deploy.pdparams")}
    fused = folder / "variant.deploy.pdparams"
    commands["verify"] = run("verify", source, fused, "--input-size", sizes, *settings)
    exporting = ("export", source, "--onnx", onnx, "--input-size", input_size)
    commands["export"] = run(*exporting, *settings)
    if commands["export"].code == 0:
        commands["verify onnx"] = run("verify", source, onnx, *settings)
        wrong = write_wrong(fused, commands["fuse"].report["fused"][0]["keys"][0])
        commands["verify wrong"] = run("verify", wrong, onnx, *settings)
    return {
        "variant": name,
        "probes": sizes,
        "input_size": input_size,
        **made,
        **_found(commands),
        "verdicts": {command: found.report.get("verdict") for command, found in commands.items()},
        "seconds": {command: found.seconds for command, found in commands.items()},
        "peak_mib": {command: found.peak_mib for command, found in commands.items()},
    }


def write_wrong(fused: Path, key: str) -> Path:
    """Write the checkpoint ``fused`` with the weight ``key`` wrong by 1 %; return where."""
    arrays = dict(load_checkpoint(fused).arrays)
    arrays[key] = arrays[key] * np.float32(1.01)
    path = fused.with_name("wrong.pdparams")
    save_checkpoint(path, arrays)
    return path


def _found(commands: dict[str, Command]) -> Row:
    fuse, export = commands["fuse"].report, commands["export"].report
    stages = [*commands["verify"].report["stages"]]
    if "verify onnx" in commands:
        stages += commands["verify onnx"].report["stages"]
    wrong = commands["verify wrong"].report["stages"] if "verify wrong" in commands else []
    blocks = next((stage["blocks"] for stage in stages if stage["name"] == "blocks"), [])
    ops = export.get("ops_after", {})
    return {
        "architecture": fuse["architecture"],
        "fused": len(fuse["fused"]),
        "fused_in_file": export.get("fused_blocks"),
        "parameters_in_file": export.get("parameters"),
        "convolutions_in_file": ops.get("Conv"),
        "batch_norms_in_file": ops.get("BatchNormalization", 0),
        "certificate": _worst_certificate([*fuse["fused"], *blocks]),
        "stages": {stage["name"]: _summary(stage) for stage in stages},
        "wrong": _summary(wrong[-1]) if wrong else {"verdict": None},
        "export": {k: export.get("worst", {}).get(k) for k in ("verdict", "distance", "bound")},
    }


def _worst_certificate(blocks: Iterable[Row]) -> Row | None:
    """Return the certificate that allows most, of those that the reports hold."""
    found = [
        {**block["certificate"], "where": block["where"]}
        for block in blocks
        if block.get("certificate")
    ]
    return max(found, key=lambda one: (one.get("roundings", 0.0), one["c"]), default=None)


def _summary(stage: Row) -> Row:
    """Return the verdict of a stage and, of the results that led to it, the worst."""
    everything = [*stage["blocks"], *stage["probes"]]
    results = [one for one in everything if one["verdict"] == stage["verdict"]]
    worst = max(results, key=lambda r: r["distance"] / (r["bound"] or 1e-300), default={})
    kept = {key: worst.get(key) for key in ("distance", "bound", "floor", "scale") if key in worst}
    return {"verdict": stage["verdict"], **kept}


def as_it_has_to_be(row: Row) -> bool:
    """Whether nothing differs, every block is one convolution and no BatchNorm is left."""
    verdicts = [stage["verdict"] for stage in row["stages"].values()] + [row["export"]["verdict"]]
    return (
        row["architecture"] == row["variant"].partition("+")[0]
        and set(verdicts) <= {"equal", "undecidable"}
        and row["wrong"]["verdict"] in ("different", "undecidable")
        and row["blocks"] == row["fused"] == row["fused_in_file"]
        and row["convolutions_deploy"] == row["convolutions_in_file"]
        and not row["batch_norms_in_file"]
        and row["parameters_deploy"] == row["parameters_in_file"]
    )


def read_results(path: Path) -> dict[str, Row]:
    """Return the rows of ``path`` by variant, the last one of each."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {row["variant"]: row for row in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*", help="names or patterns, a comma between several")
    parser.add_argument("--results", type=Path, default=Path("build/variants.jsonl"))
    parser.add_argument("--sizes", default="64,33x47", help="of the probes of verify")
    parser.add_argument("--input-size", default="64", help="of the exported file")
    parser.add_argument("--again", action="store_true", help="run what is in the results too")
    options = parser.parse_args()
    patterns = options.only.split(",")
    chosen = [name for name in VARIANTS if any(fnmatch(name, pattern) for pattern in patterns)]
    if not chosen:
        parser.error(f"no variant is named {options.only}; there are {', '.join(VARIANTS)}")
    rows = read_results(options.results)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        if name in rows and not options.again:
            continue
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="reparam-variants-") as folder:
            rows[name] = measure(name, options.sizes, options.input_size, Path(folder))
        with options.results.open("a") as results:
            results.write(json.dumps(rows[name]) + "\n")
    found = [rows[name] for name in chosen]
    print(table(found))
    wrong = [row["variant"] for row in found if not as_it_has_to_be(row)]
    if wrong:
        print(f"not as it has to be: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
