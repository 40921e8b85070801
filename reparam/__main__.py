"""The command line: ``reparam`` and ``python -m reparam``."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

import reparam.isolation  # noqa: F401 - before anything that a file here may be named like

# isort: split
import click

from reparam.errors import EXIT_UNUSABLE, ReparamError
from reparam.version import tool_version

_COMMANDS = {
    "inspect": "Tell what a checkpoint or ONNX file holds.",
    "fuse": "Make every block one convolution, from the checkpoint alone.",
    "verify": "Prove that two models are the same function, or show where not.",
    "export": "Write one clean ONNX file.",
    "bench": "Measure latency, and say whether a difference is one.",
    "demo": "Run everything on a small trained network.",
}
_INTERRUPTED = 130  # what a shell reports for Ctrl-C


class _LateGroup(click.Group):
    """A group whose commands are imported when they run: ``--help`` must not wait for paddle."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"reparam.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(
    cls=_LateGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage or unusable input.",
)
@click.version_option(tool_version(), prog_name="reparam")
def cli() -> None:
    """Re-parameterize trained networks: fuse, prove, export, measure.

    \b
    reparam fuse ckpt.pdparams                       writes ckpt.deploy.pdparams
    reparam verify ckpt.pdparams ckpt.deploy.pdparams
    reparam export ckpt.pdparams --onnx              writes ckpt.onnx
    reparam bench ckpt.pdparams                      train-time form against deploy form
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result = cli.main(arguments, prog_name="reparam", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except ReparamError as error:
        code = _report(error, arguments)
    except click.ClickException as error:
        error.show()
        code = EXIT_UNUSABLE
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted; nothing was left behind.", err=True)
        code = _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has gone; there is nobody to tell
        code = 0
    sys.exit(code)


def _report(error: ReparamError, arguments: list[str]) -> int:
    click.echo(f"Error: {error}", err=True)
    if "--json" in arguments:
        parts: dict[str, Any] = {
            "what": error.what,
            "found": error.found,
            "why": error.why,
            "try": error.hint,
        }
        click.echo(json.dumps({"schema": "reparam.error/1", "tool_version": tool_version(),
                               "verdict": "error", "error": parts}))  # fmt: skip
    return error.exit_code


if __name__ == "__main__":
    main()
