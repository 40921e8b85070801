"""``--json``: one object on stdout. Nothing heavy is imported here, so that every command can."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from reparam.version import tool_version

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def print_json(command: str, verdict: str, fields: dict[str, Any]) -> None:
    """Print the one JSON object of ``--json`` on stdout."""
    head = {
        "schema": f"reparam.{command}/1",
        "tool_version": tool_version(),
        "command": command,
        "verdict": verdict,
    }
    click.echo(json.dumps(_plain({**head, **fields}), allow_nan=False, indent=1))


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it; NaN, infinity and paths become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
