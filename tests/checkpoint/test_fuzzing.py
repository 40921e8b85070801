"""Ten thousand mutated files: no crash, no hang, no large allocation, nothing executed.

REPARAM_FUZZ_FILES sets another number of files, REPARAM_FUZZ_SEED other files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, count: int, *more: str) -> dict:
    seed = os.environ.get("REPARAM_FUZZ_SEED", "20260101")
    command = [sys.executable, "-m", "tests.checkpoint.fuzzing", str(folder), str(count), seed]
    done = subprocess.run(
        [*command, *more], capture_output=True, text=True, timeout=60 + count / 50,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"the process died: {done.returncode}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout)


def test_mutated_files_are_read_or_refused_and_nothing_else_happens(tmp_path):
    count = int(os.environ.get("REPARAM_FUZZ_FILES", "10000"))
    found = run(tmp_path, count)
    assert found["problems"] == []
    assert found["left"] == []
    assert sum(found["results"].values()) == count
    # Mutants get everywhere: past the reader, into each refusal.
    assert found["results"]["read"] > count / 50
    assert found["results"]["UnsafeCheckpointError"] > count / 100
    assert found["results"]["PartError"] > 0
    assert found["results"]["OptimizerStateError"] > 0


def test_the_watching_catches_a_loader_that_runs_what_files_name(tmp_path):
    found = run(tmp_path, 300, "unsafe")
    assert any("import" in problem or "os.system" in problem for problem in found["problems"])
