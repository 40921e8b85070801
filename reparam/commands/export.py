"""``reparam export``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reparam.adapters.closeness import figure
from reparam.checkpoint import load_checkpoint
from reparam.commands.command import Command
from reparam.commands.common import (
    epsilon_option,
    force_option,
    json_option,
    prefix_option,
    print_json,
    progress,
    size_of,
    stdout,
    table,
)
from reparam.commands.detector_options import DetectorChoice, detector_options
from reparam.commands.inputs import INPUT, is_checkpoint, the_checkpoint
from reparam.commands.model_options import Choice, model_options
from reparam.commands.output import note
from reparam.exporter import Difference, ExportReport, Tensor, export_onnx

_ONNX_ONLY = ("opset", "timeout", "output_names", "precision", "keep_io", "external_data")


def _words(_: Any, __: Any, text: str | None) -> list[str] | None:
    """Split an option at its commas."""
    return None if text is None else [word.strip() for word in text.split(",")]


@click.command(
    cls=Command,
    example="""\
  reparam export ckpt.pdparams --onnx
  reparam export ckpt.pdparams --onnx model.onnx --input-size 480x640 --batch 1
  reparam export ckpt.pdparams --onnx --dynamic batch,height,width --precision float16
  reparam export ckpt.pdparams --onnx --fold-normalize
  reparam export ckpt.pdparams --paddle deploy.json""",
)
@click.argument("checkpoint", required=False, type=INPUT)
@click.option(
    "--onnx",
    "onnx",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Write an ONNX file; x.onnx beside x.pdparams if no path is given. What is done if "
    "neither this nor --paddle is given.",
)
@click.option(
    "--paddle",
    "paddle",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Write a program for Paddle Inference, x.json, and x.pdiparams beside it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write, of the one form asked for: as --onnx PATH, or --paddle PATH.",
)
@click.option(
    "--input-size",
    help="H and W: 224 or 480x640. Default: 224, or 640 for a backbone. Of an open axis, the size "
    "to check with.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="A fixed batch. Default: any, or 1 if --dynamic names other axes only.",
)
@click.option(
    "--dynamic",
    metavar="AXES",
    callback=_words,
    help="Axes of any size: some of batch,height,width. Default: batch.",
)
@click.option(
    "--fuse/--no-fuse",
    "fuse_blocks",
    default=True,
    help="--no-fuse keeps every branch and BatchNorm: a baseline to compare with.",
)
@click.option("--opset", type=click.IntRange(11, 21), default=17, show_default=True)
@click.option(
    "--output-names",
    metavar="NAMES",
    callback=_words,
    help="Names of the outputs of the ONNX file, in order: a,b,c. Default: fetch_name_0 ...",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of weights and arithmetic in the ONNX file.",
)
@click.option(
    "--keep-io/--no-keep-io",
    "keep_io",
    default=True,
    help="With float16: keep inputs and outputs float32 (the default), or make them float16 too.",
)
@click.option(
    "--fold-normalize",
    is_flag=False,
    flag_value="",
    metavar="[VALUE]",
    help="Make the ONNX file take raw pixels. MEAN,STD or one of each for every channel, 1/255 to "
    "scale first, bgr to turn the channels; or a preset: imagenet, ppyoloe, ppyoloe+ ... Without "
    "VALUE, what networks such as the recognised one are trained with.",
)
@click.option(
    "--external-data",
    is_flag=True,
    help="Put the weights into x.onnx.data beside x.onnx. Done anyway from 2 GB on.",
)
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
@detector_options
@force_option
@json_option
def command(
    checkpoint: Path | None,
    onnx: str | None,
    paddle: str | None,
    output: Path | None,
    fuse_blocks: bool,
    input_size: str | None,
    prefix: str | None,
    choice: Choice,
    detector: DetectorChoice,
    as_json: bool,
    **options: Any,
) -> None:
    """Write CHECKPOINT as one clean ONNX file, checked before it gets its name.

    Blocks are fused and every BatchNorm is folded. The file has to pass the ONNX checker, load in
    onnxruntime without a warning, and compute what the checkpoint computes. A program for Paddle
    Inference has to run there and compute the same.
    """
    folded = options["fold_normalize"]
    if checkpoint is None:  # `export --onnx ckpt.pdparams` names the checkpoint
        checkpoint, (onnx, paddle, folded) = _checkpoint_among(onnx, paddle, folded)
        options["fold_normalize"] = folded
    source = the_checkpoint(checkpoint)
    if output is not None:
        onnx, paddle = _named_by_output(output, onnx, paddle)
    if onnx is None and paddle is None:
        onnx = ""
    warnings = list(_without_effect(onnx is not None, options))
    for warning in warnings:
        note(warning)
    size = size_of(input_size)
    chosen = choice.of(source, prefix=prefix)
    steps = (3 if onnx is not None else 2) + (paddle is not None)
    with progress(steps=steps) as tell:
        report = export_onnx(
            load_checkpoint(source, prefix=prefix),
            None if onnx is None else Path(onnx or source.with_suffix(".onnx")),
            paddle=None if paddle is None else _program(paddle, source),
            fuse=fuse_blocks,
            input_size=size or chosen.input_size,
            settings=chosen.settings,
            model=chosen.own,
            progress=tell,
            **detector.options(chosen),
            **options,
        )
    if as_json:
        notices = [*report.notices, *chosen.notices, *warnings]
        print_json("export", report.worst.verdict, {**report.to_json(), "notices": notices})
    else:
        show(report)


def _checkpoint_among(*given: str | None) -> tuple[Path | None, tuple[str | None, ...]]:
    """Return the checkpoint that the value of an option names, and the values without it.

    An option with an optional value takes the argument behind it, so ``--onnx ckpt.pdparams``
    reads the checkpoint as the value of ``--onnx``. An output never ends as a checkpoint does.
    """
    for at, value in enumerate(given):
        if value and is_checkpoint(Path(value)):
            return Path(value), (*given[:at], "", *given[at + 1 :])
    return None, given


def _named_by_output(
    output: Path, onnx: str | None, paddle: str | None
) -> tuple[str | None, str | None]:
    """Return ``--onnx`` and ``--paddle`` with the path of ``-o`` in the one that is asked for."""
    given = onnx or paddle
    if given:
        raise click.UsageError(f"-o {output} and '{given}' both name the output: leave one out")
    if onnx is not None and paddle is not None:
        raise click.UsageError(
            f"-o {output} names one file, and --onnx and --paddle write one each: "
            "give each its own path"
        )
    return (None, str(output)) if paddle is not None else (str(output), None)


def _program(given: str, source: Path) -> Path:
    """Return the path of the program: x.json, whichever of its two files was named."""
    path = Path(given) if given else source
    if not given or path.suffix in (".json", ".pdiparams"):
        return path.with_suffix(".json")
    return path.with_name(f"{path.name}.json")


def _without_effect(onnx: bool, options: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for every option that was given and changes nothing."""
    context = click.get_current_context()
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    for name in _ONNX_ONLY:
        if name in given and not onnx:
            yield f"--{name.replace('_', '-')} has no effect without --onnx"
    if onnx and "keep_io" in given and options["precision"] == "float32":
        yield "--keep-io and --no-keep-io have no effect without --precision float16"
    if "input_size" in given and {"height", "width"} <= set(options["dynamic"] or ()):
        yield "--input-size is only the size to check with: height and width are open"


