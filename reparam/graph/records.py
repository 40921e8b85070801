"""What fusing a graph takes and tells: options, and a report as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reparam.graph.macs import Extent, Macs
from reparam.graph.proving import Proof
from reparam.normalization import Normalization


@dataclass(frozen=True)
class Options:
    """How a graph is fused.

    Attributes:
        without: names of passes that are switched off.
        allow_macs: how many times the MACs of what it replaces a region may cost.
        normalize: what to do to the pixels of the input, which the file takes raw then.
        merge_siblings: make convolutions of one value one, with a Split.
    """

    without: frozenset[str] = frozenset()
    allow_macs: float = 1.0
    normalize: Normalization | None = None
    merge_siblings: bool = False


@dataclass(frozen=True)
class Swap:
    """A region, and what stands in its place or would.

    Attributes:
        where: name of the value that it makes.
        source: name of the value that it reads.
        kind: the pass that it belongs to.
        before: nodes of each operator in it.
        after: nodes of each operator in their place.
        macs_before: for one position of the source.
        macs_after: the same.
        kernel: of the convolution, if that is what it becomes.
        extent: positions of the source in one image, None where they are not known.
    """

    where: str
    source: str
    kind: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    macs_before: float
    macs_after: float
    kernel: tuple[int, ...] = ()
    extent: Extent | None = None


@dataclass(frozen=True, kw_only=True)
class Fused(Swap):
    """A region that was rewritten.

    Attributes:
        ratio: the largest difference on the probes, over its bound.
    """

    ratio: float


@dataclass(frozen=True)
class Left:
    """A region that stays as it was."""

    where: str
    kind: str
    reason: str

    @property
    def text(self) -> str:
        """Where it is and why it was left, in one line."""
        lines = [line.strip() for line in self.reason.splitlines() if line.strip()]
        return f"{self.where}: {'; '.join(lines)}"


@dataclass
class GraphReport:
    """What fusing did to a graph.

    Attributes:
        ops_before: nodes of each operator as it came.
        ops_after: the same as it is.
        macs_before: of the convolutions and matrix products as they came, for one image.
        macs_after: the same as they are.
        fused: regions that were rewritten.
        left: regions that cannot be written down, or of which there is no saying.
        failed: regions whose proof found another function; they are as they were.
        passes: how much of what each other pass did, in words.
        flushed: values that would have been subnormal, and are zero.
        notices: what else there is to say.
    """

    ops_before: dict[str, int]
    ops_after: dict[str, int] = field(default_factory=dict)
    macs_before: Macs = field(default_factory=Macs)
    macs_after: Macs = field(default_factory=Macs)
    fused: list[Fused] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    failed: list[Left] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)
    flushed: int = 0
    notices: list[str] = field(default_factory=list)

    def count(self, what: str, number: int) -> None:
        """Add to what a pass did."""
        if number:
            self.passes[what] = self.passes.get(what, 0) + number


def reason_of(proof: Proof) -> str:
    """Return in words what a proof that does not hold found."""
    return proof.reason or (
        f"off by {proof.worst:g} where {proof.bound:g} is allowed, on the probe {proof.probe}"
    )
