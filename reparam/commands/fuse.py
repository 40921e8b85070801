"""``reparam fuse``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from reparam.checkpoint import FusionReport
from reparam.checkpoint.pipeline import Fusion, fuse
from reparam.commands.common import (
    epsilon_option,
    force_option,
    json_option,
    print_json,
    size_of,
    stdout,
    table,
    the_checkpoint,
)
from reparam.commands.model_options import Choice, model_options

_LISTED = 8  # blocks in the table; what is printed does not grow with the network


@click.command(
    epilog="""\b
Example:
  reparam fuse ppyoloe_s.pdparams
  reparam fuse yolov6.pdparams --epsilon 1e-3 -o deploy.pdparams"""
)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: x.pdparams gives x.deploy.pdparams.",
)
@epsilon_option
@model_options
@click.option("--input-size", help="H and W of an image that a network of your own runs on.")
@click.option("--dry-run", is_flag=True, help="Report, but write nothing.")
@click.option(
    "--strict", is_flag=True, help="Exit 1 if there is nothing to fuse or something was left."
)
@force_option
@json_option
def command(
    checkpoint: Path | None,
    output: Path | None,
    epsilon: float | None,
    choice: Choice,
    input_size: str | None,
    dry_run: bool,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make every block of CHECKPOINT one convolution, from names and arrays alone.

    Needs no model code and no paddle. The input is not changed; everything outside blocks goes
    over bit for bit. A manifest beside the output says what was done.
    """
    path = the_checkpoint(checkpoint)
    chosen = choice.of(path, epsilon=epsilon)
    if chosen.own is not None:
        from reparam.commands.own_network import fuse_own  # with everything that runs networks

        fuse_own(
            path,
            chosen.own,
            output,
            input_size=size_of(input_size),
            strict=strict,
            force=force,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    result = fuse(
        path,
        output,
        epsilon=epsilon,
        strict=strict,
        force=force,
        dry_run=dry_run,
    )
    if as_json:
        fields = {
            "source": result.source,
            "source_sha256": result.source_sha256,
            "output": result.output,
            "sha256": result.sha256,
        }
        print_json("fuse", _verdict(result), {**fields, **result.report.to_json()})
    else:
        _print(result)


def _verdict(result: Fusion) -> str:
    if result.report.fused:
        return "fused"
    return "already fused" if result.report.already else "nothing to fuse"


def _print(result: Fusion) -> None:
    console, report = stdout(), result.report
    name = report.architecture or "unknown architecture"
    console.print(f"{result.source}: {name}")
    if report.fused:
        console.print(_blocks(report))
        if len(report.fused) > _LISTED:
            console.print(f"... and {len(report.fused) - _LISTED} more; --json lists every block")
        console.print(
            f"{len(report.fused)} blocks fused; parameters in them {report.parameters_before:,} -> "
            f"{report.parameters_after:,}; {report.carried} other arrays carried over",
            markup=False,
        )
        console.print(f"epsilon {report.epsilon:g} ({report.epsilon_source})")
    else:
        console.print(f"{_verdict(result)}")
    _print_remarks(result)
    where = f"wrote {result.output}" if result.output else "dry run: nothing was written"
    console.print(where)


def _blocks(report: FusionReport) -> Table:
    grid = table("block", "branches", "becomes", "#parameters", "#MACs/position")
    for block in report.fused[:_LISTED]:
        branches = " + ".join(block.branches)
        if block.alpha is not None:
            branches = f"{branches} x {block.alpha:.3g}"
        kernel = "x".join(map(str, block.kernel))
        grid.add_row(
            block.where,
            branches,
            f"{kernel} {block.keys[0].split('.')[-2]}",
            f"{block.parameters_before:,} -> {block.parameters_after:,}",
            f"{block.macs_before:,} -> {block.macs_after:,}",
        )
    return grid


def _print_remarks(result: Fusion) -> None:
    console, report = stdout(), result.report
    if report.already and report.fused:
        console.print(f"already in deploy form: {', '.join(report.already)}")
    flushed = sum(block.flushed for block in report.fused)
    if flushed:
        console.print(f"{flushed} subnormal values set to zero (they slow a CPU down)")
    for left in report.left:
        console.print(f"left alone: {left.where}: {left.reason}")
    for notice in report.notices:
        console.print(f"note: {notice}")
