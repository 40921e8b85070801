"""The command line: ``reparam`` and ``python -m reparam``."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import reparam.isolation  # noqa: F401 - before anything that a file here may be named like

# isort: split
import logging
from collections.abc import Iterator

import click

from reparam import process
from reparam.errors import ReparamError

_COMMANDS = {
    "inspect": "Tell what a checkpoint or ONNX file holds.",
    "fuse": "Make every block one convolution, of a checkpoint or an ONNX file alone.",
    "unfuse": "Bring a deploy checkpoint back to train-time form: the function, not the weights.",
    "verify": "Prove that two models are the same function, or show where not.",
    "export": "Write one clean ONNX file.",
    "bench": "Measure latency, and say whether a difference is one.",
    "doctor": "Tell what works here, and the one line that mends the rest.",
    "demo": "Run everything on a small trained network.",
    "completion": "Print what lets a shell complete commands and options.",
}
_COMPLETE = "_REPARAM_COMPLETE"  # set by the shell, as click's scripts do


class _LateGroup(click.Group):
    """A group whose commands are imported when they run: ``--help`` must not wait for paddle."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"reparam.commands.{cmd_name}").command
        command.short_help = _COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in _COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        if Path(name).suffix and os.path.lexists(name):
            raise click.UsageError(f"'{name}' is a file, and a command comes first", ctx)
        from difflib import get_close_matches

        near = get_close_matches(name, _COMMANDS, n=1)
        meant = f". Did you mean '{near[0]}'?" if near else ""
        raise click.UsageError(f"No such command '{name}'{meant}", ctx)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from reparam.version import tool_version  # reading metadata is slow for a --help

        click.echo(f"reparam, version {tool_version()}")
        ctx.exit()


@click.command(
    cls=_LateGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage or unusable input.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Re-parameterize trained networks: fuse, prove, export, measure.

    \b
    Example:
      reparam fuse ckpt.pdparams                       writes ckpt.deploy.pdparams
      reparam fuse model.onnx                          writes model.deploy.onnx
      reparam verify ckpt.pdparams ckpt.deploy.pdparams
      reparam export ckpt.pdparams --onnx              writes ckpt.onnx
      reparam bench ckpt.pdparams                      train-time form against deploy form
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    process.keep_standard_streams()
    with _log_on_stderr(), process.ending_signals():
        code = _run(arguments)
    sys.exit(code)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Write what the package logs to stderr, as plain lines, whatever paddle does with the root."""
    log, handler = logging.getLogger("reparam"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _run(arguments: list[str]) -> int:
    """Return the exit code; every way in which a command can end comes through here."""
    as_json = "--json" in arguments
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]  # of all, or of one command
    try:
        code = _invoke(arguments)
        process.flush()
    except KeyboardInterrupt:
        return _interrupted("Interrupted", process.INTERRUPTED)
    except process.Ended as end:
        return _interrupted(f"Ended by {end.name}", end.exit_code)
    except BrokenPipeError:
        return process.nobody_listens()
    except (ReparamError, click.ClickException, OSError, MemoryError) as error:
        return _report(error, as_json)
    except ImportError as error:
        if not _is_want_of_memory(error):
            raise
        return _report(MemoryError(str(error)), as_json)
    return code


def _invoke(arguments: list[str]) -> int:
    """Do what ``cli.main`` does, and leave the ways in which it ends to the caller."""
    if _COMPLETE in os.environ:
        cli.main(arguments, prog_name="reparam", complete_var=_COMPLETE)  # does not come back
    try:
        with cli.make_context("reparam", arguments) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else 0


def _is_want_of_memory(error: ImportError) -> bool:
    from reparam.supervision import is_want_of_memory

    return is_want_of_memory(error)


def _interrupted(what: str, code: int) -> int:
    with suppress(OSError):
        click.echo(f"{what}; no half-written file is left.", err=True)
    return code


def _report(raised: Exception, as_json: bool) -> int:
    from reparam.commands.output import as_ours, print_error

    error = as_ours(raised)
    try:
        print_error(error, as_json)
        process.flush()
    except BrokenPipeError:
        process.nobody_listens()
    except OSError:
        process.silence()  # a full disk, most likely the error itself
    return error.exit_code


if __name__ == "__main__":
    main()
