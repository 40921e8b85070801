"""The words in which a family of blocks is written down: which stored arrays make which operators.

A family is a tree of these terms. Names are relative to the block; ``{i}`` in a name counts, any
other name in braces is a number that the name tells (``dil_conv_k{k}_{r}``). The same terms with
full names, every ``Each``, ``Either`` and ``Maybe`` resolved, are what a block in a checkpoint is
matched to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

PADDLE, TORCH = "paddle", "torch"  # the spellings of a BatchNorm's statistics
STATISTICS = {PADDLE: ("_mean", "_variance"), TORCH: ("running_mean", "running_var")}
COUNTER = "num_batches_tracked"  # what PyTorch saves besides; no part of the function

WIDE, POINT, ODD, SAME, SMALLER = "wide", "point", "odd", "same", "smaller"
COLUMN, ROW = "column", "row"
NEVER, MAYBE, ALWAYS = "never", "maybe", "always"


@dataclass(frozen=True)
class Kernel:
    """A stored convolution.

    Args:
        name: where it is; its arrays are ``name.weight`` and ``name.bias``.
        size: of its window: ``wide`` (odd and larger than one tap; all of a block are equal),
            ``point`` (one tap), ``odd``, ``same`` (as the first of the block), ``smaller`` (odd,
            at most the first), ``column`` (K, 1) and ``row`` (1, K) of the first (K, K), or
            numbers.
        bias: whether it has one: ``maybe``, ``always`` or ``never``.
        dilation: a number, or the name in braces that tells it.
        depthwise: one group for each input channel; else as many groups as the block has.
        dense, grouped: one group; more than one.
        expands: a depthwise one that makes several channels of each.
        planes: stored without the axis of the inputs: one window for each channel that comes
            in, (C, KH, KW), or one for all of them, (KH, KW).
        fixed: the network makes it and never learns it; the same in every checkpoint.
        weight_key, bias_key: in place of the names above.
        linear: a fully connected layer, a weight of two axes: (O, I) in PyTorch's spelling and
            (I, O) in Paddle's.
    """

    name: str
    size: str | tuple[int, ...] = WIDE
    bias: str = MAYBE
    dilation: int | str = 1
    depthwise: bool = False
    dense: bool = False
    grouped: bool = False
    expands: bool = False
    planes: bool = False
    fixed: bool = False
    weight_key: str = ""
    bias_key: str = ""
    label: str = ""
    linear: bool = False

    @property
    def weight(self) -> str:
        return self.weight_key or f"{self.name}.weight"

    @property
    def shift(self) -> str:
        return self.bias_key or f"{self.name}.bias"


@dataclass(frozen=True)
class Norm:
    """A stored BatchNorm with running statistics, in either spelling.

    Args:
        name: where its arrays are; empty for the block itself.
        affine: whether it has gamma and beta: ``always``, or ``maybe`` (then 1 and 0).
        keys: gamma, beta, mean, variance with full names, an empty name where there is none;
            only in a resolved term.
    """

    name: str
    affine: str = ALWAYS
    label: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """A learned factor and shift: of each channel, or one number for all of them.

    Args:
        factor: key of the factor; empty for 1.
        shift: key of the shift; empty for 0.
        row: which row of the stored array, where it has several.
        rows: how many it can have.
        minus: multiply by the negative.
        constant: multiply by this too.
        scalar: it is one number, never one for each channel.
        neutral: leave the arrays in the file, as ones and zeros, for networks that keep applying
            them after the block is fused.
    """

    factor: str = ""
    shift: str = ""
    row: int | None = None
    rows: tuple[int, ...] = ()
    minus: bool = False
    constant: float = 1.0
    scalar: bool = False
    neutral: bool = False
    label: str = ""


@dataclass(frozen=True)
class Input:
    """The block's input itself."""

    label: str = "identity"


@dataclass(frozen=True)
class Mean:
    """Average pooling with stride 1, its window that of a stored kernel.

    Args:
        like: key of that kernel.
        exclusive: the spelling of the projects whose pooling leaves padding out of the mean, so
            that it is a convolution only where nothing is padded; empty where padding counts.
    """

    like: str
    label: str = "average"
    exclusive: str = ""


@dataclass(frozen=True, init=False)
class Chain:
    """One after the other.

    Where several parts have windows, the padding of all of them is applied to the input of the
    first: so a later one sees, beyond the border, what the first makes of zeros.
    """

    parts: tuple[Term, ...]
    label: str = ""

    def __init__(self, *parts: Term, label: str = "") -> None:
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "label", label or label_of(parts[0]))


