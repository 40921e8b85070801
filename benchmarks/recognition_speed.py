"""How long it takes to tell the blocks of a checkpoint from its names and shapes.

    python -m benchmarks.recognition_speed [--runs 7] [CHECKPOINT ...]

Checkpoints, made here of random shapes, about 2,000 keys each: ``repvgg`` (one network of one
family), ``ppyoloe`` (a detector: blocks among many other layers), ``mobileone``, ``mixed`` (a
block of every family that is known, over and over), and ``plain`` (nothing but convolutions and
BatchNorms, named as blocks are not). Both spellings of a BatchNorm. Each measurement is a process
of its own that does nothing else; processes alternate between the checkpoints. The target is 50 ms
on top of reading the file.

Prints a JSON line for each measurement: processor time and wall time of the first call (nothing is
compiled or cached yet; what a command pays) and of the fastest of ten, and the baseline in the same
process, which is what every reader of the names does at least: one pass that splits each of them
at its dots and counts. Then the medians, their ratios to the baseline, and whether the target is
met. Exits with 1 if it is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

KEYS = 2000
TARGET = 0.05  # seconds of processor time, of the first call
REPEATS = 10

Shapes = dict[str, tuple[int, ...]]


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT",
                        help=f"of {', '.join(MAKERS)}; all by default")  # fmt: skip
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    cases = [(name, way) for name in options.checkpoints or MAKERS for way in ("paddle", "torch")]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for turn in range(options.runs):
        for case in cases if turn % 2 else reversed(cases):
            result = run(*case)
            found[case].append(result)
            report(checkpoint=case[0], spelling=case[1], run=turn, **result)
    met = [summed_up(case, results) for case, results in found.items()]
    return 0 if all(met) else 1


def summed_up(case: tuple[str, str], results: list[dict[str, Any]]) -> bool:
    """Report the medians of a checkpoint; return whether they meet the target."""
    times = [name for name in results[0] if name.endswith("_ms")]
    medians = {name: statistics.median(result[name] for result in results) for name in times}
    baseline = medians["baseline_cpu_ms"]
    met = medians["first_cpu_ms"] <= 1e3 * TARGET
    report(
        checkpoint=case[0],
        spelling=case[1],
        summary=True,
        keys=results[0]["keys"],
        blocks=results[0]["blocks"],
        **{name: round(value, 3) for name, value in medians.items()},
        first_over_baseline=round(medians["first_cpu_ms"] / baseline, 1),
        fastest_over_baseline=round(medians["fastest_cpu_ms"] / baseline, 1),
        target_ms=1e3 * TARGET,
        target_met=met,
    )
    return met


def report(**fields: Any) -> None:
    print(json.dumps({"benchmark": "recognition_speed", **fields}), flush=True)


def run(name: str, spelling: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.recognition_speed", "--child", name, spelling]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def child(name: str, spelling: str) -> None:
    """Print what one process measured."""
    from reparam.checkpoint.blocks import find_blocks

    shapes = MAKERS[name](spelling)
    first = timed(lambda: find_blocks(shapes))
    again = [timed(lambda: find_blocks(shapes)) for _ in range(REPEATS)]
    least = [timed(lambda: split(shapes)) for _ in range(REPEATS)]
    print(json.dumps({
        "keys": len(shapes),
        "blocks": len(find_blocks(shapes).blocks),
        "first_cpu_ms": first[0],
        "first_wall_ms": first[1],
        "fastest_cpu_ms": min(cpu for cpu, _ in again),
        "fastest_wall_ms": min(wall for _, wall in again),
        "baseline_cpu_ms": min(cpu for cpu, _ in least),
        "baseline_wall_ms": min(wall for _, wall in least),
    }))  # fmt: skip


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Return milliseconds of processor time and of wall time."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return round(1e3 * cpu, 4), round(1e3 * wall, 4)


def split(shapes: Mapping[str, tuple[int, ...]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for key in shapes:
        words = key.split(".")
        for count in range(1, len(words) + 1):
            counts[".".join(words[-count:])] += 1
    return counts


def repvgg(spelling: str) -> Shapes:
    from reparam.models import repvgg_layout

    blocks = (KEYS // 14 - 20, 4, 8, 8)  # blocks of 14 keys, one with fewer in each stage
    structure = repvgg_layout.Structure(num_blocks=blocks, widths=(16, 32, 64, 128))
    return spelt(repvgg_layout.layout(structure).shapes(), spelling)


def ppyoloe(spelling: str) -> Shapes:
    from reparam.models import cspresnet_layout

    structure = cspresnet_layout.Structure(
        layers=(3, 6, 6, 3), channels=(64, 128, 256, 512, 1024), use_alpha=True
    )
    backbone = cspresnet_layout.layout(structure).shapes()
    shapes = {f"backbone.{key}": shape for key, shape in backbone.items()}
    number = 0
    while len(shapes) < KEYS:  # a neck of the same blocks, and heads
        shapes |= {f"neck.fpn_stages.{number}.{key}": s for key, s in backbone.items()}
        shapes |= {f"yolo_head.stem_cls.{number}.conv.weight": (64, 64, 1, 1)}
        number += 1
    return spelt(shapes, spelling)


def mobileone(spelling: str) -> Shapes:
    from reparam.models import mobileone_layout

    settings = mobileone_layout.VARIANTS["mobileone_s0"]
    structure = mobileone_layout.Structure.of(**{**settings, "num_conv_branches": 6})
    return spelt(mobileone_layout.layout(structure).shapes(), spelling)


def mixed(spelling: str) -> Shapes:
    from reparam.checkpoint.blocks import find_blocks
    from reparam.checkpoint.families import FAMILIES
    from reparam.errors import CheckpointError
    from tests.checkpoint.families.random_blocks import random_block

    blocks = []
    for family in FAMILIES:
        block = {key: array.shape for key, array in random_block(family, spelling).items()}
        try:
            found = find_blocks(block).blocks
        except CheckpointError:  # names that two families share: --family is asked for
            continue
        blocks += [block] if len(found) == 1 else []
    shapes: Shapes = {}
    number = 0
    while len(shapes) < KEYS:
        block = blocks[number % len(blocks)]
        shapes |= {f"stages.{number}.{key}": shape for key, shape in block.items()}
        number += 1
    return shapes


def plain(spelling: str) -> Shapes:
    shapes: Shapes = {}
    for number in range(KEYS // 5):
        stem = f"layer{number % 4}.{number}"
        shapes[f"{stem}.conv1.weight"] = (64, 64, 3, 3)
        shapes |= {f"{stem}.bn1.{key}": (64,) for key in ("weight", "bias", "_mean", "_variance")}
    return spelt(shapes, spelling)


def spelt(shapes: Mapping[str, tuple[int, ...]], spelling: str) -> Shapes:
    """Return ``shapes`` with the statistics of BatchNorms in the spelling asked for."""
    if spelling == "paddle":
        return dict(shapes)
    names = {"_mean": "running_mean", "_variance": "running_var"}
    renamed = ((key.rpartition("."), shape) for key, shape in shapes.items())
    return {f"{stem}{dot}{names.get(last, last)}": s for (stem, dot, last), s in renamed}


MAKERS: dict[str, Callable[[str], Shapes]] = {
    "repvgg": repvgg,
    "ppyoloe": ppyoloe,
    "mobileone": mobileone,
    "mixed": mixed,
    "plain": plain,
}

if __name__ == "__main__":
    sys.exit(main())
