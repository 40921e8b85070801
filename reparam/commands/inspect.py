"""``reparam inspect``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reparam.checkpoint.families import FAMILIES, Family
from reparam.checkpoint.families.terms import labels_of
from reparam.checkpoint.fusing import listing
from reparam.checkpoint.inspection import Inspection, inspect
from reparam.checkpoint.roles import QUANTISED, WEIGHTS
from reparam.commands.command import Command
from reparam.commands.common import (
    json_option,
    prefix_option,
    print_json,
    progress,
    stdout,
    table,
)
from reparam.commands.inputs import INPUT, the_checkpoint
from reparam.commands.inspect_onnx import explain_graph_file, inspect_graph_file
from reparam.commands.limit_options import limit_options

if TYPE_CHECKING:
    from reparam.supervision import Limits


@click.command(
    cls=Command,
    example="""\
  reparam inspect ckpt.pdparams
  reparam inspect model.onnx
  reparam inspect model.onnx --why /stage1/block0/Add
  reparam inspect --families""",
)
@click.argument("checkpoint", required=False, type=INPUT)
@prefix_option
@click.option(
    "--families", is_flag=True, help="List the families of blocks that are known, and nothing else."
)
@click.option(
    "--why",
    metavar="NAME",
    help="ONNX: tell why the node, or the one that makes the value, of this name would be fused "
    "or not. A part of the name does, if no other has it.",
)
@limit_options
@json_option
def command(
    checkpoint: Path | None,
    prefix: str | None,
    families: bool,
    why: str | None,
    limits: Limits,
    as_json: bool,
) -> None:
    """Tell what CHECKPOINT holds: architecture, blocks and their form, what is wrong with it.

    Of an ONNX file: interface, operators, and what fusing it would save. Nothing in it is run.
    """
    if families:
        _list_families(as_json)
        return
    path = the_checkpoint(checkpoint)
    if path.suffix == ".onnx":
        if prefix is not None:
            raise click.UsageError(f"--prefix is for checkpoints; '{path}' is an ONNX file")
        if why is None:
            inspect_graph_file(path, as_json, limits)
        else:
            explain_graph_file(path, why, as_json, limits)
        return
    if why is not None:
        raise click.UsageError(f"--why is for ONNX files; '{path}' is a checkpoint")
    with progress(f"reading {path}"):
        found = inspect(path, prefix=prefix)
    if as_json:
        print_json("inspect", found.form, found.to_json())
    else:
        show(found)


def show(found: Inspection) -> None:
    """Print what a checkpoint holds."""
    _print_rows(_rows(found))


def _rows(found: Inspection) -> list[tuple[str, str]]:
    dtypes = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    families: dict[str, int] = {}
    for block in found.blocks:
        families[block.family] = families.get(block.family, 0) + 1
    rows = [
        ("file", f"{found.path} ({found.format}, {found.bytes:,} bytes)"),
        ("sha256", found.sha256),
        ("kind", _kind(found)),
        *(("note", notice) for notice in found.layout.notices),
        ("architecture", found.architecture or _of_no_architecture(found)),
        ("settings", _settings(found.settings)),
        ("not told by the file", _settings(found.assumed)),
        ("parameters", f"{found.parameters:,} in {found.arrays} arrays ({dtypes})"),
        (
            "blocks",
            ", ".join(f"{count} {name}" for name, count in families.items()) or "none known",
        ),
        ("form", f"{found.form} ({found.fused} of {len(found.blocks)} blocks are one convolution)"),
    ]
    problems = (
        ("missing", found.missing),
        ("unexpected", found.unexpected),
        ("for training alone", found.ignored),
        ("wrong shape", found.mismatched),
        ("not finite", found.not_finite),
        ("untrained statistics", found.untrained),
        ("in doubt", found.doubts),
    )
    rows += [(label, f"{len(keys)}: {listing(keys)}") for label, keys in problems if keys]
    return [(label, text) for label, text in rows if text]


def _list_families(as_json: bool) -> None:
    """Print each family once: what its blocks are named, what they become, which epsilon."""
    if as_json:
        print_json("inspect", "families", {"families": [_family(one) for one in FAMILIES]})
        return
    grid = table("family", "names", "becomes", "epsilon", "source")
    for one in map(_family, FAMILIES):
        names = ", ".join(one["names"]).replace("{i}", "N")
        grid.add_row(one["name"], names, one["deploy"], _epsilons(one["epsilon"]), one["source"])
    stdout().print(grid)


def _family(family: Family) -> dict[str, Any]:
    epsilon = family.epsilon
    return {
        "name": family.name,
        "part": family.part,
        "names": [label for label in labels_of(family.term) if label != "identity"],
        "deploy": family.deploy or "(its own place)",
        "epsilon": {"paddle": epsilon.paddle, "torch": epsilon.torch, "source": epsilon.source},
        "source": family.source,
    }


def _epsilons(epsilon: dict[str, Any]) -> str:
    """Return the epsilon, or where it has to be given."""
    values = [epsilon["paddle"], epsilon["torch"]]
    said = [f"{value:g}" if value is not None else "asked for" for value in values]
    return said[0] if said[0] == said[1] else f"{said[0]}, PyTorch names: {said[1]}"


def _of_no_architecture(found: Inspection) -> str:
    if found.detector is None:
        return "not one that reparam knows as a whole"
    fusible = any(block.form == "train-time" for block in found.blocks)
    blocks = "; its blocks can be fused" if fusible else ""
    return f"the detector {found.detector}, which is not in the zoo{blocks}"


def _kind(found: Inspection) -> str:
    kind = found.layout.kind
    remark = " (QAT): the other commands refuse it" if kind == QUANTISED else ""
    return f"{kind}{remark}" if kind != WEIGHTS else ""


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    grid = table("", "")
    grid.show_header = False
    for label, text in rows:
        grid.add_row(label, text)
    stdout().print(grid)
