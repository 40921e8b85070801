"""``reparam export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reparam.commands.common import (
    epsilon_option,
    force_option,
    is_checkpoint,
    json_option,
    prefix_option,
    print_json,
    progress,
    size_of,
    stdout,
    table,
    the_checkpoint,
)
from reparam.commands.model_options import Choice, model_options
from reparam.exporter import ExportReport, export


@click.command(
    epilog="""\b
Example:
  reparam export ckpt.pdparams --onnx
  reparam export ckpt.pdparams --onnx model.onnx --input-size 480x640 --batch 1"""
)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "--onnx",
    "onnx",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Write an ONNX file; x.onnx beside x.pdparams if no path is given.",
)
@click.option("--input-size", help="H and W: 224 or 480x640. Default: 224, or 640 for a backbone.")
@click.option("--batch", type=click.IntRange(min=1), help="A fixed batch. Default: any.")
@click.option(
    "--fuse/--no-fuse",
    "fuse_blocks",
    default=True,
    help="--no-fuse keeps every branch and BatchNorm: a baseline to compare with.",
)
@click.option("--opset", type=click.IntRange(11, 21), default=17, show_default=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds that the converter may take.",
)
@epsilon_option
@prefix_option
@model_options
@force_option
@json_option
def command(
    checkpoint: Path | None,
    onnx: str | None,
    input_size: str | None,
    batch: int | None,
    fuse_blocks: bool,
    opset: int,
    timeout: float,
    epsilon: float | None,
    prefix: str | None,
    choice: Choice,
    force: bool,
    as_json: bool,
) -> None:
    """Write CHECKPOINT as one clean ONNX file, checked before it gets its name.

    Blocks are fused and every BatchNorm is folded. The file has to pass the ONNX checker, load in
    onnxruntime without a warning, and compute what the checkpoint computes.
    """
    if onnx and checkpoint is None and is_checkpoint(Path(onnx)):
        checkpoint, onnx = Path(onnx), ""  # `export --onnx ckpt.pdparams`
    size = size_of(input_size)
    path = the_checkpoint(checkpoint)
    chosen = choice.of(path, prefix=prefix)
    with progress() as tell:
        report = export(
            path,
            onnx or None,
            input_size=size or chosen.input_size,
            batch=batch,
            fuse=fuse_blocks,
            opset=opset,
            epsilon=epsilon,
            prefix=prefix,
            settings=chosen.settings,
            model=chosen.own,
            force=force,
            timeout=timeout,
            progress=tell,
        )
    if as_json:
        notices = [*report.notices, *chosen.notices]
        print_json("export", report.worst.verdict, {**report.to_json(), "notices": notices})
    else:
        _print(report)


def _print(report: ExportReport) -> None:
    grid = table("", "")
    grid.show_header = False
    convolutions = report.ops_after.get("Conv", 0)
    nodes_before, nodes = sum(report.ops_before.values()), sum(report.ops_after.values())
    worst = report.worst
    rows = (
        ("wrote", f"{report.output} ({report.file_bytes:,} bytes)"),
        ("network", f"{report.architecture}, {report.parameters:,} parameters"),
        ("blocks", f"{report.fused_blocks} of {report.blocks} are one convolution"),
        ("nodes", f"{nodes_before} -> {nodes}, {convolutions} of them Conv"),
        ("left in the graph", ", ".join(f"{n} {op}" for op, n in report.ops_after.items())),
        ("input", _tensor(report.input)),
        ("outputs", "; ".join(_tensor(tensor) for tensor in report.outputs)),
        ("opset", f"{report.opset} (IR version {report.ir_version})"),
        ("assumed", ", ".join(f"{name}={value}" for name, value in report.assumed.items())),
        (
            "checked",
            f"onnxruntime is within {worst.distance:.2e} of the checkpoint in float64 (allowed: "
            f"{worst.bound:.2e}, largest output {worst.scale:.3g}): {worst.verdict}",
        ),
    )
    for label, text in rows:
        if text:
            grid.add_row(label, text)
    for notice in report.notices:
        grid.add_row("note", notice)
    stdout().print(grid)


def _tensor(tensor: Any) -> str:
    return f"{tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})"
