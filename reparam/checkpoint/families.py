"""Families of re-parameterizable blocks, as data: the names of their weights and what they mean.

A family is one record. Everything that recognises, fuses, checks and reports blocks reads these
records and knows no family by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

BATCH_NORM_KEYS = ("weight", "bias", "_mean", "_variance")


@dataclass(frozen=True)
class Branch:
    """One branch of a sum.

    Args:
        name: where its weights are, under the block; empty for the block itself.
        kernel: ``wide`` (the largest kernel of the block), ``point`` (one tap) or ``none``
            (BatchNorm of the input itself).
        conv: name of the convolution under the branch.
        norm: name of its BatchNorm; empty where the branch itself is the BatchNorm.
        required: whether every block of the family has it.
        factor: key, under the block, of a learned scalar that multiplies the branch. The key may
            be absent; a value of exactly 0 is a value.
    """

    name: str
    kernel: str
    conv: str = "conv"
    norm: str = "bn"
    required: bool = True
    factor: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"{self.conv} + {self.norm}"

    @cached_property
    def conv_key(self) -> str | None:
        return f"{self._under(self.conv)}.weight" if self.kernel != "none" else None

    @cached_property
    def conv_bias_key(self) -> str | None:
        """Key of the convolution's bias, which may be absent."""
        return f"{self._under(self.conv)}.bias" if self.kernel != "none" else None

    @cached_property
    def norm_keys(self) -> tuple[str, ...]:
        return tuple(f"{self._under(self.norm)}.{key}" for key in BATCH_NORM_KEYS)

    def _under(self, part: str) -> str:
        return ".".join(filter(None, (self.name, part)))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return ((self.conv_key,) if self.conv_key else ()) + self.norm_keys


@dataclass(frozen=True)
class Family:
    """One kind of block.

    Args:
        name: what reports call it.
        branches: in the order in which the sum is written.
        deploy: name, under the block, of the one convolution that it becomes.
        epsilon: of its BatchNorms; no checkpoint stores it.
        epsilon_source: why that value.
        distinctive: whether the names alone tell the family. If not, shapes have to fit too.
        remark: what a user should know about the choice of epsilon or of the family.
    """

    name: str
    branches: tuple[Branch, ...]
    deploy: str
    epsilon: float
    epsilon_source: str
    distinctive: bool
    remark: str = ""

    @cached_property
    def wide(self) -> Branch:
        return next(branch for branch in self.branches if branch.kernel == "wide")

    @cached_property
    def factors(self) -> tuple[str, ...]:
        return tuple(branch.factor for branch in self.branches if branch.factor)


FAMILIES = (
    Family(
        name="RepVGG",
        branches=(
            Branch("rbr_dense", "wide"),
            Branch("rbr_1x1", "point"),
            Branch("rbr_identity", "none", norm="", required=False),
        ),
        deploy="rbr_reparam",
        epsilon=1e-5,
        epsilon_source="PaddleClas model_zoo/repvgg.py, BatchNorm2D's default",
        distinctive=True,
        remark="YOLOv6 spells its blocks the same way and uses 1e-3: give --epsilon 1e-3 there",
    ),
    Family(
        name="RepVggBlock",
        branches=(
            Branch("conv1", "wide"),
            Branch("conv2", "point", factor="alpha"),
        ),
        deploy="conv",
        epsilon=1e-5,
        epsilon_source="PaddleDetection backbones/cspresnet.py, BatchNorm2D's default",
        distinctive=False,
    ),
)

CONV_BN = Family(
    name="conv-bn",
    branches=(Branch("", "wide"),),
    deploy="conv",
    epsilon=1e-5,
    epsilon_source="paddle.nn.BatchNorm2D's default, which ConvBNLayer of PaddleDetection and "
    "PaddleClas keeps",
    distinctive=False,
)
"""A convolution and the BatchNorm after it, no block: folded when asked for, see find_pairs."""
