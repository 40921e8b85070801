"""``reparam fuse --model package.module:factory``: converting by the network's own methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.foreign_trials import METHOD
from reparam.commands.common import ending_text, limit, progress, stdout, table
from reparam.commands.outcome import Outcome, with_notices
from reparam.exporter.layer_fusing import LayerFusion, LayerReport, fuse_layers


def fuse_own(
    checkpoint: Path,
    model: ForeignModel,
    output: Path | None,
    notices: Sequence[str],
    **options: Any,
) -> Outcome:
    """Convert, prove and write; return what there is to print.

    Args:
        notices: told already, and to be in the JSON as well.
        options: of :func:`reparam.exporter.layer_fusing.fuse_layers`.
    """
    with progress(f"converting {checkpoint} by the methods of {model.spec}"):
        result = fuse_layers(checkpoint, model, output, **options)
    verdict, number = _verdict(result.report), len(result.report.fused)
    return Outcome(
        verdict=verdict,
        done=f"{number} blocks converted" if number else verdict,
        output=result.output,
        fields=with_notices(result, notices),
        show=lambda: show(result),
    )


def _verdict(report: LayerReport) -> str:
    if not all(proved.block.runs for proved in report.fused):
        return "only the weights are fused"  # the network's own deploy form is wrong
    if report.fused:
        return "fused"
    return "already fused" if report.already else "nothing to fuse"


def show(result: LayerFusion) -> None:
    """Print what was done."""
    console, report = stdout(), result.report
    arguments = ", ".join(f"{name}={value}" for name, value in report.arguments.items())
    console.print(f"{result.source}: {report.architecture}({arguments})")
    if report.fused:
        _print_blocks(report)
    elif report.already:
        console.print(_verdict(report))
    else:
        console.print(
            f"no block of this network is known by name: reparam export {result.source} --model "
            f"{report.architecture} --onnx fuses its graph, as that of any network"
        )
    if report.already and report.fused:
        console.print(f"already in deploy form: {', '.join(report.already)}")
    for left in report.left:
        console.print(f"left alone: {left.where or '(root)'}: {left.reason}")
    for notice in report.notices:
        console.print(f"note: {notice}")
    console.print(ending_text(result.output, bool(report.fused)))


def _print_blocks(report: LayerReport) -> None:
    console = stdout()
    grid = table("block", "converted by", "#parameters", "#off by", "#allowed")
    for proved in report.fused[: limit()]:
        done, check = proved.block, proved.check
        own = f"{done.kind.rpartition('.')[2]}.{done.method}"
        grid.add_row(
            done.where,
            own if done.by == METHOD else f"{done.by}, not {own}",
            f"{done.parameters_before:,} -> {done.parameters_after:,}",
            f"{check.distance:.2e}",
            f"{check.bound:.2e}",
        )
    console.print(grid)
    if len(report.fused) > limit():
        console.print(f"... and {len(report.fused) - limit()} more; --verbose lists every block")
    by_methods = sum(proved.block.by == METHOD for proved in report.fused)
    rest = len(report.fused) - by_methods
    others = f", {rest} by reparam" if rest else ""
    console.print(
        f"{by_methods} blocks converted by their own methods{others}, each compared with what it "
        f"was; {report.carried} other arrays carried over"
    )
    console.print(f"network: {report.network.summary}")
