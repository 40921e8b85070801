"""`reparam export` against tracing and the bare converter, on one network at its full size.

    python -m benchmarks.export_speed [--rounds 5] [--network cspresnet_l]

The baseline is what any export with these tools has to do: build the deploy form, load fused
weights, `paddle.jit.save`, `paddle2onnx.export` without its optimiser. `reparam export` starts
from the train-time checkpoint, so it also fuses, cleans, writes and checks. A process for each
measurement, in alternating order; prints one JSON line with the ratio of medians, of elapsed time
(which may use two cores) and of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.full_size import SETTINGS, SIZES, shapes_of
from reparam import fuse, save_checkpoint
from tests.weights import random_arrays

TARGET = 1.5

BASELINE = """
import sys
import paddle, paddle2onnx
from reparam.models import create_model
name, checkpoint, folder, settings, size = sys.argv[1:]
model = create_model(name, deploy=True, **eval(settings))
state = paddle.load(checkpoint)
model.set_state_dict(state)
model.eval()
spec = paddle.static.InputSpec([None, 3, *eval(size)], "float32", model.input_name)
paddle.jit.save(model, folder + "/model", input_spec=[spec])
content = paddle2onnx.export(folder + "/model.json", folder + "/model.pdiparams", None,
                             opset_version=17, optimize_tool=None)
open(folder + "/model.onnx", "wb").write(content)
"""


def measured(command: list[str]) -> dict[str, float]:
    """Return the seconds that a command takes, elapsed and of processors."""
    start, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.communicate()[1]
    elapsed, after = time.perf_counter() - start, os.times()
    if process.returncode != 0:
        sys.exit(errors.decode(errors="replace"))
    used = [t.children_user + t.children_system for t in (before, after)]
    return {"elapsed": elapsed, "processor": used[1] - used[0]}


def measure(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    family = name.partition("_")[0]
    source = folder / "net.pdparams"
    save_checkpoint(source, random_arrays(shapes_of(name)))
    fused = fuse(source)
    size = SIZES[family]
    text = "x".join(map(str, size))
    commands = {
        "baseline": [sys.executable, "-W", "ignore", "-c", BASELINE, name, str(fused.output),
                     str(folder), repr(SETTINGS[family]), repr(size)],
        "reparam": [sys.executable, "-m", "reparam", "export", str(source),
                    "--onnx", str(folder / "net.onnx"), "--input-size", text, "--force"],
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {what: [] for what in commands}
    for at in range(rounds):
        order = list(commands) if at % 2 == 0 else list(commands)[::-1]
        for what in order:
            found[what].append(measured(commands[what]))
    seconds = {
        what: {
            kind: [round(sample[kind], 2) for sample in samples]
            for kind in ("elapsed", "processor")
        }
        for what, samples in found.items()
    }
    return {
        "benchmark": "export_speed",
        "network": name,
        "input_size": list(size),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "seconds": seconds,
        **{f"ratio_{kind}": ratio(seconds, kind) for kind in ("elapsed", "processor")},
        "target": TARGET,
    }


def ratio(seconds: dict[str, dict[str, list[float]]], kind: str) -> float:
    ours, theirs = (statistics.median(seconds[what][kind]) for what in ("reparam", "baseline"))
    return round(ours / theirs, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="cspresnet_l")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reparam-export-speed-") as folder:
        found = measure(options.network, Path(folder), options.rounds)
    print(json.dumps(found), flush=True)
    return 0 if found["ratio_elapsed"] <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
