"""What commands share: arguments, parsing, and how reports reach the terminal."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from reparam.commands.output import VERBOSE, json_option, loudness, note, print_error, print_json
from reparam.commands.progress import progress
from reparam.commands.tables import stdout, table

__all__ = [  # with what commands take from here though it has files of its own
    "ending_text", "epsilon_option", "family_option", "force_option", "json_option",
    "limit", "prefix_option", "print_error", "print_json", "progress", "settings_option",
    "size_of", "sizes_of", "stdout", "table", "tell_unused",
]  # fmt: skip


def limit() -> int:
    """Return how many rows a table has: a report does not grow with the network unless asked to."""
    return sys.maxsize if loudness() == VERBOSE else 8


def tell_unused(names: Iterable[str], why: str) -> list[str]:
    """Return a notice for each option in ``names`` that was given all the same, and print it.

    Args:
        names: of parameters of the running command, such as ``input_size``.
        why: they have no effect.
    """
    context = click.get_current_context()
    typed = click.core.ParameterSource.COMMANDLINE
    notices = [
        f"{max(parameter.opts, key=len)} has no effect: {why}"
        for parameter in context.command.params
        if parameter.name in set(names) and context.get_parameter_source(parameter.name) is typed
    ]
    told = context.meta.setdefault("reparam.told", set())  # once, of several files
    for notice in notices:
        if notice not in told:
            note(notice)
            told.add(notice)
    return notices


def ending_text(output: Path | None, changes: bool, beside: Path | None = None) -> str:
    """Return the last line about a file: where the result is, or why there is none.

    Args:
        changes: whether there was anything to do; without an output, it was a dry run then.
        beside: a second file that belongs to the output.
    """
    if output is not None:
        return f"wrote {output}{f' and {beside}' if beside is not None else ''}"
    if changes:
        return "dry run: nothing was written"
    return "nothing to do, so nothing was written; -o writes the input under another name"


force_option = click.option("--force", is_flag=True, help="Replace an existing output.")
epsilon_option = click.option(
    "--epsilon",
    type=click.FloatRange(min=0),
    help="Of the BatchNorms, in place of what the family says; no checkpoint stores it.",
)
prefix_option = click.option(
    "--prefix",
    metavar="NAME",
    help="Use only the weights under this name or prefix, such as ema or backbone, and take it "
    "off. Wrappers such as module. are taken off without it.",
)
family_option = click.option(
    "--family",
    "families",
    multiple=True,
    metavar="NAME",
    help="The family of blocks whose names and shapes fit several. Repeatable; reparam inspect "
    "--families lists them.",
)
settings_option = click.option(
    "--model-arg",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _, __, given: dict(_setting(text) for text in given),
    help="A setting of the architecture that the checkpoint does not tell, such as act=relu.",
)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"'{text}' is not NAME=VALUE")
    spelt = {"true": "True", "false": "False", "none": "None", "null": "None"}
    try:
        return name, ast.literal_eval(spelt.get(value.lower(), value))
    except (ValueError, SyntaxError):
        return name, value  # a word, such as relu


def sizes_of(text: str | None) -> list[tuple[int, int]] | None:
    """Parse ``--input-size``: N or HxW, a comma between several."""
    return None if text is None else [_size(part.strip()) for part in text.split(",")]


def size_of(text: str | None) -> tuple[int, int] | None:
    """Parse an ``--input-size`` that takes one size."""
    return None if text is None else _size(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})(?:[xX]([1-9]\d{0,4}))?", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not a size; write 224 or 480x640",
                                 param_hint="--input-size")  # fmt: skip
    height = int(match[1])
    return height, int(match[2] or height)
