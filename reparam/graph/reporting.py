"""What fusing a graph did, as values that JSON knows and as the words of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from reparam.adapters.closeness import figure
from reparam.graph.macs import Extent
from reparam.graph.records import Fused, GraphReport, Swap
from reparam.graph.whole_records import EQUAL, NOT_RUN, Whole

if TYPE_CHECKING:
    from reparam.graph.pipeline import GraphFusion

_SHORT = {"BatchNormalization": "BatchNorm", "GlobalAveragePool": "GlobalPool"}


def to_json(fusion: GraphFusion) -> dict[str, Any]:
    """Return the fields of ``fuse --json`` for an ONNX file: every region, not only the first."""
    report = fusion.report
    return {
        "source": fusion.source,
        "source_sha256": fusion.source_sha256,
        "output": fusion.output,
        "sha256": fusion.sha256,
        "data": fusion.data,
        "regions": [region_to_json(one) for one in report.fused],
        "left": [asdict(one) for one in report.left],
        "failed": [asdict(one) for one in report.failed],
        "passes": {**regions_by_pass(report), **report.passes},
        "operators_before": report.ops_before,
        "operators_after": report.ops_after,
        "nodes_before": sum(report.ops_before.values()),
        "nodes_after": sum(report.ops_after.values()),
        "macs_before": report.macs_before.to_json(),
        "macs_after": report.macs_after.to_json(),
        "flushed": report.flushed,
        "fused_before": fusion.before,
        "worst_region": worst_ratio(report),
        "whole": asdict(fusion.whole),
        "notices": list(fusion.notices),
    }


def region_to_json(one: Fused) -> dict[str, Any]:
    """Return a region that was fused as values that JSON knows."""
    told = asdict(one)
    told["extent"] = None if one.extent is None else [str(axis) for axis in one.extent]
    totals = [total_of(macs, one.extent) for macs in (one.macs_before, one.macs_after)]
    told["macs_before_in_total"], told["macs_after_in_total"] = totals
    return told


def total_of(each: float, extent: Extent | None) -> float | None:
    """Return the MACs at all positions of one image; None where their number is open."""
    if extent is None or any(axis.of for axis in extent):
        return None
    return each * float(prod(axis.number for axis in extent))


def regions_by_pass(report: GraphReport) -> dict[str, int]:
    """Return how many regions each pass fused, those with most first."""
    return dict(Counter(one.kind for one in report.fused).most_common())


def worst_ratio(report: GraphReport) -> dict[str, Any] | None:
    """Return where a region came nearest to its bound, and how near."""
    if not report.fused:
        return None
    worst = max(report.fused, key=lambda one: one.ratio)
    return {"where": worst.where, "ratio": worst.ratio}


def by_saving(regions: Iterable[Fused]) -> list[Fused]:
    """Return regions, those that save most MACs first, then those that save most nodes."""

    def saving(one: Fused) -> tuple[float, int]:
        number = prod((float(axis.number) for axis in one.extent or ()), start=1.0)
        nodes = sum(one.before.values()) - sum(one.after.values())
        return -number * (one.macs_before - one.macs_after), -nodes

    return sorted(regions, key=saving)


def operators_text(counts: Mapping[str, int]) -> str:
    """Return operators as a table shows them: ``2 Conv + 3 BatchNorm``."""
    ranked = sorted(counts.items(), key=lambda item: (item[0] not in ("Conv", "Gemm", "MatMul"),))
    return " + ".join(f"{number} {_SHORT.get(name, name)}" for name, number in ranked)


def becomes_text(one: Swap) -> str:
    """Return what a region became: ``3x3 Conv``, ``Mul + Add``, or nothing at all."""
    if not one.after:
        return "nothing"
    kernel = "x".join(map(str, one.kernel))
    names = " + ".join(name for name, number in one.after.items() for _ in range(number))
    return f"{kernel} {names}".strip()


def changes_text(report: GraphReport) -> str:
    """Return how the nodes of a graph changed in number."""
    return counts_text(report.ops_before, report.ops_after)


def counts_text(before: Mapping[str, int], after: Mapping[str, int], most: int = 6) -> str:
    """Return how nodes change in number, the largest changes first."""
    names = sorted(
        (name for name in {*before, *after} if before.get(name, 0) != after.get(name, 0)),
        key=lambda name: (-abs(before.get(name, 0) - after.get(name, 0)), name),
    )
    total = f"nodes {sum(before.values()):,} -> {sum(after.values()):,}"
    told = [f"{_SHORT.get(n, n)} {before.get(n, 0):,} -> {after.get(n, 0):,}" for n in names]
    return "; ".join([total, *told[:most]]) + (" ..." if len(told) > most else "")


def macs_text(report: GraphReport) -> str:
    """Return the MACs of the graph before and after."""
    unknown = report.macs_before.unknown
    rest = f" ({unknown} nodes not counted: their size is not known)" if unknown else ""
    return f"MACs for one image {report.macs_before} -> {report.macs_after}{rest}"


def proof_text(report: GraphReport) -> str:
    """Return what the proofs of the regions came to."""
    worst = worst_ratio(report)
    if worst is None:
        return ""
    number = len(report.fused)
    regions = "1 region" if number == 1 else f"{number:,} regions, the worst"
    return f"proved in float64: {regions} at {worst['ratio']:.2g} of the bound ('{worst['where']}')"


def whole_text(whole: Whole) -> str:
    """Return what comparing the whole graph came to, and what was compared."""
    if whole.verdict == NOT_RUN:
        return f"not compared as a whole: {whole.reason}"
    runs = f"{len(whole.runs)} inputs" if len(whole.runs) != 1 else "1 input"
    if whole.verdict != EQUAL or whole.worst is None:
        return (
            f"as a whole, {runs}: {whole.verdict}: {whole.reason}; what each region was proved "
            "stands"
        )
    worst = whole.worst
    distance = figure(worst.distance, worst.scale, ".2g")
    numbers = f"'{worst.output}' is off by {distance} where {worst.bound:.2g} is allowed"
    if worst.runtime is None:
        where = "on onnxruntime"
        numbers += f" and the original itself is off by {worst.floor:.2g}"
    else:
        where = "in float64"
        numbers += f"; onnxruntime runs it, off by {worst.runtime:.2g}"
    return f"equal as a whole {where}, {runs}: {numbers}; against {whole.truth}"
