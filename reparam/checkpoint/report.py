"""What fusing did, as data: tables and JSON are derived from these records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reparam.conv.certificate import Certificate
from reparam.reports import Report


@dataclass(frozen=True)
class FusedBlock:
    """One block, or one convolution and its BatchNorm, that became one convolution.

    MACs are per output position of the block, since a checkpoint does not tell the input size.
    ``groups`` is None where names and shapes do not tell; the weight does not depend on it then.
    ``flushed`` counts values that would have been subnormal and are zero now. ``wide`` is
    the key of the kernel that the others were added to, ``keys`` are those of the result.
    ``certificate`` says for every input how far the result is from the block.
    """

    where: str
    family: str
    branches: tuple[str, ...]
    kernel: tuple[int, ...]
    channels: tuple[int, int | None]
    groups: int | None
    alpha: float | None
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    flushed: int
    wide: str
    keys: tuple[str, str]
    certificate: Certificate


@dataclass(frozen=True)
class Left:
    """Something that was left as it is, and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class Epsilon:
    """The epsilon used for the blocks of one family, and where it comes from."""

    family: str
    value: float
    source: str


@dataclass(frozen=True, repr=False)
class FusionReport(Report):
    """Everything that :func:`reparam.fuse` did and did not do.

    ``fused`` are blocks, ``folded`` conv-bn pairs outside them. ``unknown`` names what the
    checkpoint does not tell and the weights do not depend on; ``carried`` counts the arrays that
    went over bit for bit; ``families`` are those that the user named.
    """

    architecture: str | None
    epsilons: tuple[Epsilon, ...]
    fused: tuple[FusedBlock, ...]
    folded: tuple[FusedBlock, ...]
    already: tuple[str, ...]
    left: tuple[Left, ...]
    carried: int
    notices: tuple[str, ...]
    unknown: tuple[str, ...] = ("stride",)
    families: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        if self.fused:
            return f"{len(self.fused)} blocks fused"
        if self.folded:
            return f"{len(self.folded)} BatchNorms folded"
        return "already fused" if self.already else "nothing to fuse"

    @property
    def epsilon(self) -> float | None:
        """The one epsilon that was used; None if there was none, or several."""
        values = {epsilon.value for epsilon in self.epsilons}
        return values.pop() if len(values) == 1 else None

    @property
    def epsilon_source(self) -> str:
        return "; ".join(dict.fromkeys(epsilon.source for epsilon in self.epsilons))

    @property
    def worst(self) -> FusedBlock | None:
        """The block whose certificate allows most roundings."""
        blocks = self.fused + self.folded
        return max(blocks, key=lambda block: block.certificate.roundings, default=None)

    @property
    def flushed(self) -> int:
        return sum(block.flushed for block in self.fused + self.folded)

    @property
    def parameters_before(self) -> int:
        return sum(block.parameters_before for block in self.fused)

    @property
    def parameters_after(self) -> int:
        return sum(block.parameters_after for block in self.fused)

    def to_json(self) -> dict[str, Any]:
        one = {"epsilon": self.epsilon, "epsilon_source": self.epsilon_source}
        worst = None if self.worst is None else self.worst.where
        return {**asdict(self), **one, "worst_certificate": worst}
