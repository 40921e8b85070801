"""The table of docs/hostile.md has a row for each hostile file of the tests, and no other."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.harness import Ran
from tools.hostile_table import HEAD, answer_of, cases

PAGE = (Path(__file__).parents[2] / "docs" / "hostile.md").read_text()


def test_the_page_has_a_row_for_each_case():
    assert HEAD in PAGE
    rows = [line.split(" | ") for line in PAGE.split(HEAD)[1].splitlines() if line[:1] == "|"]
    assert [row[:2] for row in rows] == [[f"| {case.kind}", case.name] for _, case in cases()]


def test_an_answer_is_the_exit_status_and_what_was_found():
    ran = Ran((), 2, "", "Error: cannot use it\n  found:  a|b\n  why:   no", 1.0, 0, ("x",))
    assert answer_of(ran) == r"2: a\|b; LEFT x"
    assert answer_of(Ran((), 0, "", "", 1.0, 0, ())) == "0: answered"
