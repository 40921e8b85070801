"""``reparam fuse``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reparam.checkpoint import FusionReport
from reparam.checkpoint.files import PDPARAMS, SAFETENSORS
from reparam.checkpoint.pipeline import Fusion, deploy_path, fuse
from reparam.commands.command import Command
from reparam.commands.common import (
    ending_text,
    epsilon_option,
    family_option,
    force_option,
    json_option,
    limit,
    prefix_option,
    progress,
    size_of,
    stdout,
    table,
    tell_unused,
)
from reparam.commands.fuse_onnx import FOR_GRAPHS, GraphChoice, fuse_graph_file, graph_options
from reparam.commands.inputs import check_name_of, holds_models, models_of, the_checkpoint
from reparam.commands.limit_options import limit_options
from reparam.commands.model_options import WITHOUT_EFFECT, Choice, model_options
from reparam.commands.outcome import Outcome, fuse_several, with_notices
from reparam.fusing import is_graph

if TYPE_CHECKING:
    from reparam.commands.grid import Grid
    from reparam.supervision import Limits


@click.command(
    cls=Command,
    example="""\
  reparam fuse ppyoloe_s.pdparams
  reparam fuse repvgg_a0.pth --epsilon 1e-5
  reparam fuse yolov6.pdparams --epsilon 1e-3 -o deploy.pdparams
  reparam fuse ppyoloe_s.pdparams --fold-bn --skip 'backbone.stages.3.*'
  reparam fuse model.onnx
  reparam fuse *.pdparams
  reparam fuse checkpoints/ -o fused/""",
)
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: x.pdparams gives x.deploy.pdparams, x.pth x.deploy.safetensors, and x.onnx "
    "x.deploy.onnx. Of several files, a folder for all of them.",
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
def command(checkpoints: tuple[Path, ...], output: Path | None, as_json: bool, **given: Any) -> int:
    """Make every block of CHECKPOINTS one convolution, from names and arrays alone.

    Needs no model code and no paddle. The input is not changed; everything outside blocks goes
    over bit for bit. A manifest beside the output says what was done. Where there is nothing to
    fuse, nothing is written.

    A checkpoint may be an ONNX file of any network: then every part of its graph that is one
    convolution becomes that convolution, each proved by itself, and the whole on onnxruntime. Or
    a static Paddle program (.json or .pdmodel beside its .pdiparams), which is converted first.

    Several files, or those in a folder, are fused one after the other, each with its own output.
    """
    paths = checkpoints or (the_checkpoint(None),)
    if len(paths) == 1 and not holds_models(paths[0]):
        _fuse(paths[0], output, **given).print(as_json)
        return 0
    files = [file for path in paths for file in models_of(path)]
    targets = _targets(files, output, given["kind"])
    return fuse_several(files, lambda path: _fuse(path, targets.get(path), **given), as_json)


def _targets(files: Sequence[Path], output: Path | None, kind: str | None) -> dict[Path, Path]:
    """Return the output of each file in the folder ``output``; nothing where none is given.

    Raises:
        UsageError: ``output`` is no folder, or two files would have one output.
    """
    if output is not None and not output.is_dir():
        raise click.UsageError(f"-o {output} is no folder, and there are {len(files)} files")
    default = {path: _default(path, kind) for path in files}
    target = {path: output / name.name if output else name for path, name in default.items()}
    first: dict[Path, Path] = {}  # --force would replace the output of one by that of the next
    for path, name in target.items():
        if first.setdefault(name, path) != path:
            raise click.UsageError(f"'{first[name]}' and '{path}' would both become '{name}'")
    return {} if output is None else target


def _default(path: Path, kind: str | None) -> Path:
    """Return the output of a file where none is named."""
    if not is_graph(path):
        return deploy_path(path, kind)
    from reparam.graph.pipeline import deploy_path_of

    return deploy_path_of(path)


def _fuse(
    path: Path,
    output: Path | None,
    *,
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
) -> Outcome:
    """Fuse one file: an ONNX file, by the network's own methods, or by the names of blocks."""
    check_name_of(path)
    every: dict[str, Any] = {"strict": strict, "force": force, "dry_run": dry_run}
    if is_graph(path):
        return fuse_graph_file(path, output, graph, kind=kind, skip=skip, limits=limits, **every)
    chosen = choice.of(path, prefix=prefix)
    options = {"prefix": prefix, "skip": skip, "format": kind, **every}
    unused = tell_unused(FOR_GRAPHS, "it is for ONNX files")
    if chosen.own is not None:
        from reparam.commands.own_network import fuse_own  # with everything that runs networks

        notices = [*chosen.notices, *unused]
        notices += tell_unused(("fold_bn", "families"), WITHOUT_EFFECT)
        size = size_of(input_size)
        return fuse_own(path, chosen.own, output, notices, input_size=size, **options)
    why = "blocks are fused from their names and arrays"
    notices = [*chosen.notices, *unused, *tell_unused(("settings", "input_size"), why)]
    with progress(f"fusing {path}"):
        result = fuse(path, output, epsilon=epsilon, families=families, fold_bn=fold_bn, **options)
    number = len(result.report.fused)
    return Outcome(
        verdict=_verdict(result),
        done=f"{number} blocks fused" if number else _verdict(result),
        output=result.output,
        fields=with_notices(result, notices),
        show=lambda: show(result),
    )


def _verdict(result: Fusion) -> str:
    if result.report.fused or result.report.folded:
        return "fused"
    return "already fused" if result.report.already else "nothing to fuse"


def show(result: Fusion) -> None:
    """Print what was done."""
    console, report = stdout(), result.report
    families = ", ".join(dict.fromkeys(block.family for block in report.fused))
    of = f", blocks of {families}" if families else ""
    name = report.architecture or f"unknown architecture{of}"
    console.print(f"{result.source}: {name}")
    if report.fused:
        console.print(_blocks(report))
        if len(report.fused) > limit():
            console.print(f"... and {len(report.fused) - limit()} more; --verbose lists all")
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
    console.print(ending_text(result.output, bool(report.fused or report.folded)))


def _print_evidence(report: FusionReport) -> None:
    for value, source in dict.fromkeys((e.value, e.source) for e in report.epsilons):
        stdout().print(f"epsilon {value:g} ({source})")
    worst = report.worst
    if worst is not None:
        stdout().print(f"worst block '{worst.where}': {worst.certificate}")


def _blocks(report: FusionReport) -> Grid:
    grid = table("block", "branches", "becomes", "#parameters", "#MACs/position")
    for block in report.fused[: limit()]:
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
    for left in report.left[: limit()]:
        console.print(f"left alone: {left.where}: {left.reason}")
    if len(report.left) > limit():
        console.print(f"... and {len(report.left) - limit()} more left alone; --verbose lists them")
    for notice in report.notices:
        console.print(f"note: {notice}")
