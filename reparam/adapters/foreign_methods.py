"""The methods by which a block of the user's own network turns itself into its deploy form."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from reparam.adapters.paddle_models import import_paddle

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


def sublayer(layer: Any, path: str) -> Any:
    """Return the sublayer at a dotted path, the Layer itself for the empty one; None if absent."""
    for name in path.split(".") if path else ():
        layer = None if layer is None else layer._sub_layers.get(name)
    return layer


def put(network: Any, old: Any, new: Any) -> Any:
    """Put one Layer in the place of another, wherever that stands; return the network."""
    if network is old:
        return new
    for part in network.sublayers(include_self=True):
        for name, child in part._sub_layers.items():
            if child is old:
                part._sub_layers[name] = new
    return network


def places_of(network: Any, block: Any, path: str = "") -> Iterator[str]:
    """Yield every path at which one Layer stands; a Layer may be used in several places."""
    if network is block:
        yield path
    for name, child in network._sub_layers.items():
        if child is not None:
            yield from places_of(child, block, f"{path}.{name}" if path else name)


def fingerprint(layer: Any) -> dict[tuple[str, ...], Any]:
    """Return what a method can change of a Layer: its arrays, its parts and their plain settings.

    Whether it is in training mode does not count.
    """
    found: dict[tuple[str, ...], Any] = {}
    for key, tensor in layer.state_dict().items():
        values = np.ascontiguousarray(tensor.numpy())
        found["array", key] = (values.shape, hashlib.blake2b(values).digest())
    for path, part in layer.named_sublayers(include_self=True):
        found["part", path] = type(part)
        for name, value in vars(part).items():
            told = value is None or isinstance(value, (bool, int, float, str))
            if told and not name.startswith("_") and name != "training":
                found["setting", path, name] = value
    return found


def _needed(block: Any, name: str) -> list[str] | None:
    """Return the arguments without which a method cannot be called; None if there is no method."""
    found = inspect.getattr_static(block, name, None)
    layer = import_paddle().nn.Layer
    if not callable(found) or isinstance(found, (type, layer)):
        return None
    try:
        parameters = inspect.signature(getattr(block, name)).parameters.values()
    except (TypeError, ValueError):
        return None
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
