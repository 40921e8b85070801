"""``reparam fuse``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reparam.checkpoint import FusionReport
from reparam.checkpoint.files import PDPARAMS, SAFETENSORS
from reparam.checkpoint.pipeline import Fusion, fuse
from reparam.commands.common import (
    epsilon_option,
    family_option,
    force_option,
    json_option,
    prefix_option,
    print_fusion,
    progress,
    size_of,
    stdout,
    table,
    tell_unused,
    the_checkpoint,
)
from reparam.commands.fuse_onnx import FOR_GRAPHS, GraphChoice, fuse_graph_file, graph_options
from reparam.commands.limit_options import limit_options
from reparam.commands.model_options import WITHOUT_EFFECT, Choice, model_options
from reparam.fusing import is_graph

if TYPE_CHECKING:
    from reparam.commands.grid import Grid
    from reparam.supervision import Limits

_LISTED = 8  # blocks in the table; what is printed does not grow with the network


@click.command(
    epilog="""\b
Example:
  reparam fuse ppyoloe_s.pdparams
  reparam fuse repvgg_a0.pth --epsilon 1e-5
  reparam fuse yolov6.pdparams --epsilon 1e-3 -o deploy.pdparams
  reparam fuse ppyoloe_s.pdparams --fold-bn --skip 'backbone.stages.3.*'
  reparam fuse model.onnx"""
)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: x.pdparams gives x.deploy.pdparams, x.pth x.deploy.safetensors, and x.onnx "
    "x.deploy.onnx.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice([PDPARAMS, SAFETENSORS]),
    help="Default: what the output's ending says.",
)
@epsilon_option
@family_option
@model_options
@click.option("--input-size", help="H and W of an image that a network of your own runs on.")
@click.option(
    "--fold-bn",
    is_flag=True,
    help="Fold a BatchNorm outside blocks too, where it is named as a pair with its convolution.",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="BLOCK",
    help="Leave this block as it is; * stands for any part of a name. Repeatable.",
)
@prefix_option
@graph_options
@limit_options
@click.option("--dry-run", is_flag=True, help="Report, but write nothing.")
@click.option(
    "--strict", is_flag=True, help="Exit 1 if there is nothing to fuse or something was left."
)
@force_option
@json_option
def command(
    checkpoint: Path | None,
    output: Path | None,
    kind: str | None,
    epsilon: float | None,
    families: tuple[str, ...],
    choice: Choice,
    input_size: str | None,
    fold_bn: bool,
    skip: tuple[str, ...],
    prefix: str | None,
    graph: GraphChoice,
    limits: Limits,
    dry_run: bool,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make every block of CHECKPOINT one convolution, from names and arrays alone.

    Needs no model code and no paddle. The input is not changed; everything outside blocks goes
    over bit for bit. A manifest beside the output says what was done.

    CHECKPOINT may be an ONNX file of any network: then every part of its graph that is one
    convolution becomes that convolution, each proved by itself, and the whole on onnxruntime. Or
    a static Paddle program (.json or .pdmodel beside its .pdiparams), which is converted first.
    """
    path = the_checkpoint(checkpoint)
    every: dict[str, Any] = {"strict": strict, "force": force, "dry_run": dry_run}
    if is_graph(path):
        fuse_graph_file(path, output, graph, as_json, kind=kind, skip=skip, limits=limits, **every)
        return
    chosen = choice.of(path, prefix=prefix)
    options = {"prefix": prefix, "skip": skip, "format": kind, **every}
    unused = tell_unused(FOR_GRAPHS, "it is for ONNX files")
    if chosen.own is not None:
        from reparam.commands.own_network import fuse_own  # with everything that runs networks

        notices = [*chosen.notices, *unused]
        notices += tell_unused(("fold_bn", "families"), WITHOUT_EFFECT)
        size = size_of(input_size)
        fuse_own(path, chosen.own, output, as_json, notices, input_size=size, **options)
        return
    why = "blocks are fused from their names and arrays"
    notices = [*chosen.notices, *unused, *tell_unused(("settings", "input_size"), why)]
    with progress(f"fusing {path}"):
        result = fuse(path, output, epsilon=epsilon, families=families, fold_bn=fold_bn, **options)
    if as_json:
        print_fusion(result, _verdict(result), notices)
    else:
        _print(result)


def _verdict(result: Fusion) -> str:
    if result.report.fused or result.report.folded:
        return "fused"
    return "already fused" if result.report.already else "nothing to fuse"


def _print(result: Fusion) -> None:
    console, report = stdout(), result.report
    families = ", ".join(dict.fromkeys(block.family for block in report.fused))
    of = f", blocks of {families}" if families else ""
    name = report.architecture or f"unknown architecture{of}"
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
    if report.folded:
        console.print(f"{len(report.folded)} BatchNorms folded into the convolutions before them")
    if not report.fused and not report.folded:
        console.print(f"{_verdict(result)}")
    _print_evidence(report)
    _print_remarks(result)
    where = f"wrote {result.output}" if result.output else "dry run: nothing was written"
    console.print(where)


def _print_evidence(report: FusionReport) -> None:
    for value, source in dict.fromkeys((e.value, e.source) for e in report.epsilons):
        stdout().print(f"epsilon {value:g} ({source})")
    worst = report.worst
    if worst is not None:
        stdout().print(f"worst block '{worst.where}': {worst.certificate}")


def _blocks(report: FusionReport) -> Grid:
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
    if report.flushed:
        console.print(f"{report.flushed} subnormal values set to zero (they slow a CPU down)")
    for left in report.left[:_LISTED]:
        console.print(f"left alone: {left.where}: {left.reason}")
    if len(report.left) > _LISTED:
        console.print(f"... and {len(report.left) - _LISTED} more left alone; --json lists them")
    for notice in report.notices:
        console.print(f"note: {notice}")
