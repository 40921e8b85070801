"""Where reports go: a terminal, or plain text for files and other programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from reparam.commands.output import QUIET, loudness

if TYPE_CHECKING:
    from rich.console import Console

    from reparam.commands.grid import Grid

_UNWRAPPED = 1 << 20  # characters: no line of a table is as long


def stdout() -> Console:
    """Return the console for reports: plain text when not a terminal, nothing with ``--quiet``.

    Outside a terminal a line is as long as it has to be, unless COLUMNS says otherwise. NO_COLOR
    keeps bold away as well; rich honours FORCE_COLOR, TERM and COLUMNS.
    """
    from reparam.commands.grid import ReportConsole

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = ReportConsole(
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,  # a notebook shows reports as HTML, or what is printed as it is
        color_system=colours,
        quiet=loudness() == QUIET,
    )
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = _UNWRAPPED
    return console


def table(*columns: str, title: str | None = None) -> Grid:
    """Return an empty table; a column whose name starts with ``#`` holds numbers."""
    from reparam.commands.grid import Grid

    return Grid(*columns, title=title)
