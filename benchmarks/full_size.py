"""Full-size networks with random statistics through fuse, verify, export and bench.

    python -m benchmarks.full_size [--rounds 10] [--seconds 1.0] [repvgg_a0 cspresnet_l ...]

Prints one JSON line for each network: what every command found, the seconds it took, and the
latency of the deploy form against the train-time form, exported by the same path and measured in
the same run. Exits with 1 if anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from reparam import create_model, fuse, save_checkpoint, verify
from reparam.exporter import export
from reparam.exporter.benchmarking import Protocol, benchmark
from tests.weights import random_arrays

Result = TypeVar("Result")

SIZES = {"repvgg": (224, 224), "cspresnet": (640, 640)}
# PP-YOLOE+ uses its backbone like this.
SETTINGS = {"repvgg": {}, "cspresnet": {"use_large_stem": True, "use_alpha": True}}


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Return the state dict of a registered variant in train-time form, as names and shapes."""
    model = create_model(name, **SETTINGS[name.partition("_")[0]])
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def timed(seconds: dict[str, float], what: str, call: Callable[[], Result]) -> Result:
    start = time.perf_counter()
    result = call()
    seconds[what] = round(time.perf_counter() - start, 2)
    return result


def measure(name: str, folder: Path, protocol: Protocol) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    size = SIZES[name.partition("_")[0]]
    source = folder / f"{name}.pdparams"
    save_checkpoint(source, random_arrays(shapes_of(name)))
    fusion = timed(seconds, "fuse", lambda: fuse(source))
    proof = timed(seconds, "verify", lambda: verify(source, fusion.output))
    files = {"train-time": folder / f"{name}.unfused.onnx", "deploy": folder / f"{name}.onnx"}
    before = export(source, files["train-time"], input_size=size, batch=1, fuse=False)
    after = timed(
        seconds, "export", lambda: export(source, files["deploy"], input_size=size, batch=1)
    )
    onnx_proof = timed(seconds, "verify onnx", lambda: verify(source, files["deploy"]))
    latency = benchmark(list(files.values()), protocol)
    (_, comparison), (first, second) = latency.comparisons[0], latency.measurements
    return {
        "benchmark": "full_size",
        "network": name,
        "blocks": len(fusion.report.fused),
        "blocks_in_file": after.fused_blocks,
        "convolutions": [r.ops_after["Conv"] for r in (before, after)],
        "batch_norms": [r.ops_after.get("BatchNormalization", 0) for r in (before, after)],
        "parameters": [before.parameters, after.parameters],
        "verify": {stage.name: stage.verdict for stage in proof.stages},
        "verify_onnx": {stage.name: stage.verdict for stage in onnx_proof.stages},
        "export_difference": [after.worst.distance, after.worst.bound, after.worst.scale],
        "median_ms": [round(1e3 * m.summary.median, 2) for m in (first, second)],
        **comparison.to_json(),
        "threads": latency.threads,
        "warnings": list(latency.warnings),
        "seconds": seconds,
    }


def as_it_has_to_be(found: dict[str, Any]) -> bool:
    verdicts = {*found["verify"].values(), *found["verify_onnx"].values()}
    whole = found["blocks"] == found["blocks_in_file"] and not found["batch_norms"][1]
    extra = found["convolutions"][0] - found["convolutions"][1]
    return "different" not in verdicts and whole and extra == found["blocks"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["repvgg_a0", "cspresnet_l"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    good = True
    for name in options.networks:
        with tempfile.TemporaryDirectory(prefix="reparam-full-size-") as folder:
            protocol = Protocol(rounds=options.rounds, seconds=options.seconds)
            found = measure(name, Path(folder), protocol)
        print(json.dumps(found), flush=True)
        good &= as_it_has_to_be(found)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
