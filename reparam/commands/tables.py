"""Where reports go: a terminal, or plain text for files and other programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

    from reparam.commands.grid import Grid

_WIDTH = 100  # of tables when not in a terminal


def stdout() -> Console:
    """Return the console for reports: plain text of a fixed width when not a terminal.

    NO_COLOR keeps bold away as well; rich honours FORCE_COLOR, TERM and COLUMNS.
    """
    from reparam.commands.grid import ReportConsole

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = ReportConsole(highlight=False, markup=False, emoji=False, color_system=colours)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


def table(*columns: str, title: str | None = None) -> Grid:
    """Return an empty table; a column whose name starts with ``#`` holds numbers."""
    from reparam.commands.grid import Grid

    return Grid(*columns, title=title)
