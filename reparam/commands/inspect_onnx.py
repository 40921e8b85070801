"""``reparam inspect`` of an ONNX file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reparam.commands.common import limit, print_json, progress, stdout, table

if TYPE_CHECKING:
    from reparam.commands.grid import Grid
    from reparam.graph.explaining import Explanation
    from reparam.graph.inspecting import GraphInspection, Refused, Unfused
    from reparam.supervision import Limits

_NAMES = re.compile(r"'[^']*'|[\d,]+|and \d+ more")


def inspect_graph_file(path: Path, as_json: bool, limits: Limits) -> None:
    """Print what an ONNX file holds, and what fusing it would save."""
    from reparam.graph import guarded

    with progress(f"reading {path}"):
        found = guarded.inspect(path, limits=limits)
    if as_json:
        print_json("inspect", "onnx", found.to_json())
        return
    show(found)


def show(found: GraphInspection) -> None:
    """Print what an ONNX file holds, and what fusing it would save."""
    console = stdout()
    console.print(_about(found))
    _print_unfused(found)
    alike = _alike(found.refused)
    for number, one in alike[: limit()]:
        first = f"{number:,} x {one.operator}, such as" if number > 1 else one.operator
        console.print(f"left at first: {first} '{one.where}': {one.reason}")
    if len(alike) > limit():
        console.print(f"... and {len(alike) - limit():,} more reasons; --verbose lists every node")
    for notice in found.notices:
        console.print(f"note: {notice}")


def explain_graph_file(path: Path, name: str, as_json: bool, limits: Limits) -> None:
    """Print why a node of an ONNX file would be fused, or not."""
    from reparam.graph import guarded

    with progress(f"reading {path}"):
        found = guarded.explain(path, name, limits=limits)
    if as_json:
        print_json("inspect", found.verdict, {"path": str(path), **found.to_json()})
    else:
        _print_explanation(found)


def _about(found: GraphInspection) -> Grid:
    about = found.about
    beside = f" and {about['data_bytes']:,} of weights beside it" if about["data_bytes"] else ""
    rows = [
        ("file", f"{about['path']} ({about['file_bytes']:,} bytes{beside})"),
        ("producer", about["producer"]),
        ("opset", f"{about['opset']} (IR version {about['ir_version']})"),
        ("inputs", _values(about["inputs"])),
        ("outputs", _values(about["outputs"])),
        ("parameters", f"{about['parameters']:,}"),
        ("nodes", ", ".join(f"{n:,} {name}" for name, n in about["operators"].items())),
        *about["metadata"].items(),
    ]
    grid = table("", "")
    grid.show_header = False
    for label, text in rows:
        if text:
            grid.add_row(label, text)
    return grid


def _values(values: Iterable[dict[str, Any]]) -> str:
    return "; ".join(
        f"{v['name']} {v['dtype']} ({', '.join(map(str, v['shape']))})" for v in values
    )


def _print_unfused(found: GraphInspection) -> None:
    from reparam.graph.reporting import counts_text

    console = stdout()
    if not found.unfused:
        console.print("nothing to fuse")
        return
    number = len(found.unfused)
    regions = "1 region" if number == 1 else f"{number:,} regions"
    console.print(f"reparam fuse would fuse {regions} first, and maybe more after that:")
    grid = table("pass", "where", "nodes", "becomes", "#MACs")
    for one in _largest_of_each(found.unfused)[: limit()]:
        grid.add_row(one.kind, *_row(one))
    console.print(grid)
    if len(found.unfused) > limit():
        console.print(f"... and {len(found.unfused) - limit():,} more; --verbose lists all")
    console.print(counts_text(found.about["operators"], found.operators_after))


def _largest_of_each(regions: Iterable[Unfused]) -> list[Unfused]:
    """Return regions by kind, the kind first that holds the largest; those come sorted."""
    by_kind: dict[str, list[Unfused]] = {}
    for one in regions:
        by_kind.setdefault(one.kind, []).append(one)
    return [one for found in by_kind.values() for one in found]


def _alike(refused: Iterable[Refused]) -> list[tuple[int, Refused]]:
    """Return one node for each reason, and how many have it; names in reasons do not count."""
    classes: dict[tuple[str, str], list[Refused]] = {}
    for one in refused:
        classes.setdefault((one.operator, _NAMES.sub("", one.reason)), []).append(one)
    ranked = sorted(classes.values(), key=len, reverse=True)
    return [(len(found), found[0]) for found in ranked]


def _row(one: Unfused) -> tuple[str, str, str, str]:
    from reparam.graph.macs import text_of
    from reparam.graph.reporting import becomes_text, operators_text

    each = {"before": one.macs_before, "after": one.macs_after}
    return one.where, operators_text(one.before), becomes_text(one), text_of(each, one.extent)


def _print_explanation(found: Explanation) -> None:
    console = stdout()
    operator = f" ({found.operator})" if found.operator else ""
    if found.region is not None:
        where, nodes, becomes, macs = _row(found.region)
        console.print(f"'{found.name}'{operator} would be fused ({found.region.kind}):")
        console.print(f"  {nodes} from '{found.region.source}' to '{where}' become {becomes}")
        console.print(f"  MACs {macs}")
    else:
        later = "would be fused, but not in the first round"
        becomes = "stays as it is" if found.verdict == "left" else later
        console.print(f"'{found.name}'{operator} {becomes}:")
        for reason in found.reasons:
            console.print(f"  {reason}")
    for label, values in (("reads", found.inputs), ("makes", found.outputs)):
        for name, forms in values.items():
            if forms:
                console.print(f"  it {label} '{name}', which is")
            for form in forms:
                console.print(f"    {form}")
