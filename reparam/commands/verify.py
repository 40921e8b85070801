"""``reparam verify``."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import click
import numpy as np

from reparam.adapters.closeness import figure
from reparam.commands.command import Command
from reparam.commands.common import (
    epsilon_option,
    family_option,
    json_option,
    prefix_option,
    print_json,
    progress,
    sizes_of,
    stdout,
    table,
    tell_unused,
)
from reparam.commands.inputs import INPUT, the_checkpoint
from reparam.commands.limit_options import limit_options
from reparam.commands.model_options import Choice, model_options
from reparam.equivalence import Probing, Stage, Verification, verify
from reparam.equivalence.probes import DEFAULT_SIZES
from reparam.equivalence.records import EQUAL_ON_SAMPLES, ProbeResult
from reparam.errors import EXIT_NO, CheckpointError
from reparam.supervision import Limits

_FOR_CHECKPOINTS = ("epsilon", "families", "prefix", "input_size", "network", "model", "settings",
                    "config", "input_channels")  # fmt: skip


@click.command(
    cls=Command,
    example="""\
  reparam verify ckpt.pdparams ckpt.deploy.pdparams
  reparam verify ckpt.pdparams ckpt.onnx --input-size 224
  reparam verify model.onnx model.deploy.onnx --probe inputs.npz""",
)
@click.argument("original", required=False, type=INPUT)
@click.argument("candidate", required=False, type=INPUT)
@epsilon_option
@family_option
@prefix_option
@click.option("--input-size", help="H and W of the probes: 224, 480x640, or several: 96,65x97.")
@click.option(
    "--probe",
    type=click.Path(path_type=Path),
    help="Your own inputs as well: an .npy array (N, C, H, W). Of two ONNX files, of any shape, or "
    "an .npz with one array an input.",
)
@click.option(
    "--network/--no-network", default=True, help="Whether to run the whole network; needs paddle."
)
@model_options
@limit_options
@json_option
def command(
    original: Path | None,
    candidate: Path | None,
    epsilon: float | None,
    families: tuple[str, ...],
    prefix: str | None,
    input_size: str | None,
    probe: Path | None,
    network: bool,
    choice: Choice,
    limits: Limits,
    as_json: bool,
) -> int:
    """Compare CANDIDATE (a checkpoint or ONNX file) with ORIGINAL (a checkpoint, or an ONNX file).

    Without CANDIDATE, a train-time checkpoint is compared with its own fusion, and a deploy
    checkpoint with the source that its manifest names. Exit 1 if they are not equivalent. Two ONNX
    files are compared on samples.
    """
    sizes = sizes_of(input_size) or DEFAULT_SIZES
    path = the_checkpoint(original)
    if path.suffix == ".onnx":
        return _verify_graphs(path, candidate, probe, limits, as_json)
    chosen = choice.of(path, prefix=prefix)
    probing = Probing(
        epsilon=epsilon,
        families=families,
        prefix=prefix,
        sizes=sizes,
        own_input=None if probe is None else _load_probe(probe),
        network=network,
        settings=chosen.settings,
        model=chosen.own,
    )
    with progress(f"comparing {candidate or 'its fusion'} with {path}"):
        result = verify(path, candidate, probing, limits=limits)
    notices = [*result.notices, *chosen.notices, *_unused(result)]
    if as_json:
        print_json("verify", result.verdict, {**result.to_json(), "notices": notices})
    else:
        show(result)
    return 0 if result.verdict == "equivalent" else EXIT_NO


def _verify_graphs(
    path: Path, candidate: Path | None, probe: Path | None, limits: Limits, as_json: bool
) -> int:
    unused = tell_unused(_FOR_CHECKPOINTS, "it is for checkpoints, and this is an ONNX file")
    probing = Probing(own_feeds=None if probe is None else _arrays_of(probe))
    with progress(f"comparing {candidate} with {path}"):
        result = verify(path, candidate, probing, limits=limits)
    if as_json:
        notices = [*result.notices, *unused]
        print_json("verify", result.verdict, {**result.to_json(), "notices": notices})
    else:
        show(result)
    return 0 if result.verdict == EQUAL_ON_SAMPLES else EXIT_NO


def _unused(result: Verification) -> list[str]:
    """Tell of the options that are about running the network, if it was not run."""
    if any(stage.probes for stage in result.stages):
        return []
    return tell_unused(("input_size", "probe", "settings"), "the network was not run")


def _arrays_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of an .npz file by their names, that of an .npy file without one."""
    try:
        with path.open("rb") as file:  # numpy.load leaves a file open that is no archive
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"": found}
            return {name: np.asarray(found[name]) for name in found.files}
    except (OSError, ValueError, EOFError, BadZipFile, NotImplementedError, zlib.error) as error:
        raise CheckpointError(f"cannot read the probe '{path}'", found=str(error)) from error


def _load_probe(path: Path) -> np.ndarray[Any, Any]:
    arrays = list(_arrays_of(path).values())
    array = arrays[0] if len(arrays) == 1 else None
    if array is None or array.ndim != 4 or array.dtype.kind not in "fiu":
        shape = "several arrays" if array is None else array.shape
        raise CheckpointError(
            f"the probe '{path}' is not a batch of images",
            found=f"{shape}; needed: numbers of shape (N, C, H, W)",
        )
    return array.astype(np.float32)


def show(result: Verification) -> None:
    """Print the report."""
    console = stdout()
    console.print(f"original   {result.original}")
    console.print(f"candidate  {result.candidate}")
    grid = table("stage", "verdict", "what was compared", "#worst", "#allowed")
    for stage in result.stages:
        worst, allowed = _worst(stage)
        grid.add_row(stage.name, stage.verdict, stage.summary, worst, allowed)
    console.print(grid)
    for stage in result.stages:
        console.print(f"{stage.name}: {stage.why}", style="dim")
        _print_certificate(stage)
    _print_differing_blocks(result)
    for notice in result.notices:
        console.print(f"note: {notice}")
    if result.first_difference:
        console.print(f"first difference: {result.first_difference}")
    console.print(f"verdict: {result.verdict}", style="bold")


def _print_certificate(stage: Stage) -> None:
    worst = stage.worst_certified
    if worst is not None:
        stdout().print(f"{stage.name}: worst of {len(stage.blocks)} '{worst.where}': "
                       f"{worst.certificate}")  # fmt: skip


def _worst(stage: Stage) -> tuple[str, str]:
    worst = stage.worst_block or stage.worst_probe
    if worst is None:
        return "", ""
    scale = worst.scale if isinstance(worst, ProbeResult) else 0.0
    return figure(worst.distance, scale), figure(worst.bound, scale)


def _print_differing_blocks(result: Verification) -> None:
    wrong = [b for stage in result.stages for b in stage.blocks if b.verdict == "different"]
    if len(wrong) > 1:
        grid = table("block that differs", "how")
        for block in wrong[:20]:
            grid.add_row(block.where, block.reason)
        stdout().print(grid)
