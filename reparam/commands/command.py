"""The form that all commands share: help in groups, the example first, --quiet and --verbose."""

from __future__ import annotations

from typing import Any

import click

from reparam.commands.output import QUIET, VERBOSE, set_loudness

_GROUPS = {
    "Input": (
        "prefix", "families", "epsilon", "model", "settings", "config", "input_channels", "like",
        "probe", "input_size", "batch", "dynamic", "network", "classes",
    ),
    "What to fuse": (
        "fold_bn", "skip", "without", "allow_macs", "merge_siblings", "bake_inputs", "normalize",
        "fold_normalize", "fuse_blocks", "have", "lack", "branches", "spelling",
    ),
    "Detectors": ("head", "compat", "score_threshold", "iou_threshold", "top_k",
                  "candidates"),
    "Measuring": ("threads", "rounds", "seconds"),
    "Output": (
        "output", "kind", "onnx", "paddle", "precision", "keep_io", "output_names", "opset",
        "external_data", "why", "keep", "dry_run", "strict", "force", "as_json", "quiet",
        "verbose",
    ),
}  # fmt: skip
"""Parameters by the title under which the help lists them; all others are advanced."""

_ADVANCED = "Advanced"


class Command(click.Command):
    """A command with ``--quiet`` and ``--verbose``, whose help begins with an example.

    Args:
        example: command lines, one a line.
    """

    def __init__(self, *args: Any, example: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.example = example
        self.params += [_quiet(), _verbose()]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        with formatter.section("Example"):
            formatter.write("".join(f"  {line.strip()}\n" for line in self.example.splitlines()))
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        group_of = {name: title for title, names in _GROUPS.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in (*_GROUPS, _ADVANCED)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                rows[group_of.get(parameter.name or "", _ADVANCED)].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _quiet() -> click.Option:
    return click.Option(
        ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_chosen,
        help="Print errors alone, and what --json asks for; the exit code is the answer.",
    )  # fmt: skip


def _verbose() -> click.Option:
    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=_chosen,
        help="List every block, region and notice, and tell each step with its seconds.",
    )  # fmt: skip


def _chosen(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        set_loudness(ctx, QUIET if parameter.name == "quiet" else VERBOSE)
