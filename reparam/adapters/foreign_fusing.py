"""A block of the user's own network fused by us, where its structure is one that we know.

Weights are looked up by names and shapes, as in a bare checkpoint; epsilon, stride, padding,
dilation and groups are those that its BatchNorms and convolutions declare. Whether the result is
what the block computes is for :mod:`reparam.equivalence.layer_proving` to find out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reparam.adapters.foreign_convolutions import Fused, alike, conv_of, conv_paths, differences
from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_parts import put, sublayer
from reparam.adapters.foreign_stand_ins import install, neutralise
from reparam.adapters.paddle_models import Array, import_paddle, state_of
from reparam.checkpoint.blocks import BlockMatch, find_blocks
from reparam.checkpoint.families import FAMILIES
from reparam.checkpoint.rows import fuse_rows
from reparam.errors import NotFusibleError, ReparamError

WRONG_FORWARD = "its deploy form computes something else with the right weights"


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
        found: set[str] = set()
        for path, part in self.block.named_sublayers():
            held = {f"{path}.{key}" for key in part.state_dict()}
            if (held and held <= keys) or any(path.startswith(f"{outer}.") for outer in found):
                found.add(path)
        return found

    def holding(self, converted: Any) -> Structure | None:
        """Return the same structure with the weights that a converted block has, or None."""
        places = conv_paths(converted, self.fused)
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
            if converted is None:
                yield Form(layer)
            elif loaded is None:
                yield Form(layer, None, "its deploy form has no convolution of that shape")
            else:
                yield Form(layer, state_of(loaded), WRONG_FORWARD)

    def _loaded(self, converted: Any) -> Any:
        """Return a copy of the converted block with our weights in its convolutions, or None."""
        paddle, places = import_paddle(), conv_paths(converted, self.fused)
        if places is None:
            return None
        copied = copy.deepcopy(converted)
        with paddle.no_grad():
            for path, fused in zip(places, self.fused, strict=True):
                conv = sublayer(copied, path)
                conv.weight.set_value(fused.weight)
                conv.bias.set_value(fused.bias)
        for fused in self.fused:
            neutralise(copied, fused.match)
        return copied

    def _rebuilt(self, loaded: Any) -> Iterator[Form]:
        """Yield the converted block with convolutions of the geometry that its branches have."""
        places = conv_paths(loaded, self.fused) or []
        for geometries in self._geometries():
            copied, told = copy.deepcopy(loaded), []
            for path, fused, like in zip(places, self.fused, geometries, strict=True):
                old = sublayer(copied, path)
                told += differences(path, old, like)
                copied = put(copied, old, conv_of(fused, like))
            if told:
                yield Form(copied, state_of(loaded), told[0])

    def _installed(self) -> Iterator[Any]:
        """Yield the block as it was, with each convolution in the place of its branches."""
        for geometries in self._geometries():
            convs = [
                conv_of(fused, like) for fused, like in zip(self.fused, geometries, strict=True)
            ]
            copied: Any = copy.deepcopy(self.block)
            for fused, conv in zip(self.fused, convs, strict=True):
                copied = None if copied is None else install(copied, fused, conv)
            if copied is not None:
                yield copied
            if len(convs) == 1:
                yield convs[0]  # a block that is nothing else

    def _geometries(self) -> list[list[Any]]:
        """Return convolutions of the block like the fused ones, one for each, to be tried."""
        found = [alike(self.block, fused) for fused in self.fused]
        most = max(map(len, found)) if all(found) else 0
        return [[convs[min(n, len(convs) - 1)] for convs in found] for n in range(most)]


def structures_of(block: Any) -> Iterator[Structure]:
    """Yield what a block may be by its names and shapes: nothing, one structure, or several.

    Blocks inside it that have a method of their own are theirs to convert.
    """
    arrays = state_of(block)
    shapes = {key: array.shape for key, array in arrays.items()}
    inner = [path for path in block_paths(block) if path]
    seen = set()
    for chosen in ((), *((family,) for family in FAMILIES)):
        try:
            matches = find_blocks(shapes, chosen).blocks
            own = [m for m in matches if not any(m.prefix.startswith(f"{path}.") for path in inner)]
            fused = tuple(_fused(block, match, arrays) for match in own)
        except ReparamError:
            continue  # not one of these, or one of several, which are tried in turn
        names = tuple((match.prefix, match.family.name) for match in own)
        if fused and names not in seen:
            seen.add(names)
            yield Structure(block, fused)
        if not chosen:
            return


def no_convolution(block: Any) -> str:
    """Say why a block cannot be one convolution, where it has a part that never is."""
    pooling = import_paddle().nn.AvgPool2D
    for path, part in block.named_sublayers():
        if isinstance(part, pooling) and part.exclusive and part.padding:
            return f"'{path}' leaves padding out of its mean, which no convolution does"
    return ""


def _fused(block: Any, match: BlockMatch, arrays: Mapping[str, Array]) -> Fused:
    """Return a block by our algebra; epsilon goes into the variances, as each may have its own."""
    used = {key: arrays[key] for key in match.branch_keys}
    for key in used:
        if key.endswith("_variance"):
            epsilon = getattr(sublayer(block, key.rpartition(".")[0]), "_epsilon", None)
            if epsilon is None:
                raise NotFusibleError(f"the epsilon of '{key}' is not known")
            used[key] = used[key].astype(np.float64) + float(epsilon)
    made = fuse_rows(match, used, 0.0)
    return Fused(match, made.weight, made.bias)
