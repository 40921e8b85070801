"""``reparam bench``."""

from __future__ import annotations

from pathlib import Path

import click

from reparam.commands.command import Command
from reparam.commands.common import (
    epsilon_option,
    json_option,
    prefix_option,
    print_json,
    progress,
    size_of,
    stdout,
    table,
    tell_unused,
)
from reparam.commands.inputs import INPUT, is_checkpoint, the_checkpoint
from reparam.commands.limit_options import limit_options
from reparam.commands.model_options import Choice, model_options
from reparam.exporter.benchmarking import Protocol, benchmark
from reparam.latency import Benchmark, Comparison
from reparam.supervision import Limits


@click.command(
    cls=Command,
    example="""\
  reparam bench ckpt.pdparams                 train-time form against deploy form
  reparam bench before.onnx after.onnx --threads 4 --batch 8""",
)
@click.argument("models", nargs=-1, type=INPUT)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Inside an operator. Default: the cores this process can really use.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Images at once. Default: 1.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="In each, every model runs once in a process of its own.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    help="Timed running of one process.",
)
@click.option("--input-size", help="H and W of checkpoints that are exported first.")
@epsilon_option
@prefix_option
@model_options
@limit_options
@json_option
def command(
    models: tuple[Path, ...],
    threads: int | None,
    batch: int | None,
    rounds: int,
    seconds: float,
    input_size: str | None,
    epsilon: float | None,
    prefix: str | None,
    choice: Choice,
    limits: Limits,
    as_json: bool,
) -> None:
    """Measure MODELS (ONNX files or checkpoints) on onnxruntime's CPU; the first is the baseline.

    A checkpoint is exported first and measured in the form it is in; one train-time checkpoint
    alone is measured in both forms. --json holds every raw sample.
    """
    size = size_of(input_size)
    paths = models or (the_checkpoint(None),)
    chosen = choice.of(*filter(is_checkpoint, paths), prefix=prefix)
    protocol = Protocol(
        limits=limits,
        threads=threads,
        batch=batch,
        rounds=rounds,
        seconds=seconds,
        input_size=size or chosen.input_size,
        epsilon=epsilon,
        prefix=prefix,
        settings=chosen.settings,
        model=chosen.own,
    )
    notices = list(chosen.notices)
    if all(path.suffix == ".onnx" for path in paths):
        of_export = ("input_size", "epsilon", "settings", "model", "config", "input_channels")
        notices += tell_unused(of_export, "it is for checkpoints, which are exported first")
    with progress() as tell:
        result = benchmark(paths, protocol, tell)
    if as_json:
        verdicts = [comparison.verdict for _, comparison in result.comparisons]
        verdict = verdicts[0] if len(verdicts) == 1 else "measured"
        print_json("bench", verdict, {**result.to_json(), "notices": notices})
    else:
        show(result)


def show(result: Benchmark) -> None:
    """Print the report."""
    console = stdout()
    grid = table("model", "#median ms", "#IQR", "#p99", "#runs", "#speedup", "95 %", "verdict")
    comparisons = {other.label: comparison for other, comparison in result.comparisons}
    for measurement in result.measurements:
        summary = measurement.summary
        times = (f"{1e3 * t:.3f}" for t in (summary.median, summary.iqr, summary.p99))
        compared = _columns(comparisons.get(measurement.label))
        grid.add_row(measurement.label, *times, f"{summary.n:,}", *compared)
    console.print(grid)
    first, environment = result.baseline, result.environment
    console.print(
        f"speedup: baseline time / model time, over {result.rounds} rounds; "
        f"input {', '.join(map(str, first.inputs))}; {result.threads} threads; "
        f"{', '.join(first.providers)}"
    )
    console.print(f"{environment}")
    for warning in result.warnings:
        console.print(f"warning: {warning}")


def _columns(comparison: Comparison | None) -> tuple[str, str, str]:
    if comparison is None:
        return "", "", "baseline"
    interval = comparison.interval
    between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    return f"{comparison.speedup:.3f}x", between, comparison.verdict
