"""``reparam doctor``."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec

import click

from reparam.commands.command import Command
from reparam.commands.output import QUIET, json_option, loudness, print_json
from reparam.commands.progress import progress
from reparam.errors import EXIT_NO


@click.command(
    cls=Command,
    example="""\
  reparam doctor
  reparam doctor --quick --json""",
)
@click.option("--quick", is_flag=True, help="Import the packages, and try nothing else.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="Seconds for importing one package and trying it.",
)
@json_option
def command(quick: bool, timeout: int, as_json: bool) -> int:
    """Tell what works here, which known faults apply, and the one line that mends it.

    Every package is imported in a process of its own, and tried on something tiny: a convolution,
    a conversion, a session on each execution provider. Nothing is installed and no network used.
    Exit 1 if something that reparam offers does not work here.
    """
    from reparam.environment.diagnosis import diagnose

    silent = find_spec("rich") is None  # which draws the live line
    with nullcontext(lambda _: None) if silent else progress() as tell:
        found = diagnose(quick=quick, timeout=timeout, tell=tell)
    if as_json:
        print_json("doctor", "works" if found.works else "does not work", found.to_json())
    elif loudness() > QUIET:
        from reparam.commands.doctor_report import print_report

        print_report(found)
    return 0 if found.works else EXIT_NO
