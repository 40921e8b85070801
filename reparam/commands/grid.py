"""What we change in rich; imported late, because rich is slow to load for a ``--help``."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

_WORD = 16  # characters of a text column that stay together if they are one word
_GAP = 2  # between columns


class ReportConsole(Console):
    """A console for reports that other programs read as well."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; outside a terminal, text is not broken into lines, and no line ends in blanks."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        if all(isinstance(item, str) for item in objects):
            options.setdefault("soft_wrap", True)
        with self.capture() as shown:
            super().print(*objects, **options)
        lines = (line.rstrip() for line in shown.get().split("\n"))
        super().print("\n".join(lines), end="", soft_wrap=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which says "the answer is no"


class Grid(Table):
    """A table without lines, whose numbers are never cut or wrapped.

    Where it would not fit, every row becomes lines of a name and a value.
    """

    def __init__(self, *columns: str, title: str | None = None) -> None:
        gap = (0, _GAP, 0, 0)
        super().__init__(
            title=title, title_justify="left", box=None, pad_edge=False, padding=gap
        )  # fmt: skip
        for column in columns:
            numeric = column.startswith("#")
            self.add_column(
                column.lstrip("#"),
                justify="right" if numeric else "left",
                no_wrap=numeric,
                overflow="fold",
            )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._needed() <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._lines().__rich_console__(console, options)

    def _needed(self) -> int:
        return sum(map(_narrowest, self.columns)) + _GAP * (len(self.columns) - 1)

    def _lines(self) -> Table:
        """Return one line for each cell that holds something, rows apart from each other."""
        lines = Grid("", "", title=str(self.title) if self.title else None)
        lines.show_header = False
        names = [str(column.header) for column in self.columns]
        rows = list(zip(*(column.cells for column in self.columns), strict=True))
        for number, row in enumerate(rows):
            if number:
                lines.add_row("", "")
            for name, cell in zip(names, row, strict=True):
                if cell:
                    lines.add_row(name, cell)
        return lines


def _narrowest(column: Column) -> int:
    """Return the characters that a column needs before it can no longer be read."""
    cells = [str(column.header), *map(str, column.cells)]
    if column.no_wrap:
        return max(Text(cell).cell_len for cell in cells)
    words = [word for cell in cells for word in cell.split()]
    return max((min(Text(word).cell_len, _WORD) for word in words), default=0)
