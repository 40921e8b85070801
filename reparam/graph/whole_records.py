"""What comparing two whole graphs found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reparam.adapters.closeness import Closeness

EQUAL, DIFFERENT, UNDECIDABLE, NOT_RUN = "equal", "different", "undecidable", "not run"


@dataclass(frozen=True, kw_only=True)
class Result(Closeness):
    """One output on one input.

    Attributes:
        output: its name.
        run: the probe and the shapes of the inputs.
        runtime: how far onnxruntime is from the truth with the fused file; None where that is the
            distance itself.
        reason: what is to be said beside the numbers.
    """

    output: str
    run: str
    runtime: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Whole:
    """Whether a fused graph is the original, as a whole.

    Attributes:
        verdict: ``"equal"``, ``"different"``, ``"undecidable"`` or ``"not run"``.
        worst: the output that is furthest for what it may be, None where nothing was compared.
        reason: of any verdict but equal.
        truth: what outputs were held against.
        runs: probes and shapes of inputs.
        warnings: what onnxruntime says of the fused file and did not say of the original.
        notes: what was done otherwise than usual.
    """

    verdict: str
    worst: Result | None = None
    reason: str = ""
    truth: str = ""
    runs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the fused file."""
        return self.verdict != DIFFERENT and not self.warnings


def summary(results: Sequence[Result], whole: Whole) -> Whole:
    """Return ``whole`` with the verdict of all results; the worst of them decides."""
    worst = max(results, key=lambda result: result.rank)
    return replace(whole, verdict=worst.verdict, worst=worst, reason=worst.reason or _why(worst))


def _why(worst: Result) -> str:
    if worst.verdict == DIFFERENT:
        return (
            f"output '{worst.output}' is off by {worst.distance:.3g} (allowed: {worst.bound:.3g}) "
            f"at {list(worst.index)} on {worst.run}"
        )
    if worst.verdict == UNDECIDABLE:
        return (
            f"one rounding of the weights, or float32 itself, takes output '{worst.output}' off by "
            f"{worst.floor:.2g} where its largest value is {worst.scale:.2g}, so outputs prove "
            "nothing"
        )
    return ""
