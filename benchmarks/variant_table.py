"""The Markdown table of ``benchmarks.variants``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]

_COLUMNS = (
    "variant",
    "parameters",
    "convolutions",
    "certificate of the worst block",
    "blocks",
    "network",
    "ONNX",
    "1 % off in the first block",
    "s",
)


def table(rows: Iterable[Row]) -> str:
    """Return one line a variant; numbers of a stage are its worst difference / the allowed.

    Of whole networks both are shares of the largest output.
    """
    lines = [_COLUMNS, ("---", "---:", "---:", *["---"] * 5, "---:")]
    lines += [_line(row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(row: Row) -> tuple[str, ...]:
    stages = row["stages"]
    return (
        row["variant"],
        f"{row['parameters']:,} -> {row['parameters_in_file'] or 0:,}",
        f"{row['convolutions']} -> {row['convolutions_in_file']}",
        _certificate(row["certificate"]),
        *(_stage(stages.get(name)) for name in ("blocks", "network", "onnxruntime")),
        _stage(row["wrong"]),
        f"{sum(row['seconds'].values()):.0f}",
    )


def _certificate(found: Row | None) -> str:
    if not found:
        return "-"
    text = f"{found['c']:.1e} max\\|x\\| + {found['d']:.1e}"
    if "roundings" in found:
        text += f" ({found['roundings']:.2f} roundings)"
    return text


def _stage(found: Row | None) -> str:
    if not found:
        return "-"
    if found.get("distance") is None:
        return str(found["verdict"])
    scale = found.get("scale", 1.0)
    return f"{found['verdict']}: {found['distance'] / scale:.1e} / {found['bound'] / scale:.1e}"
