"""What fusing did, as data: tables and JSON are derived from these records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FusedBlock:
    """One block that became one convolution.

    MACs are per output position of the block, since a checkpoint does not tell the input size.
    ``groups`` is None where names and shapes do not tell; the weight does not depend on it then.
    ``flushed`` counts values that would have been subnormal and are zero now.
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
    keys: tuple[str, str]


@dataclass(frozen=True)
class Left:
    """Something that was left as it is, and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class FusionReport:
    """Everything that :func:`reparam.fuse` did and did not do.

    ``unknown`` names what the checkpoint does not tell and the weights do not depend on;
    ``carried`` counts the arrays that went over bit for bit.
    """

    architecture: str | None
    epsilon: float | None
    epsilon_source: str
    fused: tuple[FusedBlock, ...]
    already: tuple[str, ...]
    left: tuple[Left, ...]
    carried: int
    notices: tuple[str, ...]
    unknown: tuple[str, ...] = ("stride",)

    @property
    def parameters_before(self) -> int:
        return sum(block.parameters_before for block in self.fused)

    @property
    def parameters_after(self) -> int:
        return sum(block.parameters_after for block in self.fused)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
