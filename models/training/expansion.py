"""Blocks in the place of plain convolutions, and plain convolutions in the place of blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

from reparam.conv import fuse
from reparam.errors import ReparamError, UnsupportedModelError
from reparam.models.blocks import ReparamBlock, conv_of, dtype_of, float64, rounded
from reparam.models.paddle_api import Layer
from reparam.models.training.candidates import Place, Where, chosen, places
from reparam.models.training.entering import Statistics, prove, take_over
from reparam.models.training.geometry import geometry_of
from reparam.models.training.makers import Maker, maker_named
from reparam.models.training.pairing import norms_by_flow
from reparam.models.training.running import batches_of, call, evaluating
from reparam.reports import Report

_PLACE = "_reparam_place"  # attribute of a block that expand made


@dataclass(frozen=True)
class Expanded:
    """A convolution that is now a block.

    Attributes:
        where: its path in the network.
        parameters_before: values that are learned, before.
        parameters_after: and after.
        roundings: no output can be further off than by so many roundings of the weights.
        norm: path of the BatchNorm that takes its output, where that is known.
    """

    where: str
    parameters_before: int
    parameters_after: int
    roundings: float
    norm: str | None


@dataclass(frozen=True)
class Kept:
    """A convolution that stays as it was, and why."""

    where: str
    reason: str


@dataclass(frozen=True, repr=False)
class Expansion(Report):
    """What :func:`expand` did. ``str()`` of it is a summary.

    Attributes:
        block: the name of the block.
        batches: of ``data``, that the statistics were taken from.
    """

    block: str
    expanded: tuple[Expanded, ...]
    kept: tuple[Kept, ...]
    batches: int

    @property
    def summary(self) -> str:
        return str(self).partition("\n")[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        before = sum(done.parameters_before for done in self.expanded)
        after = sum(done.parameters_after for done in self.expanded)
        worst = max(done.roundings for done in self.expanded)
        rows = [
            f"{len(self.expanded)} convolutions are '{self.block}' blocks now: "
            f"{before:,} -> {after:,} parameters, the same function to {worst:.2g} roundings"
        ]
        rows += [
            f"{count} left: {reason}"
            for reason, count in Counter(kept.reason for kept in self.kept).items()
        ]
        if not self.batches:
            rows.append(
                "no data was given, so in train() mode the function is another one until the new "
                "statistics have settled, unless a BatchNorm follows each of them"
            )
        return "\n".join(rows)


@dataclass(frozen=True, repr=False)
class Contraction(Report):
    """What :func:`contract` did.

    Attributes:
        contracted: paths of the blocks that are plain convolutions again.
        absorbed: paths of BatchNorms whose mean took the bias of the convolution before.
        biased: paths of convolutions that have a bias and had none before expanding.
    """

    contracted: tuple[str, ...]
    absorbed: tuple[str, ...]
    biased: tuple[str, ...]

    @property
    def summary(self) -> str:
        absorbed = f"; biases taken into {', '.join(self.absorbed)}" if self.absorbed else ""
        return f"{len(self.contracted)} blocks are plain convolutions again{absorbed}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Origin:
    """What a block stands for; held by the block, but no sublayer of it."""

    conv: Any
    norm: str | None


def expand(
    model: Any,
    block: str = "dbb",
    where: Where = None,
    *,
    data: Any = None,
    **settings: Any,
) -> Expansion:
    """Do what :func:`reparam.expand` says."""
    maker = maker_named(block, settings)
    _need_layer(model)
    kept: list[Kept] = []
    built: list[tuple[Place, Any]] = []
    for place in chosen(places(model), where):
        made = _block_for(place, maker, settings, by_default=where is None)
        if isinstance(made, str):
            kept.append(Kept(place.where, made))
        else:
            built.append((place, made))
    _need_some(model, block, built, kept)
    batches = iter(() if data is None else batches_of(data))
    first = list(islice(batches, 1))
    if data is not None and not first:
        raise UnsupportedModelError("data= holds no batch", hint="a loader that is used up?")
    norms = _norms(model, [place for place, _ in built], first)
    with _put_in_place(built, norms):
        count, unreached = _calibrate(model, built, maker, chain(first, batches))
        roundings = [prove(new, maker, p.conv, conv_of(p.conv)) for p, new in built]
        reached = [found for found in built if found[0].where not in unreached]
        kept += [Kept(where, "the network does not run it on data=") for where in unreached]
        _need_some(model, block, reached, kept)
    _take_out(place for place, _ in built if place.where in unreached)
    expanded = [
        Expanded(place.where, _learned(place.conv), _learned(new), worst, norms.get(place.where))
        for (place, new), worst in zip(built, roundings, strict=True)
        if place.where not in unreached
    ]
    return Expansion(block, tuple(expanded), tuple(kept), count)


def _need_layer(model: Any) -> None:
    if not isinstance(model, Layer):
        raise UnsupportedModelError(
            "no network to change was given",
            found=f"a value of type {type(model).__name__}; needed: a paddle.nn.Layer",
        )
    if "StaticFunction" in type(model.forward).__name__:
        raise UnsupportedModelError(
            f"{type(model).__name__} is traced by paddle.jit.to_static, and would not be run anew",
            hint="trace it afterwards",
        )


def _need_some(model: Any, block: str, built: list[Any], kept: list[Kept]) -> None:
    if built:
        return
    found = f"{len(kept)} looked at, '{kept[0].where}' first: {kept[0].reason}" if kept else ""
    raise UnsupportedModelError(
        f"no convolution of {type(model).__name__} can be expanded to '{block}' blocks",
        found=found or "none is there, or none is selected",
    )


def _norms(model: Any, found: list[Place], first: list[Any]) -> dict[str, str]:
    """Return the BatchNorms that could take a bias, by structure or by the flow of a batch."""
    known = {place.where: place.norm for place in found if place.norm is not None}
    open_ones = {p.where: p.conv for p in found if p.norm is None and p.conv.bias is None}
    if first and open_ones:
        known |= norms_by_flow(model, open_ones, first[0])
    return known


def contract(model: Any) -> Contraction:
    """Do what :func:`reparam.contract` says."""
    _need_layer(model)
    parents = dict(model.named_sublayers(include_self=True))
    blocks = [(path, layer) for path, layer in parents.items() if hasattr(layer, _PLACE)]
    fused = []
    for path, block in blocks:
        try:
            conv, dtype = fuse(block.as_block()), dtype_of(block)
            fused.append((rounded(conv.weight, dtype), rounded(conv.bias, dtype)))
        except ReparamError as error:
            raise error.located(f"cannot contract block '{path}'") from error
    absorbed, biased = [], []
    for (path, block), (weight, bias) in zip(blocks, fused, strict=True):
        origin: _Origin = getattr(block, _PLACE)
        conv = origin.conv
        conv.to(dtype=weight.dtype)
        conv.train() if block.training else conv.eval()
        conv.weight.set_value(weight)
        if conv.bias is not None:
            conv.bias.set_value(bias)
        elif origin.norm in parents and bias.abs().max().item():
            _absorb(parents[origin.norm], bias)
            absorbed.append(str(origin.norm))
        elif bias.abs().max().item():
            conv.bias = conv.create_parameter(bias.shape, is_bias=True, dtype=bias.dtype)
            conv.bias.set_value(bias)
            biased.append(path)
        prefix, _, name = path.rpartition(".")
        setattr(parents[prefix], name, conv)
    return Contraction(tuple(path for path, _ in blocks), tuple(absorbed), tuple(biased))


def _absorb(norm: Any, bias: Any) -> None:
    """Take ``bias`` off what the BatchNorm subtracts: norm(y + bias) is then norm(y)."""
    norm._mean.set_value(rounded(float64(norm._mean) - float64(bias), norm._mean.dtype))


def _block_for(
    place: Place, maker: Maker, settings: Mapping[str, Any], *, by_default: bool
) -> Any | str:
    """Return a block that is the function of a convolution, or why there is none."""
    if place.reason is not None:
        return place.reason
    conv = place.conv
    try:
        geometry = geometry_of(conv)
        if by_default and geometry.kernel == (1, 1):
            return "its kernel is 1x1; name it in where= to expand it all the same"
        block: ReparamBlock = maker.build(geometry, settings)
    except UnsupportedModelError as error:
        return f"{error.what} ({error.found})" if error.found else error.what
    block.to(device=conv.weight.place, dtype=conv.weight.dtype)
    block.train() if conv.training else block.eval()
    take_over(block, maker, conv)
    return block


@contextmanager
def _put_in_place(built: list[tuple[Place, Any]], norms: Mapping[str, str]) -> Iterator[None]:
    """Put the blocks in the network; take them out again if something goes wrong."""
    try:
        for place, block in built:
            setattr(block, _PLACE, _Origin(place.conv, norms.get(place.where)))
            setattr(place.parent, place.where.rpartition(".")[2], block)
        yield
    except BaseException:
        _take_out(place for place, _ in built)
        raise


def _take_out(found: Iterable[Place]) -> None:
    for place in found:
        setattr(place.parent, place.where.rpartition(".")[2], place.conv)


def _calibrate(
    model: Any, built: list[tuple[Place, Any]], maker: Maker, batches: Iterable[Any]
) -> tuple[int, list[str]]:
    """Run the network with every new BatchNorm taking statistics.

    Returns:
        The number of batches, and the paths of the blocks that were not run, if there were any.
    """
    taking = {p.where: Statistics(new, maker, p.conv.bias) for p, new in built}
    count = 0
    with evaluating(model, [hook for one in taking.values() for hook in one.hooks]):
        for batch in batches:
            call(model, batch)
            count += 1
    return count, [where for where, one in taking.items() if count and not one.seen]


def _learned(layer: Any) -> int:
    return sum(int(p.size) for p in layer.parameters() if not p.stop_gradient)
