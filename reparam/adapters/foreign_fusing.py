"""A block of the user's own network fused by us, where its structure is one that we know.

Weights are looked up by names and shapes, as in a bare checkpoint; epsilon, stride, padding,
dilation and groups are those that its BatchNorms and convolutions declare. Whether the result is
what the block computes is for :mod:`reparam.equivalence.layer_proving` to find out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reparam.adapters.foreign_methods import block_paths, put, sublayer
from reparam.adapters.foreign_stand_ins import nothing, uses
from reparam.adapters.paddle_models import Array, import_paddle, state_of
from reparam.checkpoint.blocks import BlockMatch, find_blocks
from reparam.checkpoint.rows import fuse_rows
from reparam.errors import ReparamError

WRONG_FORWARD = "its deploy form computes something else with the right weights"


@dataclass(frozen=True)
class Fused:
    """The one convolution of a block: its match, and what it is by our own algebra."""

    match: BlockMatch
    weight: Array
    bias: Array

    @property
    def path(self) -> str:
        """Where the family has the convolution in its deploy form, under the block."""
        return self.match.weight_key.rpartition(".")[0]


@dataclass(frozen=True)
class Form:
    """A Layer that may stand in the place of a block.

    Attributes:
        layer: that does, and can be run.
        arrays: what a file holds of it, by names under the block; the Layer's own where None.
        flaw: why the user's own deploy form, with these arrays, would be another function; empty
            if it would not.
    """

    layer: Any
    arrays: Mapping[str, Array] | None = None
    flaw: str = ""


@dataclass(frozen=True)
class Structure:
    """What is known of a block: its convolutions by our algebra.

    Attributes:
        block: as it was.
        fused: in the order of its state dict.
    """

    block: Any
    fused: tuple[Fused, ...]

    @property
    def families(self) -> str:
        return ", ".join(dict.fromkeys(fused.match.family.name for fused in self.fused))

    @property
    def consumed(self) -> set[str]:
        """Paths of the parts of the block that went into the convolutions."""
        keys = {key for fused in self.fused for key in fused.match.branch_keys}
        found = set()
        for path, part in self.block.named_sublayers():
            held = {f"{path}.{key}" for key in part.state_dict()}
            if (held and held <= keys) or any(path.startswith(f"{outer}.") for outer in found):
                found.add(path)
        return found

    def holding(self, converted: Any) -> Structure | None:
        """Return the same structure with the weights that a converted block has, or None."""
        places = _places(converted, self.fused)
        if places is None:
            return None
        convs = [sublayer(converted, path) for path in places]
        fused = [
            replace(one, weight=conv.weight.numpy(), bias=conv.bias.numpy())
            for one, conv in zip(self.fused, convs, strict=True)
        ]
        return Structure(self.block, tuple(fused))

    def forms(self, converted: Any = None) -> Iterator[Form]:
        """Yield Layers that compute with our convolutions, nearest to the user's own form first.

        Args:
            converted: the block as its own method left it; None where that failed.
        """
        loaded = None if converted is None else self._loaded(converted)
        if loaded is not None:
            yield Form(loaded)
            yield from self._rebuilt(loaded)
        for layer in self._installed():
            yield Form(layer) if loaded is None else Form(layer, state_of(loaded), WRONG_FORWARD)

    def _loaded(self, converted: Any) -> Any:
        """Return a copy of the converted block with our weights in its convolutions, or None."""
        paddle, places = import_paddle(), _places(converted, self.fused)
        if places is None:
            return None
        copied = copy.deepcopy(converted)
        with paddle.no_grad():
            for path, fused in zip(places, self.fused, strict=True):
                conv = sublayer(copied, path)
                conv.weight.set_value(fused.weight)
                conv.bias.set_value(fused.bias)
        return copied

    def _rebuilt(self, loaded: Any) -> Iterator[Form]:
        """Yield the converted block with convolutions of the geometry that its branches have."""
        places = _places(loaded, self.fused) or []
        for geometries in self._geometries():
            copied, told = copy.deepcopy(loaded), []
            for path, fused, like in zip(places, self.fused, geometries, strict=True):
                old = sublayer(copied, path)
                told += _differences(path, old, like)
                copied = put(copied, old, _conv(fused, like))
            if told:
                yield Form(copied, state_of(loaded), told[0])

    def _installed(self) -> Iterator[Any]:
        """Yield the block as it was, with each convolution in the place of its branches."""
        for geometries in self._geometries():
            convs = [_conv(fused, like) for fused, like in zip(self.fused, geometries, strict=True)]
            copied: Any = copy.deepcopy(self.block)
            for fused, conv in zip(self.fused, convs, strict=True):
                copied = None if copied is None else _install(copied, fused, conv)
            if copied is not None:
                yield copied
            if len(convs) == 1:
                yield convs[0]  # a block that is nothing else

    def _geometries(self) -> list[list[Any]]:
        """Return convolutions of the block like the fused ones, one for each, to be tried."""
        found = [_alike(self.block, fused) for fused in self.fused]
        most = max(map(len, found)) if all(found) else 0
        return [[convs[min(n, len(convs) - 1)] for convs in found] for n in range(most)]


def structure_of(block: Any) -> Structure | None:
    """Return what is known of a block, None if nothing is.

    Blocks inside it that have a method of their own are theirs to convert.
    """
    arrays = state_of(block)
    inner = [path for path in block_paths(block) if path]
    try:
        matches = find_blocks({key: array.shape for key, array in arrays.items()}).blocks
        own = [m for m in matches if not any(m.prefix.startswith(f"{path}.") for path in inner)]
        fused = tuple(_fused(block, match, arrays) for match in own)
    except ReparamError:
        return None
    return Structure(block, fused) if fused else None


def _fused(block: Any, match: BlockMatch, arrays: Mapping[str, Array]) -> Fused:
    """Return a block by our algebra; epsilon goes into the variances, as each may have its own."""
    used = {key: arrays[key] for key in match.branch_keys}
    for key in used:
        if key.endswith("_variance"):
            norm = sublayer(block, key.rpartition(".")[0])
            used[key] = used[key].astype(np.float64) + float(norm._epsilon)
    made = fuse_rows(match, used, 0.0)
    return Fused(match, made.weight, made.bias)


def _places(converted: Any, fused: Sequence[Fused]) -> list[str] | None:
    """Return where a converted block has its convolutions: where the family says, or elsewhere."""
    convs = {path: part for path, part in converted.named_sublayers(include_self=True)
             if _is_conv(part) and part.bias is not None}  # fmt: skip
    found: list[str] = []
    for one in fused:
        fitting = [
            path
            for path, conv in convs.items()
            if tuple(conv.weight.shape) == one.weight.shape and path not in found
        ]
        if not fitting:
            return None
        found.append(one.path if one.path in fitting else fitting[-1])
    return found


def _install(block: Any, fused: Fused, conv: Any) -> Any:
    """Put a convolution in the place of one branch of a block, and nothing in that of the others.

    It is registered under the name that it has in the deploy form, and used where a branch with
    its kernel was. Returns None where there is no such branch.
    """
    keys = set(fused.match.branch_keys)
    branches = _branches(block, keys)
    carrier = next((path for path in branches if _alike(sublayer(block, path), fused)), None)
    if carrier is None:
        return None
    for path in branches:
        if path != fused.path:
            put(block, sublayer(block, path), uses(conv) if path == carrier else nothing())
    parent, _, name = fused.path.rpartition(".")
    sublayer(block, parent).add_sublayer(name, conv)
    for key in keys:
        owner, _, name = key.rpartition(".")
        _forget(sublayer(block, owner), name)
    return block


def _branches(block: Any, keys: set[str]) -> list[str]:
    """Return the outermost parts of a block that have weights, all of them among ``keys``."""
    found: list[str] = []
    lists = (import_paddle().nn.LayerList, import_paddle().nn.LayerDict)
    for path, part in block.named_sublayers():
        held = {f"{path}.{key}" for key in part.state_dict()}
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if held and held <= keys and not inside and not isinstance(part, lists):
            found.append(path)
    return found


def _forget(owner: Any, name: str) -> None:
    """Take a parameter that went into the convolution out of the state dict of its owner."""
    if owner is not None and name in owner._parameters:
        value = owner._parameters.pop(name)
        owner.register_buffer(name, value.detach(), persistable=False)


def _alike(block: Any, fused: Fused) -> list[Any]:
    """Return convolutions in a block with the kernel of the fused one, no two of one geometry."""
    found: dict[str, Any] = {}
    for part in block.sublayers(include_self=True):
        if not _is_conv(part) or part._padding_mode != "zeros":
            continue
        whole = part._in_channels == fused.weight.shape[1] * part._groups
        if whole and tuple(part.weight.shape) == fused.weight.shape:
            found.setdefault(str(_geometry(part)), part)
    return list(found.values())


def _conv(fused: Fused, like: Any) -> Any:
    """Return our convolution as a Layer, with the geometry of one of the user's."""
    paddle = import_paddle()
    outputs, inputs, *kernel = fused.weight.shape
    conv = paddle.nn.Conv2D(inputs * like._groups, outputs, kernel, **_geometry(like))
    with paddle.no_grad():
        conv.weight.set_value(fused.weight)
        conv.bias.set_value(fused.bias)
    conv.eval()
    return conv


def _geometry(conv: Any) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "groups", "data_format")
    return {name: getattr(conv, f"_{name}") for name in names}


def _differences(path: str, found: Any, needed: Any) -> list[str]:
    first, second = _geometry(found), _geometry(needed)
    return [
        f"its convolution '{path}' has {name} {first[name]}; its branches have {second[name]}"
        for name in first
        if first[name] != second[name]
    ]


def _is_conv(part: Any) -> bool:
    return isinstance(part, import_paddle().nn.Conv2D)
