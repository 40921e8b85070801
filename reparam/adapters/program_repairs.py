"""What paddle 3.3 writes into a program that paddle2onnx 2.1 cannot read, put right by name."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("reparam.adapters")


def repair_program(operators: list[Any]) -> dict[str, int]:
    """Repair the operators of a PIR program in place; return what was done, with counts."""
    done = {"float64 scales of an interpolation made float32": _float32_scales(operators)}
    for what, count in done.items():
        if count:
            log.info("%s: %d", what, count)
    return {what: count for what, count in done.items() if count}


def _float32_scales(operators: list[Any]) -> int:
    """Write the scales of an interpolation in the type that the converter asks for.

        before:  1.nearest_interp  scale: [0.a_f64 2.0, 0.a_f64 2.0]
        after:   1.nearest_interp  scale: [0.a_f32 2.0, 0.a_f32 2.0]

    The converter refuses the whole program otherwise: "MUST be ir::FloatAttribute". Nothing is
    lost by it: a Resize of ONNX takes its scales in float32.
    """
    count = 0
    for operator in operators:
        if not str(operator.get("#")).endswith("_interp"):
            continue
        for attribute in operator["A"]:
            scales = attribute["AT"].get("D") if attribute["N"] == "scale" else None
            if isinstance(scales, list) and any(scale["#"] == "0.a_f64" for scale in scales):
                for scale in scales:
                    scale["#"] = "0.a_f32"
                count += 1
    return count
