"""JSON on stdout, errors on stderr. Imports what every command can, were all else broken."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

import click

from reparam.errors import ReparamError
from reparam.reports import plain_value
from reparam.version import tool_version

QUIET, NORMAL, VERBOSE = -1, 0, 1
_ALIKE = 0.75  # of difflib, without the dashes that all options share
_LOUDNESS = "reparam.loudness"

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def set_loudness(ctx: click.Context, wanted: int) -> None:
    """Note how much the running command prints.

    Raises:
        UsageError: both were asked for.
    """
    if ctx.meta.setdefault(_LOUDNESS, wanted) != wanted:
        raise click.UsageError("--quiet and --verbose exclude each other", ctx)


def loudness() -> int:
    """Return how much the running command prints: QUIET, NORMAL or VERBOSE."""
    context = click.get_current_context(silent=True)
    found: int = NORMAL if context is None else context.meta.get(_LOUDNESS, NORMAL)
    return found


def note(text: str) -> None:
    """Print a notice on stderr, unless the command is to be quiet."""
    if loudness() > QUIET:
        click.echo(f"note: {text}", err=True)


def print_json(
    command: str, verdict: str, fields: dict[str, Any], *, schema: str | None = None
) -> None:
    """Print the one JSON object of ``--json`` on stdout.

    Args:
        schema: its name, where the command has more than one.
    """
    head = {
        "schema": f"reparam.{schema or command}/1",
        "tool_version": tool_version(),
        "command": command,
        "verdict": verdict,
    }
    click.echo(json.dumps(plain_value({**head, **fields}), allow_nan=False, indent=1))


def print_error(error: ReparamError, as_json: bool) -> None:
    """Print an error on stderr, and as an object on stdout if JSON was asked for."""
    label = click.style("Error:", fg="red", bold=True) if _coloured() else "Error:"
    click.echo(f"{label} {error}", err=True)
    if as_json:
        head = {"schema": "reparam.error/1", "tool_version": tool_version(), "verdict": "error"}
        click.echo(json.dumps({**head, "error": error_fields(error)}))


def error_fields(error: ReparamError) -> dict[str, str]:
    """Return an error as JSON has it."""
    return {"what": error.what, "found": error.found, "why": error.why, "try": error.hint}


def as_ours(error: Exception) -> ReparamError:
    """Return an error that a command may end with as one of ours."""
    if isinstance(error, ReparamError):
        return error
    if isinstance(error, click.NoSuchOption):
        near = _near(error.option_name, error.possibilities or ())
        error = click.NoSuchOption(error.option_name, possibilities=near, ctx=error.ctx)
    if isinstance(error, click.ClickException):
        ctx = getattr(error, "ctx", None)
        path = ctx.command_path if ctx else "reparam"
        return ReparamError(error.format_message().rstrip("."), hint=f"{path} --help")
    if isinstance(error, OSError):  # outside of the files that commands read and write
        where = f": '{error.filename}'" if error.filename else ""
        return ReparamError(f"{error.strerror or error}{where}")
    return ReparamError("there is not enough memory", found=str(error))


def _near(given: str, names: Iterable[str]) -> list[str]:
    """Return the options that ``given`` may be a slip of, or the beginning."""
    typed = given.lstrip("-")
    return [
        name
        for name in names
        if name.lstrip("-").startswith(typed)
        or SequenceMatcher(None, typed, name.lstrip("-")).ratio() >= _ALIKE
    ]


def _coloured() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not plain
