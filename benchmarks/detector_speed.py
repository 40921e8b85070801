"""Export of a detector, and what decoding and selecting cost beside its network.

    python -m benchmarks.detector_speed [--rounds 6] [--seconds 2.0] [--threads N]
                                        [--export ppyoloe_plus_l] [--network ppyoloe_s]
                                        [--passing 200] [--size 640]

Export: ``reparam export`` of PP-YOLOE+ l with random weights, with its detections, in a process of
its own; seconds and the most memory that it and the converter it starts had at any time. Targets
are 60 s and 4 GB on 2 cores.

Latency: PP-YOLOE s at 640 pixels on onnxruntime, by the protocol of ``reparam bench``, a process
for each measurement, in alternating order:

    raw       the maps alone: the network
    nms       the same with decoding and selecting behind it
    no-fuse   the network as it trained, exported by the same path (--no-fuse)

The share of decoding and selecting is (nms - raw) / raw, by medians; the target is 5 %. On a
machine with other work that difference drowns, so it is also told by onnxruntime's profile of one
process: the time of the nodes behind the maps against that of the others, each node by the median
of its runs. That decides where the interval is wider than the target.

How much there is to select depends on the image: here the biases of the class logits are shifted
so that --passing scores are above the threshold of 0.01 on the very input that is measured with.
Another row, for which there is no target, has ten times as many.

Prints one JSON line for each. Exits with 1 if a target is missed.
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

import numpy as np

SECONDS, BYTES, SHARE = 60.0, 4e9, 0.05
THRESHOLD = 0.01
PROFILED = 20  # runs
EVERY = 0.02  # seconds between looks at memory


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--export", default="ppyoloe_plus_l", help="'' leaves it out")
    parser.add_argument("--network", default="ppyoloe_s", help="'' leaves it out")
    parser.add_argument("--passing", type=int, default=200)
    parser.add_argument("--size", type=int, default=640)
    options = parser.parse_args()
    good = True
    for row in rows(options):
        print(json.dumps({"benchmark": "detector_speed", **row}), flush=True)
        good &= row["target_met"]
    return 0 if good else 1


def rows(options: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory(prefix="reparam-detector-speed-") as folder:
        if options.export:
            yield measure_export(options.export, options.size, Path(folder))
        if options.network:
            yield measure_share(options, options.passing, Path(folder))
            many = measure_share(options, 10 * options.passing, Path(folder))
            yield {**many, "target": None, "target_met": True}


def measure_export(name: str, size: int, folder: Path) -> dict[str, Any]:
    from benchmarks.detector_weights import built, write

    source = folder / f"{name}.pdparams"
    write(built(name), source)
    found = export(source, folder / f"{name}.onnx", size, [])
    return {
        "what": "export",
        "network": name,
        "size": size,
        **found,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "target": {"seconds": SECONDS, "peak_bytes": BYTES},
        "target_met": found["seconds"] <= SECONDS and found["peak_bytes"] <= BYTES,
    }


def measure_share(options: argparse.Namespace, passing: int, folder: Path) -> dict[str, Any]:
    """Return times of the network alone, with its detections, and as it trained."""
    from benchmarks.detector_weights import built, let_pass, write
    from reparam.latency import ModelUnderTest, measure_models
    from reparam.latency.measure import INPUT_SEED

    shape = (1, 3, options.size, options.size)
    images = np.random.default_rng(INPUT_SEED).standard_normal(shape).astype(np.float32)
    layer = built(options.network)
    let_pass(layer, images, passing, THRESHOLD)
    source = folder / f"{options.network}.{passing}.pdparams"
    write(layer, source)
    files = {label: folder / f"{label}.{passing}.onnx" for label in ("raw", "nms", "no-fuse")}
    for label, path in files.items():
        head = "nms" if label == "nms" else "raw"
        extra = ["--no-fuse"] if label == "no-fuse" else []
        export(source, path, options.size, ["--head", head, "--batch", "1", *extra])
    found = measure_models(
        [ModelUnderTest(label, path) for label, path in files.items()],
        threads=options.threads,
        batch=1,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=0.5,
    )
    profiled = profiled_share(files["nms"], images, found.threads)
    against = {other.label: result for other, result in found.comparisons}
    median = {m.label: m.summary.median for m in found.measurements}
    share = median["nms"] / median["raw"] - 1
    interval = against["nms"].interval
    ends = sorted(1 / bound - 1 for bound in interval) if interval else [-1.0, 1.0]
    decisive = share if ends[1] - ends[0] <= SHARE else profiled
    return {
        "what": "share of decoding and selecting",
        "network": options.network,
        "size": options.size,
        "passing": passing,
        "detections": detections(files["nms"], images),
        "median_ms": {label: round(1e3 * value, 2) for label, value in median.items()},
        "share": round(share, 4),
        "interval": [round(end, 4) for end in ends],
        "profiled_share": round(profiled, 4),
        "no_fuse_speedup": round(median["no-fuse"] / median["raw"], 3),
        "verdicts": {label: result.verdict for label, result in against.items()},
        "threads": found.threads,
        "rounds": found.rounds,
        "environment": str(found.environment),
        "warnings": list(found.warnings),
        "target": SHARE,
        "target_met": decisive <= SHARE,
    }


def detections(path: Path, images: np.ndarray) -> int:
    """Return how many rows of the answer are detections."""
    from reparam.adapters.onnx_runtime import open_session

    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(None, {session.get_inputs()[0].name: images})
    return int(outputs[names.index("count")][0])


def profiled_share(path: Path, images: np.ndarray, threads: int) -> float:
    """Return the time of the nodes behind the maps, relative to that of all others."""
    import onnxruntime

    from reparam.adapters.head_model_joining import PREFIX

    settings = onnxruntime.SessionOptions()
    settings.enable_profiling, settings.intra_op_num_threads = True, threads
    settings.profile_file_prefix = str(path.with_suffix(".profile"))
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    for _ in range(PROFILED):
        session.run(None, {session.get_inputs()[0].name: images})
    taken: dict[str, list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault(event["name"], []).append(event["dur"])
    medians = {name: statistics.median(values) for name, values in taken.items()}
    head = sum(value for name, value in medians.items() if name.startswith(PREFIX))
    return head / (sum(medians.values()) - head)


def export(source: Path, output: Path, size: int, options: list[str]) -> dict[str, Any]:
    """Export by the command; return its time, and the most memory that it and its children had."""
    command = [sys.executable, "-m", "reparam", "export", str(source), "--onnx", str(output),
               "--input-size", str(size), *options]  # fmt: skip
    start, before = time.perf_counter(), os.times()
    log = output.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(resident, family(process.pid))))
            time.sleep(EVERY)
    seconds, after = time.perf_counter() - start, os.times()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()}")
    used = [t.children_user + t.children_system for t in (before, after)]
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used[1] - used[0], 1),
        "peak_bytes": peak,
        "file_bytes": output.stat().st_size,
    }


def family(pid: int) -> list[int]:
    """Return the processes that one has started, directly or not, and itself."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended meanwhile
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def resident(pid: int) -> int:
    """Return the bytes of a process in memory, pages shared with others included."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
