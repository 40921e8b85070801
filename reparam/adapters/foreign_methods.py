"""The methods by which a block of the user's own network turns itself into its deploy form."""

from __future__ import annotations

import inspect
from typing import Any

from reparam.adapters.foreign_parts import fingerprint, is_inside, outermost, sublayer

PLAIN = (
    "convert_to_deploy",
    "switch_to_deploy",
    "merge_kernel",
    "merge_dilated_branches",
    "structural_reparam",
    "fuse_repvgg_block",
    "fuse_convs",
)
"""Names that stand for nothing else: of PaddleDetection, PaddleSlim and this package; of RepVGG and
most of what follows it; of RepLKNet and UniRepLKNet; of YOLOv7; of ultralytics."""

DOUBTFUL = ("re_parameterize", "reparameterize", "rep", "fuse_model", "fuse")
"""Of PaddleClas, MobileOne, PaddleOCR, YOLOv6 and RepViT. Other code uses these names for drawing a
sample from a distribution, or for merging feature maps; such a method takes arguments."""

METHODS = PLAIN[:2] + DOUBTFUL[:3] + PLAIN[2:] + DOUBTFUL[3:]
"""A block that has several is converted by the first."""


def method_of(block: Any) -> str | None:
    """Return the name of the method that brings ``block`` to deploy form, None if it has none.

    It is a method, not an attribute or a property of that name nor a part of the block, and can
    be called with nothing.
    """
    return next((name for name in METHODS if _needed(block, name) == []), None)


def missing_arguments(block: Any) -> tuple[str, list[str]] | None:
    """Return a method that stands for nothing else but cannot be called, and what it needs."""
    if method_of(block) is not None:
        return None
    found = ((name, _needed(block, name)) for name in PLAIN)
    return next(((name, needed) for name, needed in found if needed), None)


def block_paths(layer: Any) -> list[str]:
    """Return the paths of all blocks with a method in :data:`METHODS`, outermost first."""
    parts = layer.named_sublayers(include_self=True)
    return [path for path, part in parts if method_of(part) is not None]


def changed_inside(block: Any, other: Any) -> list[str]:
    """Return the outermost blocks inside a block that a conversion changed, if that was all.

    Args:
        block: before it.
        other: after it.
    """
    before, after = fingerprint(block), fingerprint(other)
    paths = [path for path in block_paths(block) if path and sublayer(other, path) is not None]
    found = outermost([
        path
        for path in paths
        if fingerprint(sublayer(block, path)) != fingerprint(sublayer(other, path))
    ])  # fmt: skip
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    beside = [name[1] for name in changed if name[0] != "setting" and not is_inside(name[1], found)]
    return [] if beside else found


def _needed(block: Any, name: str) -> list[str] | None:
    """Return the arguments without which a method cannot be called; None if there is no method."""
    if not hasattr(type(block), name) and name not in vars(block):
        return None
    found = inspect.getattr_static(block, name, None)
    if not callable(found) or isinstance(found, type) or hasattr(found, "state_dict"):
        return None
    try:
        parameters = inspect.signature(getattr(block, name)).parameters.values()
    except (TypeError, ValueError):
        return None
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
