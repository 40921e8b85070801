"""What unfusing did, as data: tables and JSON are derived from these records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reparam.checkpoint.report import Epsilon, Left
from reparam.conv.certificate import Certificate
from reparam.reports import Report

MEANING = (
    "equivalent in function, not the original weights: a fusion cannot be undone. One kernel of "
    "each block holds all of it, the other branches are zero"
)
TRAINING = (
    "to train further, keep the BatchNorms in evaluation mode (freeze their statistics): those of "
    "the data are not in a deploy form, and normalizing by batches would change the function at "
    "the first step. reparam.expand(network, 'repvgg', data=batches) makes blocks of a deploy "
    "network whose BatchNorms fit the data"
)


@dataclass(frozen=True)
class UnfusedBlock:
    """One convolution that became a block.

    ``carrier`` is the key of the kernel that holds it, ``keys`` are those that the block has now.
    ``same`` says that fusing gives the convolution back, value for value; the certificate, how
    far the two are for every input.
    """

    where: str
    family: str
    branches: tuple[str, ...]
    kernel: tuple[int, ...]
    carrier: str
    keys: tuple[str, ...]
    same: bool
    certificate: Certificate


@dataclass(frozen=True, repr=False)
class UnfusionReport(Report):
    """Everything that :func:`reparam.unfuse` did and did not do.

    ``unfused`` are blocks, ``unfolded`` convolutions outside them that have a BatchNorm again.
    ``already`` are blocks in train-time form, ``carried`` counts the arrays that went over bit
    for bit, ``missing`` and ``unexpected`` are names in which the result and the checkpoint of
    the train-time network (``--like``) differ.
    """

    architecture: str | None
    epsilons: tuple[Epsilon, ...]
    unfused: tuple[UnfusedBlock, ...]
    unfolded: tuple[UnfusedBlock, ...]
    already: tuple[str, ...]
    left: tuple[Left, ...]
    carried: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def summary(self) -> str:
        if self.unfused or self.unfolded:
            return f"{len(self.unfused) + len(self.unfolded)} blocks unfused"
        return "already train-time" if self.already else "nothing to unfuse"

    @property
    def epsilon(self) -> float | None:
        """The one epsilon that was used; None if there was none, or several."""
        values = {epsilon.value for epsilon in self.epsilons}
        return values.pop() if len(values) == 1 else None

    @property
    def worst(self) -> UnfusedBlock | None:
        """The block whose certificate allows most roundings."""
        blocks = self.unfused + self.unfolded
        return max(blocks, key=lambda block: block.certificate.roundings, default=None)

    def to_json(self) -> dict[str, Any]:
        meaning = MEANING if self.unfused or self.unfolded else ""
        return {**asdict(self), "epsilon": self.epsilon, "meaning": meaning}
