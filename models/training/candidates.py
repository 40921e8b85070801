"""The convolutions of a network: which of them a block may take the place of, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from reparam.errors import UnsupportedModelError
from reparam.models.blocks import ReparamBlock
from reparam.models.layers import ConvBNLayer
from reparam.models.paddle_api import paddle

nn = paddle.nn

Where: TypeAlias = "str | Sequence[str] | Callable[[str, Any], bool] | None"

_CONVOLUTIONS = (
    nn.Conv1D, nn.Conv2D, nn.Conv3D, nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose
)  # fmt: skip
_FUSED_AS_A_WHOLE = (
    "convert_to_deploy", "re_parameterize", "reparameterize", "rep", "switch_to_deploy"
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A convolution in a network.

    Attributes:
        where: its path.
        parent: the Layer that holds it, under the last part of the path.
        conv: itself.
        norm: path of the BatchNorm that alone takes its output, where the structure says so.
        reason: why it has to stay as it is, None where it need not.
    """

    where: str
    parent: Any
    conv: Any
    norm: str | None
    reason: str | None


def places(model: Any) -> list[Place]:
    """Return every convolution of ``model``, in the order of its sublayers."""
    parts = list(_walk(model, "", None))
    shared = _shared([model, *(layer for _, _, layer, _ in parts)])
    return [
        Place(where, parent, conv, _norm_after(where, parent, shared), _reason(conv, outer, shared))
        for where, parent, conv, outer in parts
        if isinstance(conv, _CONVOLUTIONS)
    ]


def _shared(layers: Sequence[Any]) -> set[int]:
    """Return ids of Layers and parameters that a network holds more than once.

    A list of Layers counts: PaddleDetection registers a Layer, and runs it from a list.
    """
    once = list({id(layer): layer for layer in layers}.values())
    held = Counter(map(id, layers))
    held.update(id(p) for layer in once for p in layer.parameters(include_sublayers=False))
    own = vars(nn.Layer())
    for layer in once:
        beside = [value for name, value in vars(layer).items() if name not in own]
        for value in beside:
            inside = value.values() if isinstance(value, Mapping) else value
            if isinstance(value, list | tuple | Mapping):
                held.update(id(item) for item in inside if isinstance(item, nn.Layer))
    return {key for key, count in held.items() if count > 1}


def chosen(found: Sequence[Place], where: Where) -> list[Place]:
    """Return the places that ``where`` selects; all for None.

    Raises:
        UnsupportedModelError: a pattern selects none.
    """
    if where is None:
        return list(found)
    if callable(where):
        return [place for place in found if where(place.where, place.conv)]
    patterns = [where] if isinstance(where, str) else list(where)
    for pattern in patterns:
        if not any(_matches(place, pattern) for place in found):
            paths = ", ".join(place.where for place in found[:5])
            raise UnsupportedModelError(
                f"where='{pattern}' names no convolution",
                found=f"{len(found)} there are: {paths}{', ...' if len(found) > 5 else ''}",
            )
    return [place for place in found if any(_matches(place, one) for one in patterns)]


def _matches(place: Place, pattern: str) -> bool:
    """Whether a pattern is that of the convolution, or of a Layer that it is in."""
    return fnmatchcase(place.where, pattern) or fnmatchcase(place.where, f"{pattern}.*")


def _walk(layer: Any, prefix: str, outer: str | None) -> Iterator[tuple[str, Any, Any, str | None]]:
    """Yield path, parent, sublayer, and the kind of block that the sublayer is a part of.

    Unlike in named_sublayers, a Layer that is in two places is there twice.
    """
    for name, child in layer._sub_layers.items():
        if child is not None:
            path = f"{prefix}{name}"
            yield path, layer, child, outer
            kind = type(child).__name__ if _is_block(child) else None
            yield from _walk(child, f"{path}.", outer or kind)


def _is_block(layer: Any) -> bool:
    """Whether a Layer is fused as a whole, by what it knows of its own convolutions."""
    if isinstance(layer, ReparamBlock):
        return not layer.deployed
    return any(callable(getattr(layer, name, None)) for name in _FUSED_AS_A_WHOLE)


def _reason(conv: Any, outer: str | None, shared: set[int]) -> str | None:
    """Return why a convolution cannot be replaced at all, whatever the block."""
    if type(conv) is not nn.Conv2D:
        return f"it is a {type(conv).__name__}, not a plain Conv2D"
    if outer is not None:
        return f"it is a part of a {outer}, which is fused as a whole"
    if shared & {id(conv), *map(id, conv.parameters(include_sublayers=False))}:
        return "the network holds it, or its weight, in two places"
    if conv._forward_pre_hooks or conv._forward_post_hooks or "forward" in vars(conv):
        return "it has hooks (as weight_norm and spectral_norm set), which a block would lose"
    return _odd_form(conv) or _odd_values(conv)


def _odd_form(conv: Any) -> str | None:
    names = {name for name, _ in conv.named_parameters()} | {n for n, _ in conv.named_buffers()}
    if not {"weight"} <= names <= {"weight", "bias"} or list(conv.children()):
        return f"it holds {', '.join(sorted(names))} in the place of a weight and a bias"
    if conv._padding_mode != "zeros":
        return f"it pads with '{conv._padding_mode}', a block with zeros"
    if conv._data_format != "NCHW":
        return f"its layout is {conv._data_format}; needed: NCHW"
    if isinstance(conv._padding, str) or _is_nested(conv._padding):
        return f"its padding is given as {conv._padding!r}; needed: a number for each axis"
    return None


def _odd_values(conv: Any) -> str | None:
    dtype = str(conv.weight.dtype).rpartition(".")[2]
    if dtype not in ("float32", "float64"):
        return f"its weight is {dtype}; needed: float32 or float64, for statistics to be kept in"
    if not all(paddle.isfinite(p).all().item() for p in conv.parameters()):
        return "its weight or bias is not finite"
    return None


def _is_nested(padding: Any) -> bool:
    return isinstance(padding, list | tuple) and any(isinstance(p, list | tuple) for p in padding)


def _norm_after(where: str, parent: Any, shared: set[int]) -> str | None:
    """Return the path of the BatchNorm that takes the output of a convolution, and nobody else.

    Only where the structure declares it: in our ConvBNLayer, and next to each other in a
    Sequential. Names and the order of registration prove nothing.
    """
    prefix, _, own = where.rpartition(".")
    if isinstance(parent, ConvBNLayer):
        after = None if parent.folded else "bn"
    elif type(parent) is nn.Sequential:
        names = list(parent._sub_layers)
        after = next(iter(names[names.index(own) + 1 :]), None)
    else:
        return None
    norm = parent._sub_layers.get(after)
    if not isinstance(norm, nn.BatchNorm2D) or id(norm) in shared:
        return None
    return f"{prefix}.{after}" if prefix else after
