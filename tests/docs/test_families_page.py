"""docs/families.md has a row for every record, and its cells say what the records say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from reparam.checkpoint.families import FAMILIES, Family

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "families.md"
GOLDEN = ROOT / "tests" / "golden" / "families"
HEADER = ["family", "recognised by", "becomes", "epsilon", "golden source", "remarks"]

Row = dict[str, str]


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [
        [cell.strip().replace("\0", "|") for cell in line.replace("\\|", "\0")[1:-1].split("|")]
        for line in lines
    ]
    start = cells.index(HEADER)
    table = cells[start + 2 :]
    assert all(len(row) == len(HEADER) for row in table)
    return [dict(zip(HEADER, row, strict=True)) for row in table]


@cache
def recorded() -> dict[tuple[str, str], set[str]]:
    """Return the packages that each region was recorded from."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in GOLDEN.glob("*.npz"):
        with np.load(path) as stored:
            about = json.loads(str(stored["about"]))
        found.setdefault((about["family"], about.get("part", "")), set()).add(about["source"])
    return found


def needed(family: Family) -> Row:
    """Return what the cells of a record's row have to be, but for the remarks."""
    names = ", ".join(f"`{anchor}`" for anchor in family.anchors)
    paddle, torch = (
        "ask" if value is None else f"{value:g}" if value else "none"
        for value in (family.epsilon.paddle, family.epsilon.torch)
    )
    sources = recorded().get((family.name, family.part), set())
    return {
        "family": f"{family.name}, `{family.part}`" if family.part else family.name,
        "recognised by": names or "all names",
        "becomes": f"`{family.deploy}`" if family.deploy else "in its place",
        "epsilon": paddle if paddle == torch else f"{paddle} | {torch}",
        "golden source": ", ".join(sorted(sources)) or "-",
    }


def test_every_record_has_a_row_that_says_what_it_is() -> None:
    found = {row["family"]: {k: v for k, v in row.items() if k != "remarks"} for row in rows()}
    for family in FAMILIES:
        row = needed(family)
        assert found.get(row["family"]) == row


def test_every_row_is_of_a_record() -> None:
    names = [row["family"] for row in rows()]
    assert sorted(names) == sorted(needed(family)["family"] for family in FAMILIES)


def test_every_golden_file_is_of_a_record() -> None:
    assert set(recorded()) <= {(family.name, family.part) for family in FAMILIES}


def test_the_readmes_count_the_families() -> None:
    count = len({family.name for family in FAMILIES})
    for name, words in (("README.md", f"{count} families"), ("README_cn.md", f"{count} 个系列")):
        assert words in (ROOT / name).read_text(encoding="utf-8")