def show(report: ExportReport) -> None:
    """Print the report."""
    grid = table("", "")
    grid.show_header = False
    for label, text in (*_interface(report), *_files(report), *_network(report), *_checks(report)):
        if text:
            grid.add_row(label, text)
    for notice in report.notices:
        grid.add_row("note", notice)
    stdout().print(grid)


def _files(report: ExportReport) -> Iterator[tuple[str, str]]:
    if report.output is not None:
        yield "wrote", f"{report.output} ({report.file_bytes:,} bytes)"
    if report.data is not None:
        yield "wrote", f"{report.data} ({report.data_bytes:,} bytes), which belongs to it"
    if report.contract is not None:
        yield "wrote", f"{report.contract}, how to feed it and what its outputs mean"
    if report.paddle is not None:
        files = f"{report.paddle.program} and {report.paddle.parameters}"
        yield "wrote", f"{files} ({report.paddle.file_bytes:,} bytes)"


def _interface(report: ExportReport) -> Iterator[tuple[str, str]]:
    yield "input", _tensor(report.input)
    yield "outputs", "; ".join(_tensor(tensor) for tensor in report.outputs)
    yield "head", _head(report)


def _network(report: ExportReport) -> Iterator[tuple[str, str]]:
    nodes_before, nodes = sum(report.ops_before.values()), sum(report.ops_after.values())
    yield "network", f"{report.architecture}, {report.parameters:,} parameters"
    yield "blocks", f"{report.fused_blocks} of {report.blocks} are one convolution"
    yield "regions", _regions(report)
    if report.output is not None:
        convolutions = report.ops_after.get("Conv", 0)
        yield "nodes", f"{nodes_before} -> {nodes}, {convolutions} of them Conv"
        left = ", ".join(f"{n} {op}" for op, n in report.ops_after.items())
        yield "left in the graph", left
    if report.output is not None:
        yield "opset", f"{report.opset} (IR version {report.ir_version})"
    yield "assumed", ", ".join(f"{name}={value}" for name, value in report.assumed.items())


