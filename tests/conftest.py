"""What every test runs with."""

from __future__ import annotations

import compileall
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Tests start hundreds of `reparam` processes, and compiling the source is half of the time of each.
# It is compiled here once, whatever the environment says. They write no byte code themselves: some
# run on a full disk, where Python leaves a file that is cut short.
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" not in os.environ:
    for folder in ("reparam", "models"):
        compileall.compile_dir(ROOT / folder, quiet=2)
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
