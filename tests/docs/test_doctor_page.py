"""The table of docs/doctor.md says what the records say."""

from __future__ import annotations

from pathlib import Path

from reparam.adapters import trials
from reparam.environment.known import FAULTS
from reparam.environment.packages import PACKAGES

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")


def row(fault) -> str:
    when = "; ".join(str(condition) for condition in fault.when)
    return f"| {fault.id} | {when} | {'yes' if fault.by_reparam else 'no'} | {fault.source} |"


def test_every_fault_is_a_row_and_every_row_a_fault():
    _, _, table = PAGE.partition("## Known faults")
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert rows == [row(fault) for fault in FAULTS]


def test_every_trial_is_there():
    for package in PACKAGES:
        for step in package.steps:
            assert callable(getattr(trials, f"try_{step.partition(':')[0]}"))