@dataclass(frozen=True, init=False)
class Sum:
    """Branches of the same input, added."""

    branches: tuple[Term, ...]
    label: str = ""

    def __init__(self, *branches: Term, label: str = "") -> None:
        object.__setattr__(self, "branches", branches)
        object.__setattr__(self, "label", label or (label_of(branches[0]) if branches else ""))


@dataclass(frozen=True)
class Maybe:
    """A part that is there where any of its arrays is."""

    term: Term

    @property
    def label(self) -> str:
        return label_of(self.term)


@dataclass(frozen=True, init=False)
class Either:
    """The first of several parts of which any array is there; the first of all if none is."""

    terms: tuple[Term, ...]

    def __init__(self, *terms: Term) -> None:
        object.__setattr__(self, "terms", terms)

    @property
    def label(self) -> str:
        return label_of(self.terms[0])


@dataclass(frozen=True)
class Each:
    """One branch for each number, or numbers, that the names hold in place of those in braces.

    Args:
        least: how many there have to be.
    """

    term: Term
    least: int = 1

    @property
    def label(self) -> str:
        return label_of(self.term)


Term: TypeAlias = "Kernel | Norm | Scale | Input | Mean | Chain | Sum | Maybe | Either | Each"
Leaf: TypeAlias = "Kernel | Norm | Scale | Input | Mean"


def label_of(term: Term) -> str:
    """Return what reports call a branch."""
    if term.label:
        return term.label
    name: str = getattr(term, "name", "") or getattr(term, "factor", "")
    return name.rstrip(".") or "identity"


def conv_norm(
    name: str,
    size: str | tuple[int, ...] = WIDE,
    *,
    conv: str = "conv",
    norm: str = "bn",
    dilation: int | str = 1,
    bias: str = MAYBE,
    depthwise: bool = False,
    dense: bool = False,
    grouped: bool = False,
) -> Chain:
    """Return the term of a convolution and the BatchNorm after it, both under ``name``."""
    return Chain(
        Kernel(
            f"{name}.{conv}",
            size,
            bias=bias,
            dilation=dilation,
            depthwise=depthwise,
            dense=dense,
            grouped=grouped,
        ),
        Norm(f"{name}.{norm}"),
        label=name,
    )


def array(
    key: str,
    size: str | tuple[int, ...] = WIDE,
    *,
    planes: bool = False,
    fixed: bool = False,
) -> Kernel:
    """Return the term of a convolution without bias whose weight is stored at ``key`` itself."""
    return Kernel(key, size, bias=NEVER, weight_key=key, planes=planes, fixed=fixed)


def leaves(term: Term) -> Iterator[Leaf]:
    """Yield the operators of a term, in the order in which they are written."""
    if isinstance(term, Chain | Sum):
        for part in term.parts if isinstance(term, Chain) else term.branches:
            yield from leaves(part)
    elif isinstance(term, Either):
        for part in term.terms:
            yield from leaves(part)
    elif isinstance(term, Maybe | Each):
        yield from leaves(term.term)
    else:
        yield term


def required_leaves(term: Term) -> Iterator[Leaf]:
    """Yield the operators that every block of a family has."""
    if isinstance(term, Chain | Sum):
        for part in term.parts if isinstance(term, Chain) else term.branches:
            yield from required_leaves(part)
    elif isinstance(term, Each):
        if term.least:
            yield from required_leaves(term.term)
    elif not isinstance(term, Maybe | Either):
        yield term


def sure_keys(leaf: Leaf) -> Iterator[str]:
    """Yield the names that are there in every spelling wherever the operator is."""
    if isinstance(leaf, Kernel):
        yield leaf.weight
        if leaf.bias == ALWAYS:
            yield leaf.shift
    elif isinstance(leaf, Norm) and leaf.affine == ALWAYS:
        stem = f"{leaf.name}." if leaf.name else ""
        yield f"{stem}weight"
        yield f"{stem}bias"
    elif isinstance(leaf, Scale):
        yield from (key for key in (leaf.factor, leaf.shift) if key)


def labels_of(term: Term) -> tuple[str, ...]:
    """Return what reports call the branches of a term."""
    inner = term.parts[0] if isinstance(term, Chain) and isinstance(term.parts[0], Sum) else term
    branches = inner.branches if isinstance(inner, Sum) else (inner,)
    return tuple(label_of(branch) for branch in branches)
