"""docs/graphs.md names every operator that has a rule, and every pass in its order."""

from __future__ import annotations

from pathlib import Path

from reparam.graph.passes import PASSES
from reparam.graph.rules import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "graphs.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its head."""
    lines = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    return cells[2:]


def test_every_operator_with_a_rule_has_a_row():
    named = {name.strip() for row in rows("Operators") for name in row[0].split(",")}
    assert named == set(RULES)


def test_the_passes_are_those_there_are_in_their_order():
    told = [
        [one.name if one.on else f"{one.name} (off unless asked for)", one.does, one.place]
        for one in PASSES
    ]
    assert rows("Passes") == told
