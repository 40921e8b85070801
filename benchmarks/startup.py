"""How long a command takes before it does anything: the help and the version.

    python -m benchmarks.startup [--runs 15]

Every run is a fresh process; the order alternates, so that what disturbs the machine disturbs all
alike. Prints one JSON line for each command, with the two baselines of the same runs: an
interpreter that does nothing, and one that imports click. Exits with 1 if the median of
``reparam --help`` is above the target.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

TARGET = 0.35  # seconds, of ``reparam --help`` on 2 cores
REPARAM = [sys.executable, "-m", "reparam"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "reparam --help": [*REPARAM, "--help"],
    "reparam --version": [*REPARAM, "--version"],
    "reparam fuse --help": [*REPARAM, "fuse", "--help"],
    "reparam export --help": [*REPARAM, "export", "--help"],
}


def seconds_of(command: list[str]) -> float:
    # As installed: compiled once, not every time.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        order = list(COMMANDS.items())
        for name, command in order if number % 2 else reversed(order):
            seconds = seconds_of(command)
            if number:  # the first reads everything from the disk
                samples[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    floor, click = list(medians.values())[:2]
    for name, values in samples.items():
        print(json.dumps({
            "benchmark": "startup",
            "command": name,
            "median_s": round(medians[name], 4),
            "min_s": round(min(values), 4),
            "max_s": round(max(values), 4),
            "runs": runs,
            "over_python": round(medians[name] / floor, 2),
            "over_click": round(medians[name] / click, 2),
        }))  # fmt: skip
    return 0 if medians["reparam --help"] <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
