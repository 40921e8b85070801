"""``reparam inspect``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from reparam.checkpoint.fusing import listing
from reparam.checkpoint.inspection import Inspection, inspect
from reparam.checkpoint.roles import QUANTISED, WEIGHTS
from reparam.commands.common import (
    json_option,
    prefix_option,
    print_json,
    progress,
    stdout,
    table,
    the_checkpoint,
)


@click.command(
    epilog="""\b
Example:
  reparam inspect ckpt.pdparams
  reparam inspect model.onnx --json"""
)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@prefix_option
@json_option
def command(checkpoint: Path | None, prefix: str | None, as_json: bool) -> None:
    """Tell what CHECKPOINT holds: architecture, blocks and their form, what is wrong with it."""
    path = the_checkpoint(checkpoint)
    if path.suffix == ".onnx":
        _inspect_onnx(path, as_json)
        return
    with progress(f"reading {path}"):
        found = inspect(path, prefix=prefix)
    if as_json:
        print_json("inspect", found.form, found.to_json())
    else:
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
        ("architecture", found.architecture or "not one that reparam knows as a whole"),
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
        ("wrong shape", found.mismatched),
        ("not finite", found.not_finite),
        ("untrained statistics", found.untrained),
        ("in doubt", found.doubts),
    )
    rows += [(label, f"{len(keys)}: {listing(keys)}") for label, keys in problems if keys]
    return [(label, text) for label, text in rows if text]


def _kind(found: Inspection) -> str:
    kind = found.layout.kind
    remark = " (QAT): the other commands refuse it" if kind == QUANTISED else ""
    return f"{kind}{remark}" if kind != WEIGHTS else ""


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _inspect_onnx(path: Path, as_json: bool) -> None:
    from reparam.adapters.onnx_model import inspect_file

    with progress(f"reading {path}"):
        found = inspect_file(path)
    if as_json:
        print_json("inspect", "onnx", found)
        return
    _print_rows(
        [
            ("file", f"{path} ({found['file_bytes']:,} bytes)"),
            ("opset", f"{found['opset']} (IR version {found['ir_version']})"),
            ("inputs", _values(found["inputs"])),
            ("outputs", _values(found["outputs"])),
            ("parameters", f"{found['parameters']:,}"),
            ("nodes", ", ".join(f"{n} {name}" for name, n in found["operators"].items())),
            *found["metadata"].items(),
        ]
    )


def _values(values: Iterable[dict[str, Any]]) -> str:
    return "; ".join(
        f"{v['name']} {v['dtype']} ({', '.join(map(str, v['shape']))})" for v in values
    )


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    grid = table("", "")
    grid.show_header = False
    for label, text in rows:
        grid.add_row(label, text)
    stdout().print(grid)
