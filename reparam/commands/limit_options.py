"""``--timeout`` and ``--memory-limit`` of the process in which a graph is read and run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from reparam.supervision import TIMEOUT, Limits, memory_limit

Command = TypeVar("Command", bound=Callable[..., Any])


def limit_options(command: Command) -> Command:
    """Give a command the options, as ``limits``."""

    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="ONNX: the process that reads and runs a graph is ended after this time.",
    )
    @click.option(
        "--memory-limit",
        metavar="SIZE",
        callback=_bytes_of,
        help="ONNX: what that process may take: 4GiB, 500MiB. Default: 2 GiB and 8 times the "
        "file. On Linux only.",
    )
    @functools.wraps(command)
    def limited(*args: Any, timeout: float, memory_limit: int | None, **values: Any) -> Any:
        return command(*args, limits=Limits(timeout, memory_limit), **values)

    return limited  # type: ignore[return-value]


def _bytes_of(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:  # noqa: ARG001
    if text is None:
        return None
    try:
        return memory_limit(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
