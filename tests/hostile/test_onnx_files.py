"""ONNX files that are made to crash, stall or starve who reads them, through the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import reparam
from tests.hostile import onnx_files
from tests.hostile.harness import TIMEOUT, Case, check, run

CHECKPOINT = Path(reparam.__file__).with_name("example") / "fashion_repvgg.pdparams"
BY_NAME = {case.name: case for case in onnx_files.CASES}
ONE_OF_EACH = [
    ("fuse", "2^30 calls"),
    ("fuse", "an image of 1.2 billion numbers"),
    ("fuse", "a Loop of 2^62 turns, computed"),
    ("inspect", "1,000,000 empty nodes"),
    ("inspect", "a Tile to 2 GiB"),
    ("bench", "a Tile to 2 GiB"),
]
"""One command for each class; tests/graph/test_looking.py tests the reader that all share."""


def arguments(command: str, path: Path, original: Path = CHECKPOINT) -> list[object]:
    """Return a command line that reads a file."""
    limits = ["--timeout", TIMEOUT]
    return {
        "fuse": ["fuse", path.name, *limits],
        "inspect": ["inspect", path.name, *limits],
        "why": ["inspect", path.name, "--why", "y", *limits],
        "verify": ["verify", original, path.name, *limits],
        "bench": ["bench", path.name, "--rounds", 1, "--seconds", 0.1, *limits],
    }[command]


def expected(command: str, case: Case) -> tuple[int, str]:
    """Return the exit status and what is said: what is too large is not run, but can be read."""
    if command in ("inspect", "why") and case not in onnx_files.REFUSED:
        return 0, ""
    if command == "bench" and case in onnx_files.TOO_LARGE:
        return 2, "cannot run"
    if command == "verify" and case in onnx_files.TOO_LARGE:
        return 2, "cannot run"
    if command == "verify" and case not in onnx_files.REFUSED:
        return 1, "different"  # it takes images of other channels, which is told without running it
    if command == "bench" and case in onnx_files.STARVING:
        return 2, "no answer after"
    return case.code, case.says


def answer(command: str, case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    path = case.make(folder)
    code, says = expected(command, case)
    check(run(arguments(command, path), folder), code=code, says=says)


@pytest.mark.parametrize(("command", "name"), ONE_OF_EACH)
def test_one_command_for_each_class(command, name, tmp_path):
    answer(command, BY_NAME[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", onnx_files.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("command", ["fuse", "inspect", "why", "verify", "bench"])
def test_every_command(command, case, tmp_path):
    answer(command, case, tmp_path)
