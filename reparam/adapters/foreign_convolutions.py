"""Convolutions of a block of the user's own, and ours in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reparam.adapters.foreign_parts import sublayer
from reparam.adapters.paddle_models import Array, import_paddle
from reparam.checkpoint.blocks import BlockMatch


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


def is_conv(part: Any) -> bool:
    return isinstance(part, import_paddle().nn.Conv2D)


def alike(block: Any, fused: Fused, path: str = "") -> list[Any]:
    """Return convolutions of the branches like the fused one, no two of one geometry.

    Args:
        block: with the branches.
        fused: what they come to.
        path: of a part of the block, to look only there.
    """
    found: dict[str, Any] = {}
    for name, part in sublayer(block, path).named_sublayers(include_self=True):
        key = ".".join(filter(None, (path, name, "weight")))
        if not is_conv(part) or key not in fused.match.branch_keys:
            continue
        whole = part._in_channels == fused.weight.shape[1] * part._groups
        same = tuple(part.weight.shape) == fused.weight.shape
        if whole and same and part._padding_mode == "zeros":
            found.setdefault(str(_geometry(part)), part)
    return list(found.values())


def conv_of(fused: Fused, like: Any) -> Any:
    """Return our convolution as a Layer, with the geometry of one of the user's."""
    paddle = import_paddle()
    outputs, inputs, *kernel = fused.weight.shape
    conv = paddle.nn.Conv2D(inputs * like._groups, outputs, kernel, **_geometry(like))
    with paddle.no_grad():
        conv.weight.set_value(fused.weight)
        conv.bias.set_value(fused.bias)
    conv.eval()
    return conv


def differences(path: str, found: Any, needed: Any) -> list[str]:
    first, second = _geometry(found), _geometry(needed)
    return [
        f"its convolution '{path}' has {name} {first[name]}; its branches have {second[name]}"
        for name in first
        if first[name] != second[name]
    ]


def conv_paths(converted: Any, fused: Sequence[Fused]) -> list[str] | None:
    """Return where a converted block has its convolutions: where the family says, or elsewhere."""
    convs = {path: part for path, part in converted.named_sublayers(include_self=True)
             if is_conv(part) and part.bias is not None}  # fmt: skip
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


def _geometry(conv: Any) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "groups", "data_format")
    return {name: getattr(conv, f"_{name}") for name in names}
