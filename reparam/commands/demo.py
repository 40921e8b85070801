"""``reparam demo``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import click

from reparam.adapters.converter import no_converter
from reparam.commands.command import Command
from reparam.commands.common import json_option, print_json, stdout, table
from reparam.commands.output import QUIET, loudness
from reparam.drafts import scratch_folder
from reparam.errors import EXIT_NO, OutputError
from reparam.example.demo import OnnxPart, Tour, tour
from reparam.exporter import ExportReport
from reparam.exporter.benchmarking import Protocol

NETWORKS = ("repvgg", "cspresnet")


@click.command(
    cls=Command,
    example="""\
  reparam demo
  reparam demo --network repvgg --keep demo-files""",
)
@click.option(
    "--network",
    type=click.Choice(NETWORKS),
    multiple=True,
    default=NETWORKS,
    help="Which of the two packaged networks. Default: both.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Of the latency measurement.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01),
    default=0.3,
    show_default=True,
    help="Timed running of one process.",
)
@click.option("--keep", type=click.Path(path_type=Path), help="Put the files into this new folder.")
@json_option
def command(
    network: tuple[str, ...], rounds: int, seconds: float, keep: Path | None, as_json: bool
) -> int:
    """Take two small networks, trained on Fashion-MNIST, through every command.

    Ends with what changed and what did not. Exit 1 if a prediction changed or a check failed.
    """
    protocol = Protocol(rounds=rounds, seconds=seconds, warm_up=0.2)
    with _folder(keep) as folder:
        tours = [tour(name, folder, protocol, _teller(as_json)) for name in network]
    good = all(map(_good, tours))
    notices = [] if all(found.onnx for found in tours) else [f"no ONNX files: {no_converter()[0]}"]
    if as_json:
        fields = {"tours": list(map(_fields, tours)), "notices": notices}
        print_json("demo", "equal" if good else "different", fields)
    else:
        _print(tours, keep, notices)
    return 0 if good else EXIT_NO


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Yield an empty folder: the one to keep, unless what follows fails, or a temporary one."""
    if keep is None:
        with scratch_folder() as temporary:
            yield temporary
        return
    _make(keep)
    try:
        yield keep
    except BaseException:
        rmtree(keep)
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(
            f"cannot make the folder '{folder}'", found=error.strerror or ""
        ) from error


def _teller(as_json: bool) -> Callable[[str], None]:
    if loudness() == QUIET:
        return lambda _: None
    return lambda message: click.echo(
        f"$ {message}" if message.startswith("reparam") else f"  {message}", err=as_json
    )


def _good(found: Tour) -> bool:
    proved = all(proof.verdict == "equivalent" for proof in found.proofs)
    return proved and found.same_predictions == found.images


def _print(tours: list[Tour], keep: Path | None, notices: list[str]) -> None:
    console = stdout()
    for found in tours:
        console.print()
        grid = table(
            f"{found.name} ({found.images:,} test images)",
            "#train-time form",
            "#deploy form",
            "verdict",
        )
        for row in (*_rows(found), *(_onnx_rows(found.onnx) if found.onnx else ())):
            grid.add_row(*row)
        console.print(grid)
        for warning in found.onnx.latency.warnings if found.onnx else ():
            console.print(f"warning: {warning}", style="dim")
    for notice in notices:
        console.print(f"\nnote: {notice}")
    if keep is not None:
        console.print(f"\nThe files are in {keep}.")


def _rows(found: Tour) -> list[tuple[str, str, str, str]]:
    accuracies = [f"{p.accuracy:.1%}" for p in found.predictions.values()]
    equal = f"{found.same_predictions:,} of {found.images:,} predictions the same"
    blocks, report = len(found.inspection.blocks), found.fusion.report
    parameters = found.inspection.parameters
    less = report.parameters_before - report.parameters_after
    return [
        ("accuracy", accuracies[0], accuracies[1], equal),
        ("deploy checkpoint", "", "", found.verification.verdict),
        ("blocks of several branches", str(blocks), str(blocks - len(report.fused)), ""),
        ("parameters", f"{parameters:,}", f"{parameters - less:,}", ""),
    ]


def _onnx_rows(found: OnnxPart) -> list[tuple[str, str, str, str]]:
    before, after = found.before, found.after
    measured, other = found.latency.measurements
    comparison = found.latency.comparisons[0][1]
    times = [f"{1e3 * m.summary.median:.3f} ms" for m in (measured, other)]
    nodes = [str(sum(report.ops_after.values())) for report in (before, after)]
    return [
        ("fused ONNX file", "", "", found.verification.verdict),
        _count("convolutions", "Conv", before, after),
        _count("BatchNorms", "BatchNormalization", before, after),
        ("nodes", nodes[0], nodes[1], ""),
        ("ONNX file", f"{before.file_bytes:,} bytes", f"{after.file_bytes:,} bytes", ""),
        ("latency", times[0], times[1], _latency(comparison)),
    ]


def _count(
    label: str, operator: str, before: ExportReport, after: ExportReport
) -> tuple[str, str, str, str]:
    counts = [str(report.ops_after.get(operator, 0)) for report in (before, after)]
    return label, counts[0], counts[1], ""


def _latency(comparison: Any) -> str:
    interval = comparison.interval
    between = f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"{comparison.speedup:.2f}x{between}: {comparison.verdict}"


def _fields(found: Tour) -> dict[str, Any]:
    return {
        "network": found.name,
        "images": found.images,
        "same_predictions": found.same_predictions,
        "accuracy": {name: p.accuracy for name, p in found.predictions.items()},
        "inspection": found.inspection.to_json(),
        "fusion": found.fusion.report.to_json(),
        "verification": found.verification.to_json(),
        **(_onnx_fields(found.onnx) if found.onnx else {}),
    }


def _onnx_fields(found: OnnxPart) -> dict[str, Any]:
    return {
        "onnx_verification": found.verification.to_json(),
        "unfused": found.before.to_json(),
        "fused": found.after.to_json(),
        "latency": found.latency.to_json(),
    }
