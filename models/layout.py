"""What a network's state dict holds, as names and shapes: data, without building a Layer.

Axis letters: O output channels, I input channels, G groups, KH and KW the kernel window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = dict[str, Shape]

BATCH_NORM_KEYS = ("weight", "bias", "_mean", "_variance")
EPSILON = 1e-5  # of both families: the default of paddle.nn.BatchNorm2D, which neither changes


def batch_norm(prefix: str, channels: int) -> Shapes:
    """Return the four keys of a BatchNorm in Paddle's spelling."""
    return {f"{prefix}.{key}": (channels,) for key in BATCH_NORM_KEYS}


@dataclass(frozen=True)
class Plain:
    """Keys that are the same in every form."""

    keys: Shapes


def two_convolutions(first: str, second: str, channels: int, squeezed: int) -> Plain:
    """Return the two 1x1 convolutions of a squeeze-excite, which deploying leaves as they are."""
    return Plain(
        {
            f"{first}.weight": (squeezed, channels, 1, 1),
            f"{first}.bias": (squeezed,),
            f"{second}.weight": (channels, squeezed, 1, 1),
            f"{second}.bias": (channels,),
        }
    )


@dataclass(frozen=True)
class ConvBN:
    """A convolution without bias and the BatchNorm after it; folded: the convolution with bias."""

    prefix: str
    weight: Shape  # (O, I/G, KH, KW)

    def shapes(self, folded: bool) -> Shapes:
        weight = {f"{self.prefix}.conv.weight": self.weight}
        channels = self.weight[0]
        if folded:
            return {**weight, f"{self.prefix}.conv.bias": (channels,)}
        return {**weight, **batch_norm(f"{self.prefix}.bn", channels)}

    def is_folded(self, names: Mapping[str, Shape]) -> bool:
        """Whether ``names`` hold this layer with its BatchNorm folded away."""
        norm = (f"{self.prefix}.bn.{key}" for key in BATCH_NORM_KEYS)
        return f"{self.prefix}.conv.bias" in names and not any(name in names for name in norm)


@dataclass(frozen=True)
class Block:
    """A re-parameterizable block: its branches, or the one convolution they are."""

    prefix: str
    branches: tuple[ConvBN, ...]
    others: Shapes  # what the branches hold besides: alpha, the identity's BatchNorm
    deploy: Shapes
    factors: tuple[str, ...] = ()  # of its branches; some deploy forms keep them unread

    def train_time(self, names: Mapping[str, Shape] | None = None) -> Shapes:
        """Return the keys of the branches, each folded if it is folded in ``names``."""
        shapes: Shapes = {}
        for branch in self.branches:
            shapes |= branch.shapes(names is not None and branch.is_folded(names))
        return shapes | self.others

    def form_in(self, names: Mapping[str, Shape]) -> str | None:
        """Return "train-time" or "deploy", None where ``names`` hold nothing of the block.

        Branches win: some exporters keep them, and some training checkpoints hold a
        placeholder of the deploy weight. A factor alone is no branch: PaddleDetection's own
        deploy form keeps it, and reads it nowhere.
        """
        if any(name in names for name in self.train_time(names) if name not in self.factors):
            return "train-time"
        return "deploy" if any(name in names for name in self.deploy) else None


@dataclass(frozen=True)
class Account:
    """Every key of a checkpoint against a layout, each block in the form it is in."""

    form: str
    blocks: tuple[str, ...]
    deployed: tuple[str, ...]
    folded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, Shape, Shape], ...]
    beside: tuple[str, ...]
    ignored: tuple[str, ...]
    agreement: float  # keys of the right shape / all keys, found or needed


@dataclass(frozen=True)
class Layout:
    """The parts of a network, in the order of its state dict.

    Attributes:
        parts: what it holds.
        ignored: prefixes of keys that are part of training alone, and of no network here.
    """

    parts: list[Plain | ConvBN | Block] = field(default_factory=list)
    ignored: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(part for part in self.parts if isinstance(part, Block))

    def shapes(self, *, deploy: bool = False) -> Shapes:
        """Return the state dict's names and shapes with every block in the same form."""
        shapes: Shapes = {}
        for part in self.parts:
            if isinstance(part, Block):
                shapes |= part.deploy if deploy else part.train_time()
            else:
                shapes |= part.keys if isinstance(part, Plain) else part.shapes(folded=False)
        return shapes

    def account(self, found: Mapping[str, Shape]) -> Account:
        """Return how ``found`` agrees with this layout."""
        forms = self._forms(found)
        needed: Shapes = {}
        leftovers: set[str] = set()
        unread: set[str] = set()  # factors that are in a weight
        for part in self.parts:
            if isinstance(part, Block):
                deploy = forms[part.prefix] == "deploy"
                needed |= part.deploy if deploy else part.train_time(found)
                leftovers |= set() if deploy else set(part.deploy)
                unread |= set(part.factors) if deploy else set()
            elif isinstance(part, Plain):
                needed |= part.keys
            else:
                needed |= part.shapes(part.is_folded(found))
        missing = tuple(name for name in needed if name not in found)
        others = [n for n in found if n not in needed and n not in leftovers]
        ignored = tuple(n for n in others if n in unread or n.startswith(self.ignored))
        unexpected = tuple(n for n in others if n not in ignored)
        mismatched = tuple(
            (name, tuple(found[name]), shape)
            for name, shape in needed.items()
            if name in found and tuple(found[name]) != shape
        )
        right = len(needed) - len(missing) - len(mismatched)
        return Account(
            form=_overall(forms.values()),
            blocks=tuple(forms),
            deployed=tuple(prefix for prefix, form in forms.items() if form == "deploy"),
            folded=tuple(conv.prefix for conv in self._conv_bns(forms) if conv.is_folded(found)),
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
            beside=tuple(name for name in found if name in leftovers),
            ignored=ignored,
            agreement=right / (len(needed) + len(unexpected)),
        )

    def _forms(self, found: Mapping[str, Shape]) -> dict[str, str]:
        """Return the form of each block; one that is missing altogether follows the others."""
        forms = {block.prefix: block.form_in(found) for block in self.blocks}
        others = {form for form in forms.values() if form is not None}
        default = "deploy" if others == {"deploy"} else "train-time"
        return {prefix: form or default for prefix, form in forms.items()}

    def _conv_bns(self, forms: Mapping[str, str]) -> Iterable[ConvBN]:
        for part in self.parts:
            if isinstance(part, ConvBN):
                yield part
            elif isinstance(part, Block) and forms[part.prefix] == "train-time":
                yield from part.branches


def _overall(forms: Iterable[str]) -> str:
    distinct = set(forms)
    return distinct.pop() if len(distinct) == 1 else "mixed"