def _head(report: ExportReport) -> str:
    """Say how a detector answers; nothing for another network."""
    selection = report.selection
    if selection is None:
        told = {"raw": "the maps of each level", "decoded": "boxes and scores of every cell"}
        return told.get(report.head or "", "")
    taking = f"{selection.candidates} of a class" if selection.candidates else "all"
    whose = f" as {report.compat} gives them" if report.compat else ""
    return (
        f"detections{whose}: score above {selection.score_threshold:g}, overlap in a class up to "
        f"{selection.iou_threshold:g}, {selection.top_k} an image; {taking} take part"
    )


def _regions(report: ExportReport) -> str:
    """Say what was fused outside of the blocks, and what was left and why."""
    fused = len(report.fused_regions)
    told = [f"{fused} more {'is' if fused == 1 else 'are'} one operator"] if fused else []
    reasons = Counter(one.reason.splitlines()[0] for one in report.left_regions)
    told += [f"{number} left: {reason}" for reason, number in reasons.most_common(3)]
    if len(reasons) > 3:
        told.append(f"{len(reasons) - 3} more reasons in --json")
    return "; ".join(told)


def _checks(report: ExportReport) -> Iterator[tuple[str, str]]:
    narrow = report.float16
    if narrow is not None:
        text = (
            f"{narrow.subnormal:,} of {narrow.weights:,} weights are below 6.1e-05 and keep fewer "
            f"bits, {narrow.zero:,} became 0; largest value inside: {narrow.largest:.4g} from "
            f"{narrow.largest_at} (float16 ends at 65504)"
        )
        yield "float16", text
        yield "before rounding", _compared("onnxruntime", narrow.float32)
    if report.output is not None:
        yield "checked", _compared("onnxruntime", report.worst)
    if report.paddle is not None:
        yield "checked", _compared("Paddle Inference", report.paddle.worst)


def _compared(runtime: str, worst: Difference) -> str:
    distance = figure(worst.distance, worst.scale)
    return (
        f"{runtime} is within {distance} of the checkpoint in float64 (allowed: "
        f"{worst.bound:.2e}, largest output {worst.scale:.3g}): {worst.verdict}"
    )


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})"
