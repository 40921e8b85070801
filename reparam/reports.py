"""What every report can do: one line, a table in a notebook, and values for JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


class Report:
    """Base of what the public functions return. Its dataclasses are made with ``repr=False``.

    A report says in ``summary`` what it comes to, and in ``to_json`` what it holds.
    """

    __slots__ = ()

    @property
    def summary(self) -> str:
        """What it comes to, in one line."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the command prints with ``--json``."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the same as values that ``json.dumps`` takes: texts, numbers, lists and dicts."""
        plain: dict[str, Any] = plain_value(self.to_json())
        return plain

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(self.summary.split())}>"

    def _repr_html_(self) -> str:
        """Return what the command prints, for a notebook."""
        # Late and by name: commands are above all that makes reports, and need click and rich.
        shown: str = import_module("reparam.commands.showing").shown(self)
        return f"<pre>{html.escape(shown)}</pre>"


def plain_value(value: Any) -> Any:
    """Return ``value`` as JSON knows it; NaN, infinity and paths become text."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def written_text(source: object, done: str, output: object) -> str:
    """Return the summary of a file that was made of another one."""
    return f"{source}: {done}{f', wrote {output}' if output is not None else ', nothing written'}"
