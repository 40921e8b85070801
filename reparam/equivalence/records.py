"""What a verification found, as data: tables and JSON are derived from these records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reparam.adapters.closeness import Closeness
from reparam.conv.certificate import Certificate
from reparam.reports import Report

EQUAL, DIFFERENT, UNDECIDABLE, SKIPPED = "equal", "different", "undecidable", "skipped"
NOTHING = "nothing to compare"
EQUIVALENT, EQUAL_ON_SAMPLES = "equivalent", "equal on samples"
"""Verdicts of a whole comparison: every array was accounted for; outputs were equal on probes."""


@dataclass(frozen=True)
class BlockResult:
    """One block on its worst probe.

    ``distance`` is the largest difference relative to what it may be there, at the output
    ``index`` (n, channel, *position); ``bound`` is the allowance at that output, derived from
    float rounding alone. Where no probe but a single weight decided, they are those of the weight
    and ``probe`` is empty. ``certificate`` holds for every input.
    """

    where: str
    verdict: str
    distance: float
    bound: float
    probe: str
    index: tuple[int, ...]
    reason: str = ""
    certificate: Certificate | None = None

    @property
    def share(self) -> float:
        """The distance over its bound."""
        return self.distance / self.bound if self.bound else np.inf if self.distance else 0.0


@dataclass(frozen=True, kw_only=True)
class ProbeResult(Closeness):
    """One output of the whole network on one probe.

    The truth is the original in float64; ``floor`` is how far the original in float32 is from it.
    """

    output: int
    probe: str


@dataclass(frozen=True)
class Stage:
    """One comparison: what was compared, the verdict, and why that is enough."""

    name: str
    verdict: str
    summary: str
    why: str
    blocks: tuple[BlockResult, ...] = ()
    probes: tuple[ProbeResult, ...] = ()

    @property
    def worst_block(self) -> BlockResult | None:
        return max(self.blocks, key=lambda block: block.share, default=None)

    @property
    def worst_certified(self) -> BlockResult | None:
        """The block whose certificate allows most roundings."""
        certified = [block for block in self.blocks if block.certificate]
        return max(certified, key=_roundings, default=None)

    @property
    def worst_probe(self) -> ProbeResult | None:
        """The output that decides the verdict, on the probe on which it does."""
        return max(self.probes, key=lambda probe: probe.rank, default=None)


@dataclass(frozen=True, repr=False)
class Verification(Report):
    """The whole comparison.

    ``verdict`` is ``equivalent``, ``different`` or ``undecidable``; of two ONNX files ``equal on
    samples`` in place of the first, or ``nothing to compare``. ``notices`` say how the
    weights of the original were found in its file.
    """

    original: str
    candidate: str
    original_sha256: str
    candidate_sha256: str
    architecture: str | None
    epsilon: float | None
    verdict: str
    stages: tuple[Stage, ...]
    notices: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return f"{self.verdict}: {self.candidate} and {self.original}"

    @property
    def first_difference(self) -> str:
        """The first thing that differs, in the order of the network; empty if nothing does."""
        for stage in self.stages:
            for block in stage.blocks:
                if block.verdict == DIFFERENT:
                    return f"block '{block.where}': {block.reason}"
            if stage.verdict == DIFFERENT:
                return f"{stage.name}: {stage.summary}"
        return ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "first_difference": self.first_difference}


def verdict_of(stages: tuple[Stage, ...]) -> str:
    """Return the verdict of the whole: one difference decides, and something must have agreed."""
    found = [stage.verdict for stage in stages]
    if DIFFERENT in found:
        return DIFFERENT
    return EQUIVALENT if EQUAL in found else UNDECIDABLE if UNDECIDABLE in found else NOTHING


def _roundings(block: BlockResult) -> float:
    return block.certificate.roundings if block.certificate else 0.0
