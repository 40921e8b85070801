"""The paddle Layer of a checkpoint, in the very form in which the checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from reparam.adapters.paddle_models import build_layer, load_arrays
from reparam.architectures import in_paddle_spelling, list_models, recognise
from reparam.checkpoint.blocks import find_blocks
from reparam.detection.known import KnownDetector, detector_of
from reparam.errors import ReparamError, UnsupportedModelError

_PREFIX = "backbone."  # where detectors keep it

_TORCH_STATISTIC = ".running_mean"  # the name that PyTorch gives it; Paddle's is _mean
_WAY_OF_TORCH = (
    "PyTorch has the network: torch.onnx.export(model.eval(), image, 'model.onnx') there, then "
    "reparam fuse model.onnx, which needs no model code; reparam fuse of this checkpoint fuses "
    "its blocks"
)


def layer_of(arrays: Mapping[str, np.ndarray[Any, Any]], overrides: Mapping[str, Any]) -> Any:
    """Return the recognised network with ``arrays`` loaded, in evaluation mode.

    Every block is in the form it has in ``arrays``, train-time or deploy, so a half-fused
    checkpoint loads as strictly as any other.

    Args:
        overrides: settings in place of what was recognised or assumed, ``epsilon`` among them.

    Raises:
        UnsupportedModelError: the architecture is unknown, or cannot be built like that.
        CheckpointError: a key is missing, left over or of the wrong shape or dtype.
    """
    arrays = as_layers_name_them(arrays)
    recognised = architecture_of(arrays)
    deployed = set(recognised.deployed) == set(recognised.blocks)
    layer = build_layer(recognised, deploy=deployed, overrides=overrides)
    for prefix in () if deployed else recognised.deployed:
        _sublayer(layer, prefix).convert_to_deploy()
    for prefix in recognised.folded:
        _sublayer(layer, prefix).fold_batch_norm()
    not_of_it = {*recognised.unexpected, *recognised.beside, *recognised.ignored}
    load_arrays(layer, {key: array for key, array in arrays.items() if key not in not_of_it})
    return layer


def as_layers_name_them(
    arrays: Mapping[str, np.ndarray[Any, Any]],
) -> Mapping[str, np.ndarray[Any, Any]]:
    """Return ``arrays`` in Paddle's spelling: the same unless PyTorch wrote them.

    Raises:
        UnsupportedModelError: as :func:`architecture_of`.
    """
    return in_paddle_spelling(arrays) if architecture_of(arrays).torch else arrays


def architecture_of(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """Return what :func:`reparam.architectures.recognise` makes of ``arrays``.

    Raises:
        UnsupportedModelError: it knows no such architecture.
    """
    shapes = {key: array.shape for key, array in arrays.items()}
    recognised = recognise(shapes)
    known = None if recognised is not None else detector_of(shapes)
    if known is not None:
        raise _not_in_the_zoo(known, shapes)
    if recognised is None:
        raise UnsupportedModelError(
            "the network of this checkpoint is not one that reparam knows",
            found=f"{len(arrays)} arrays, '{next(iter(arrays), '')}' first; "
            f"no match among {', '.join(list_models())}",
            why="running it needs the network, not only its weights",
            hint=_WAY_OF_TORCH
            if any(key.endswith(_TORCH_STATISTIC) for key in arrays)
            else "fuse, and verify of two checkpoints, work on any with blocks that are known; "
            "--model takes the network's own code; "
            "--prefix NAME, such as backbone, takes a part out of a larger network",
        )
    return recognised


def _not_in_the_zoo(known: KnownDetector, shapes: Mapping[str, tuple[int, ...]]) -> ReparamError:
    evidence = ", ".join(f"'{key}'" for key in known.told_by(shapes))
    blocks = len(find_blocks(shapes, spared=lambda _: True).blocks)
    inner = {key[len(_PREFIX) :]: s for key, s in shapes.items() if key.startswith(_PREFIX)}
    backbone = recognise(inner) if inner else None
    more = f"; reparam fuse fuses the {blocks} blocks of this checkpoint now" if blocks else ""
    if backbone is not None:
        more += f"; --prefix backbone takes its backbone alone, a {backbone.name}"
    return UnsupportedModelError(
        f"the checkpoint is of the detector {known.title}, which is not in the zoo",
        found=f"{len(shapes)} arrays, {evidence} among them",
        why="running it needs the code of the network, not only its weights",
        hint="--model package.module:factory runs the code of its project; or export it there, "
        f"and reparam fuse model.onnx{more}",
    )


def _sublayer(layer: Any, prefix: str) -> Any:
    return reduce(getattr, prefix.split("."), layer)
