"""README.md and README_cn.md say the same: what needs no translation is identical."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = "README.md", "README_cn.md"

_CODE = re.compile(r"`[^`]+`")
_LINK = re.compile(r"\]\(([^)]+)\)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")


@dataclass
class Section:
    """One heading and what stands below it, up to the next."""

    level: int
    title: str
    prose: list[str]
    code: list[str]
    tables: list[list[list[str]]]


def read(text: str) -> list[Section]:
    sections = [Section(0, "(before the first heading)", [], [], [])]
    for block in blocks(text):
        first = block.splitlines()[0]
        if heading := re.match(r"(#+) (.*)", first):
            sections.append(Section(len(heading[1]), heading[2], [], [], []))
        elif first.startswith(("```", "    ")):
            sections[-1].code.append(block)
        elif first.startswith("|"):
            rows = [row.strip("|").split("|") for row in block.splitlines()]
            sections[-1].tables.append([[cell.strip() for cell in row] for row in rows])
        else:
            sections[-1].prose.append(block)
    return sections


def blocks(text: str) -> list[str]:
    """Return what blank lines separate, code in fences whole."""
    found: list[list[str]] = [[]]
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if line.strip() or fenced:
            found[-1].append(line)
        else:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def differences(english: str, chinese: str) -> list[str]:
    """Return what is in one text and not in the other, a line each; empty if they are in step."""
    ours, theirs = read(english), read(chinese)
    levels = [[section.level for section in sections] for sections in (ours, theirs)]
    if levels[0] != levels[1]:
        titles = [[section.title for section in sections] for sections in (ours, theirs)]
        return [f"the headings differ: {titles[0]} in {ENGLISH}, {titles[1]} in {CHINESE}"]
    found: list[str] = []
    for first, second in zip(ours, theirs, strict=True):
        found += [f"'{first.title}': {text}" for text in _in_section(first, second)]
    return found


def _in_section(first: Section, second: Section) -> list[str]:
    found = []
    for what in ("prose", "code", "tables"):
        counts = [len(getattr(section, what)) for section in (first, second)]
        if counts[0] != counts[1]:
            found.append(f"{counts[0]} pieces of {what} in {ENGLISH}, {counts[1]} in {CHINESE}")
    for number, (one, other) in enumerate(zip(first.code, second.code, strict=False), 1):
        found += [f"code block {number}: {text}" for text in _lines(one, other)]
    for number, (one, other) in enumerate(zip(first.prose, second.prose, strict=False), 1):
        found += [f"paragraph {number}: {text}" for text in _untranslated(one, other)]
    for number, (one, other) in enumerate(zip(first.tables, second.tables, strict=False), 1):
        found += [f"table {number}: {text}" for text in _in_table(one, other)]
    return found


def _in_table(one: list[list[str]], other: list[list[str]]) -> list[str]:
    shapes = [[len(row) for row in table] for table in (one, other)]
    if shapes[0] != shapes[1]:
        return [f"cells by row: {shapes[0]} in {ENGLISH}, {shapes[1]} in {CHINESE}"]
    return [
        f"row '{row[0]}': {text}"
        for row, other_row in zip(one, other, strict=True)
        for cells in zip(row, other_row, strict=True)
        for text in _untranslated(*cells)
    ]


def _untranslated(one: str, other: str) -> list[str]:
    """Compare code, targets of links and numbers; every language has them alike."""
    found = _only("code", _CODE.findall(one), _CODE.findall(other))
    one, other = _CODE.sub("", one), _CODE.sub("", other)
    links = [
        [link for link in _LINK.findall(text) if link not in (ENGLISH, CHINESE)]
        for text in (one, other)
    ]
    found += _only("links", *links)
    one, other = _LINK.sub("]", one), _LINK.sub("]", other)
    return found + _only("numbers", _NUMBER.findall(one), _NUMBER.findall(other))


def _lines(one: str, other: str) -> list[str]:
    return _only("lines", one.splitlines(), other.splitlines()) or (
        [] if one == other else ["the order of the lines differs"]
    )


def _only(what: str, one: list[str], other: list[str]) -> list[str]:
    first, second = Counter(one), Counter(other)
    return [
        f"{what} only in {name}: {sorted((mine - others).elements())}"
        for name, mine, others in ((ENGLISH, first, second), (CHINESE, second, first))
        if mine - others
    ]


@pytest.fixture(scope="module")
def texts() -> tuple[str, str]:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in (ENGLISH, CHINESE))
    return english, chinese


def test_they_are_in_step(texts):
    found = differences(*texts)
    assert not found, "\n".join([f"{ENGLISH} and {CHINESE} are not in step:", *found])


def test_they_point_to_each_other_at_the_top(texts):
    for text, other in zip(texts, (CHINESE, ENGLISH), strict=True):
        assert f"]({other})" in text.splitlines()[2]


def test_links_lead_to_files(texts):
    for text in texts:
        for link in _LINK.findall(text):
            if "://" not in link:
                assert (ROOT / link.partition("#")[0]).exists(), link


def test_the_chinese_one_is_chinese(texts):
    """Every paragraph, so that none is left untranslated."""
    for section in read(texts[1])[2:]:
        for text in (section.title, *section.prose):
            assert re.search(r"[\u4e00-\u9fff]", text), text


ORIGINAL = """# Title

Some `code` in 12 words, see [docs](docs).

    command --option

| a | b |
|---|---|
| one | 1.5x |

```
$ first

$ second
```
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# Title", "# Title\n\n## More", "headings differ"),
        ("`code`", "`Code`", "code only in README.md: ['`code`']"),
        ("12", "13", "numbers only in README_cn.md: ['13']"),
        ("(docs)", "(tests)", "links only in README.md: ['docs']"),
        ("--option", "--other", "lines only in README_cn.md: ['    command --other']"),
        ("| one | 1.5x |", "| one | 1.5x |\n| two | 2 |", "cells by row"),
        ("1.5x", "1.6x", "row 'one': numbers only in README.md: ['1.5']"),
        ("$ first\n\n$ second", "$ second\n\n$ first", "order of the lines"),
        ("$ second\n", "", "lines only in README.md: ['$ second']"),
        ("Some", "First.\n\nSome", "1 pieces of prose in README.md, 2"),
    ],
)
def test_a_difference_is_named(old, new, said):
    assert differences(ORIGINAL, ORIGINAL) == []
    assert said in "\n".join(differences(ORIGINAL, ORIGINAL.replace(old, new, 1)))
