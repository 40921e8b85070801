"""``reparam demo``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reparam.commands.common import json_option, print_json, stdout, table
from reparam.errors import EXIT_NO, OutputError
from reparam.example.demo import Tour, tour
from reparam.exporter import ExportReport
from reparam.exporter.benchmarking import Protocol

NETWORKS = ("repvgg", "cspresnet")


@click.command(
    epilog="""\b
Example:
  reparam demo
  reparam demo --network repvgg --keep demo-files"""
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
    if keep is not None:
        _make(keep)
    protocol = Protocol(rounds=rounds, seconds=seconds, warm_up=0.2)
    with tempfile.TemporaryDirectory(prefix="reparam-demo-") as temporary:
        folder = keep or Path(temporary)
        tours = [tour(name, folder, protocol, _teller(as_json)) for name in network]
    good = all(map(_good, tours))
    if as_json:
        print_json("demo", "equal" if good else "different", {"tours": list(map(_fields, tours))})
    else:
        _print(tours, keep)
    return 0 if good else EXIT_NO


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(
            f"cannot make the folder '{folder}'", found=error.strerror or ""
        ) from error


def _teller(quiet: bool) -> Callable[[str], None]:
    return lambda message: click.echo(
        f"$ {message}" if message.startswith("reparam") else f"  {message}", err=quiet
    )


def _good(found: Tour) -> bool:
    proofs = (found.verification, found.onnx_verification)
    proved = all(proof.verdict == "equivalent" for proof in proofs)
    return proved and found.same_predictions == found.images


def _print(tours: list[Tour], keep: Path | None) -> None:
    console = stdout()
    for found in tours:
        console.print()
        grid = table(
            f"{found.name} ({found.images:,} test images)",
            "#train-time form",
            "#deploy form",
            "verdict",
        )
        for row in _rows(found):
            grid.add_row(*row)
        console.print(grid)
        for warning in found.latency.warnings:
            console.print(f"warning: {warning}", style="dim")
    if keep is not None:
        console.print(f"\nThe files are in {keep}.")


def _rows(found: Tour) -> list[tuple[str, str, str, str]]:
    before, after = found.before, found.after
    accuracy = {name: f"{p.accuracy:.1%}" for name, p in found.predictions.items()}
    measured, other = found.latency.measurements
    comparison = found.latency.comparisons[0][1]
    times = [f"{1e3 * m.summary.median:.3f} ms" for m in (measured, other)]
    equal = f"{found.same_predictions:,} of {found.images:,} predictions the same"
    return [
        ("accuracy", accuracy["unfused ONNX"], accuracy["fused ONNX"], equal),
        ("deploy checkpoint", "", "", found.verification.verdict),
        ("fused ONNX file", "", "", found.onnx_verification.verdict),
        ("parameters", f"{found.inspection.parameters:,}", f"{after.parameters:,}", ""),
        _count("convolutions", "Conv", before, after),
        _count("BatchNorms", "BatchNormalization", before, after),
        ("nodes", str(sum(before.ops_after.values())), str(sum(after.ops_after.values())), ""),
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
        "onnx_verification": found.onnx_verification.to_json(),
        "unfused": found.before.to_json(),
        "fused": found.after.to_json(),
        "latency": found.latency.to_json(),
    }
