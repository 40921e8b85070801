"""What commands share: arguments, parsing, and how reports reach the terminal."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from reparam.checkpoint.opening import ENDINGS
from reparam.commands.output import json_option, print_error, print_json
from reparam.commands.progress import progress
from reparam.commands.tables import stdout, table
from reparam.errors import CheckpointError

__all__ = [  # with what commands take from here though it has files of its own
    "epsilon_option", "family_option", "force_option", "is_checkpoint", "json_option",
    "prefix_option", "print_error", "print_fusion", "print_json", "progress", "settings_option",
    "size_of", "sizes_of", "stdout", "table", "tell_unused", "the_checkpoint",
]  # fmt: skip

_ANYTHING = ".bin"  # an ending of many other files too


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
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    return notices


def print_fusion(result: Any, verdict: str, notices: Sequence[str]) -> None:
    """Print the JSON object of ``fuse --json``.

    Args:
        result: a fusion, by the names of a checkpoint or by the methods of a network.
        notices: of the command line, beside those in its report.
    """
    fields = {
        "source": result.source,
        "source_sha256": result.source_sha256,
        "output": result.output,
        "sha256": result.sha256,
        **result.report.to_json(),
    }
    fields["notices"] = [*fields["notices"], *notices]
    print_json("fuse", verdict, fields)


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


def is_checkpoint(path: Path) -> bool:
    """Whether the name of ``path`` ends as checkpoints do."""
    return path.name.endswith(ENDINGS)


def the_checkpoint(given: Path | None) -> Path:
    """Return the checkpoint named, or the only one in the folder.

    A .pdema file counts where no .pdparams file stands beside it, a .bin file where there is no
    other.

    Raises:
        CheckpointError: none was named and the folder holds none, or several.
    """
    if given is not None:
        return given
    try:
        found = sorted(path for path in Path().iterdir() if is_checkpoint(path))
    except OSError as error:
        raise CheckpointError(
            "no checkpoint was named, and this folder cannot be read", found=error.strerror or ""
        ) from error
    found = [p for p in found if p.suffix != ".pdema" or p.with_suffix(".pdparams") not in found]
    found = [p for p in found if p.suffix != _ANYTHING] or found
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        "no checkpoint was named" + (", and there are several here" if found else ""),
        found=", ".join(f"'{path}'" for path in found[:8]) or "no checkpoint in this folder",
        hint="name one",
    )


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
