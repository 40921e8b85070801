"""``reparam unfuse``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reparam.checkpoint.families.terms import PADDLE, TORCH
from reparam.checkpoint.files import PDPARAMS, SAFETENSORS
from reparam.checkpoint.unfusing.pipeline import Unfusion, unfuse
from reparam.commands.command import Command
from reparam.commands.common import (
    ending_text,
    epsilon_option,
    family_option,
    force_option,
    json_option,
    limit,
    prefix_option,
    print_json,
    progress,
    stdout,
    table,
)
from reparam.commands.inputs import INPUT, the_checkpoint

if TYPE_CHECKING:
    from reparam.checkpoint.unfusing.report import UnfusionReport
    from reparam.commands.grid import Grid


@click.command(
    cls=Command,
    example="""\
  reparam unfuse repvgg.deploy.pdparams
  reparam unfuse ppyoloe_s.deploy.pdparams --like ppyoloe_s_fresh.pdparams
  reparam unfuse ppyoloe_s.deploy.pdparams --family RepVggBlock --with alpha
  reparam unfuse x.pdparams --family RepVGG --with '*.1:rbr_identity' --without rbr_identity""",
)
@click.argument("checkpoint", required=False, type=INPUT)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: x.deploy.pdparams gives x.train.pdparams.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice([PDPARAMS, SAFETENSORS]),
    help="Default: what the output's ending says.",
)
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    help="A checkpoint of the train-time network with any weights, even fresh ones: its names and "
    "shapes decide what every block becomes.",
)
@family_option
@epsilon_option
@click.option(
    "--with",
    "have",
    multiple=True,
    metavar="PART|BLOCK:PART",
    help="Blocks have this optional part, such as rbr_identity or alpha; all of them, or those "
    "named, with * for any part of a name. Repeatable.",
)
@click.option(
    "--without",
    "lack",
    multiple=True,
    metavar="PART|BLOCK:PART",
    help="Blocks lack it. What names a block comes before what names none.",
)
@click.option(
    "--branches",
    type=click.IntRange(min=1, max=64),
    help="How many branches a block has, in a family that counts them, such as MobileOne.",
)
@click.option(
    "--spelling",
    type=click.Choice([PADDLE, TORCH]),
    help="Of the statistics of a BatchNorm (_mean or running_mean), if nothing else tells.",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="BLOCK",
    help="Leave this block as it is; * stands for any part of a name. Repeatable.",
)
@prefix_option
@click.option("--dry-run", is_flag=True, help="Report, but write nothing.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit 1 if there is nothing to unfuse, something was left, or names differ from --like.",
)
@force_option
@json_option
def command(
    checkpoint: Path | None,
    output: Path | None,
    kind: str | None,
    like: Path | None,
    families: tuple[str, ...],
    epsilon: float | None,
    have: tuple[str, ...],
    lack: tuple[str, ...],
    branches: int | None,
    spelling: str | None,
    skip: tuple[str, ...],
    prefix: str | None,
    dry_run: bool,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Bring the blocks of a deploy CHECKPOINT back to train-time form, to load or train further.

    Equivalent in function, not the original weights: a fusion cannot be undone. The wide kernel
    of each block holds all of it, other branches are zero, BatchNorms change nothing. Every block
    is fused again and compared before anything is written. Needs no model code and no paddle.
    """
    path = the_checkpoint(checkpoint)
    with progress(f"unfusing {path}"):
        result = unfuse(
            path,
            output,
            like=like,
            epsilon=epsilon,
            families=families,
            have=have,
            lack=lack,
            branches=branches,
            spelling=spelling,
            skip=skip,
            format=kind,
            prefix=prefix,
            strict=strict,
            force=force,
            dry_run=dry_run,
        )
    if as_json:
        print_json("unfuse", _verdict(result.report), result.to_json())
    else:
        show(result)


def _verdict(report: UnfusionReport) -> str:
    if report.unfused or report.unfolded:
        return "unfused"
    return "already train-time" if report.already else "nothing to unfuse"


def show(result: Unfusion) -> None:
    """Print what was done."""
    console, report = stdout(), result.report
    console.print(f"{result.source}: {report.architecture or 'unknown architecture'}")
    if report.unfused:
        console.print(_blocks(report))
        if len(report.unfused) > limit():
            more = len(report.unfused) - limit()
            console.print(f"... and {more} more; --verbose lists every block")
        same = sum(block.same for block in report.unfused)
        console.print(f"{len(report.unfused)} blocks unfused, {same} of them to the last bit: "
                      f"fusing gives the same weights; {report.carried} other arrays carried "
                      "over")  # fmt: skip
    if report.unfolded:
        console.print(f"{len(report.unfolded)} convolutions outside blocks have a BatchNorm again")
    if not report.unfused and not report.unfolded:
        console.print(_verdict(report))
    for value, source in dict.fromkeys((e.value, e.source) for e in report.epsilons):
        console.print(f"epsilon {value:g} ({source})")
    if report.worst is not None:
        console.print(f"worst block '{report.worst.where}': {report.worst.certificate}")
    _print_remarks(report)
    console.print(ending_text(result.output, bool(report.unfused or report.unfolded)))


def _blocks(report: UnfusionReport) -> Grid:
    grid = table("block", "family", "branches", "holds all of it")
    for block in report.unfused[: limit()]:
        prefix = f"{block.where}."
        carrier = block.carrier.removeprefix(prefix).removesuffix(".weight")
        grid.add_row(block.where, block.family, " + ".join(block.branches), carrier)
    return grid


def _print_remarks(report: UnfusionReport) -> None:
    console = stdout()
    if report.already and report.unfused:
        more = f" and {len(report.already) - limit()} more" if len(report.already) > limit() else ""
        console.print(f"in train-time form already: {', '.join(report.already[: limit()])}{more}")
    for left in report.left[: limit()]:
        console.print(f"left alone: {left.where}: {left.reason}")
    if len(report.left) > limit():
        console.print(f"... and {len(report.left) - limit()} more left alone; --verbose lists them")
    for notice in report.notices:
        console.print(f"note: {notice}")
