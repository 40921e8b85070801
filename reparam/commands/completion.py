"""``reparam completion``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from reparam.commands.command import Command

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    example="""\
  eval "$(reparam completion bash)"                    in ~/.bashrc
  eval "$(reparam completion zsh)"                     in ~/.zshrc
  reparam completion fish > ~/.config/fish/completions/reparam.fish""",
)
@click.argument("shell", required=False, type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str | None) -> None:
    """Print the script that lets SHELL complete commands, options and file names.

    Without SHELL, the one in $SHELL is meant. Nothing is installed.
    """
    found = shell or Path(os.environ.get("SHELL", "")).name
    if found not in SHELLS:
        raise click.UsageError(f"which shell? One of {', '.join(SHELLS)}", ctx)
    script = get_completion_class(found)
    assert script is not None  # click has all three
    click.echo(script(ctx.find_root().command, {}, "reparam", "_REPARAM_COMPLETE").source())
