"""``reparam fuse`` of an ONNX file: its options, and what it prints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reparam.commands.common import ending_text, limit, progress, stdout, table, tell_unused
from reparam.commands.outcome import Outcome, with_notices

if TYPE_CHECKING:
    from reparam.commands.grid import Grid
    from reparam.graph.pipeline import GraphFusion

Command = TypeVar("Command", bound=Callable[..., Any])

FOR_CHECKPOINTS = (
    "epsilon", "families", "model", "settings", "config", "input_channels", "input_size",
    "fold_bn", "prefix",
)  # fmt: skip
FOR_GRAPHS = (
    "allow_macs", "without", "normalize", "merge_siblings", "bake_inputs",
)  # fmt: skip
_OPTIONS = (
    click.option(
        "--allow-macs",
        type=click.FloatRange(min=1.0),
        default=1.0,
        metavar="RATIO",
        help="ONNX: a region may cost this many times the MACs of what it replaces. Default: 1.",
    ),
    click.option(
        "--without",
        multiple=True,
        metavar="PASS",
        help="ONNX: switch a pass off, such as fold-scale. Repeatable.",
    ),
    click.option(
        "--fold-normalize",
        "normalize",
        metavar="SPEC",
        help="ONNX: make the file take raw pixels. MEAN,STD or three of each, 1/255 to scale "
        "first, bgr to turn the channels; or a preset: imagenet, ppyoloe ...",
    ),
    click.option(
        "--merge-siblings",
        is_flag=True,
        help="ONNX: make 1x1 convolutions that read the same value one, with a Split behind it.",
    ),
    click.option(
        "--bake-inputs",
        is_flag=True,
        help="ONNX: take weights that are inputs too for constants; they cease to be inputs.",
    ),
    # What it asked for is done always; scripts may still give it.
    click.option("--keep-going", is_flag=True, hidden=True, expose_value=False),
)


@dataclass(frozen=True)
class GraphChoice:
    """What the options say of fusing a graph."""

    allow_macs: float
    without: tuple[str, ...]
    normalize: str | None
    merge_siblings: bool
    bake_inputs: bool


def graph_options(command: Command) -> Command:
    """Give a command the options of ONNX files, as ``graph``."""

    @functools.wraps(command)
    def with_graph(*args: Any, **values: Any) -> Any:
        chosen = GraphChoice(**{name: values.pop(name) for name in FOR_GRAPHS})
        return command(*args, graph=chosen, **values)

    for option in reversed(_OPTIONS):
        with_graph = option(with_graph)
    return with_graph  # type: ignore[return-value]


def fuse_graph_file(
    path: Path,
    output: Path | None,
    graph: GraphChoice,
    *,
    kind: str | None,
    skip: tuple[str, ...],
    **options: Any,
) -> Outcome:
    """Fuse an ONNX file and return what there is to print."""
    if kind is not None:
        raise click.UsageError(f"--format {kind} is for checkpoints; '{path}' is an ONNX file")
    if skip:
        raise click.UsageError(
            f"--skip names blocks of a checkpoint; '{path}' is an ONNX file: --without PASS "
            "switches off a pass"
        )
    notices = tell_unused(FOR_CHECKPOINTS, "it is for checkpoints, and this is an ONNX file")
    from reparam.graph import guarded  # the graph package is of no use to checkpoints

    with progress(steps=5 if path.suffix == ".onnx" else 6) as tell:
        result = guarded.fuse(
            path,
            output,
            tell=tell,
            **asdict(graph),
            **options,
        )
    number = len(result.report.fused)
    regions = "1 region" if number == 1 else f"{number:,} regions"
    return Outcome(
        verdict=result.verdict,
        done=f"{regions} fused" if number else result.verdict,
        output=result.output,
        fields=with_notices(result, notices),
        show=lambda: show(result),
    )


def show(result: GraphFusion) -> None:
    """Print what was done."""
    from reparam.graph import reporting

    console, report = stdout(), result.report
    if report.fused:
        number = len(report.fused)
        regions = "1 region" if number == 1 else f"{number:,} regions"
        console.print(f"{result.source}: {regions} fused")
        console.print(_regions(result))
        if len(report.fused) > limit():
            more = len(report.fused) - limit()
            console.print(f"... and {more:,} more; --verbose lists every region")
    else:
        console.print(f"{result.source}: {result.verdict}")
    console.print(reporting.changes_text(report))
    console.print(reporting.macs_text(report))
    passes = {**reporting.regions_by_pass(report), **report.passes}
    if passes:
        console.print("; ".join(f"{name}: {number:,}" for name, number in passes.items()))
    if report.fused:
        console.print(reporting.proof_text(report))
    if result.output is not None:
        console.print(reporting.whole_text(result.whole))
    _print_remarks(result)
    console.print(
        ending_text(result.output, result.verdict in ("fused", "simplified"), result.data)
    )


def _regions(result: GraphFusion) -> Grid:
    from reparam.graph import reporting
    from reparam.graph.macs import text_of

    grid = table("where", "nodes", "becomes", "#MACs")
    for one in reporting.by_saving(result.report.fused)[: limit()]:
        each = {"before": one.macs_before, "after": one.macs_after}
        grid.add_row(
            one.where,
            reporting.operators_text(one.before),
            reporting.becomes_text(one),
            text_of(each, one.extent),
        )
    return grid


def _print_remarks(result: GraphFusion) -> None:
    console, report = stdout(), result.report
    if report.flushed:
        console.print(f"{report.flushed} subnormal values set to zero (they slow a CPU down)")
    if report.failed:
        first, more = report.failed[0], len(report.failed) - 1
        others = f" (and {more:,} more; --verbose lists them)" if more else ""
        console.print(f"left as it was, since its proof failed: {first.text}{others}; this is a "
                      "fault of reparam")  # fmt: skip
    told = [f"left alone: {one.text}" for one in report.left]
    for line in told[: limit()]:
        console.print(line)
    if len(told) > limit():
        console.print(f"... and {len(told) - limit():,} more left alone; --verbose lists them")
    for notice in (*result.notices, *result.whole.notes):
        console.print(f"note: {notice}")
    for warning in result.whole.warnings[: limit()]:
        console.print(f"note: onnxruntime warns of the new file alone: {warning}")
