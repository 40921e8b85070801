"""What is exported, as a value: a Layer, the truth it is compared with, and where both are from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from reparam.adapters.checkpoint_layers import layer_of
from reparam.adapters.deploy_layers import (
    deploy_layer_of,
    deploy_state_in_float64,
    recognised_in,
)
from reparam.adapters.paddle_models import Array, as_float32
from reparam.checkpoint import Checkpoint
from reparam.checkpoint.fusing import need_finite
from reparam.checkpoint.notices import ignored_notice
from reparam.detection import Maps

CLASSIFIER_SIZE = (224, 224)
BACKBONE_SIZE = (640, 640)


@dataclass(frozen=True)
class Network:
    """A network to export, in paddle, and what a report says of it.

    Attributes:
        name: the architecture as recognised, or whatever names the network.
        original: the Layer as it was given, in float32: the truth for the file.
        exported: the Layer that the file is made from, in float32; may be ``original`` itself.
        input_name: of the image, in the file.
        channels: of the image.
        default_size: (H, W) where none is asked for.
        source: the file that the weights are from.
        source_sha256: of that file.
        source_form: ``"train-time"``, ``"deploy"`` or ``"mixed"``.
        settings: with which the network was built.
        assumed: those of them that were neither in the source nor given.
        epsilon: of the BatchNorms; None where there is not one for all of them.
        blocks: prefixes of the re-parameterizable blocks.
        fused: prefixes of those that are one convolution in ``exported``.
        counted: whether ``exported`` calls each of its Conv2D and BatchNorm2D once, and computes
            with no other weights, so that the nodes of the file can be counted.
        notices: what making the network had to say.
        any_size: it does the same at every position, whatever the image and its size are.
        multiple: H and W of an image are multiples of it.
        maps: what its outputs mean, if it is a detector.
        finish: fuse what one operator would do in the graph that is written; not where the form of
            the source is to be kept.
        exact: returns the values that those of ``exported`` were rounded from, in float64 and by
            key; None where there is nothing better than these.
    """

    name: str
    original: Any
    exported: Any
    input_name: str
    channels: int
    default_size: tuple[int, int]
    source: Path
    source_sha256: str
    source_form: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    epsilon: float | None = None
    blocks: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    counted: bool = True
    notices: tuple[str, ...] = ()
    any_size: bool = False
    multiple: int = 1
    maps: Maps | None = None
    finish: bool = True
    exact: Callable[[], Mapping[str, Array]] | None = None


def network_of(
    checkpoint: Checkpoint,
    *,
    fuse: bool = True,
    epsilon: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Network:
    """Return the network of a checkpoint of a known architecture.

    Args:
        checkpoint: in any form; a half-fused one is finished.
        fuse: bring every block to one convolution and fold every BatchNorm; otherwise the network
            is exported as it is in the checkpoint.
        epsilon: of the BatchNorms, in place of what the family says.
        settings: of the architecture, in place of what was recognised or assumed.

    Raises:
        UnsupportedModelError: the architecture is unknown, or the settings fit none.
        CheckpointError: keys are missing, unexpected or misshapen, or values are not finite.
    """
    recognised = recognised_in(checkpoint.arrays)
    overrides = dict(settings or {})
    if epsilon is not None:
        overrides["epsilon"] = epsilon
    used = {**recognised.settings, **recognised.assumed, **overrides}
    arrays = as_float32(checkpoint.arrays)
    need_finite(arrays)
    original = layer_of(arrays, overrides)
    exported, notices = original, source_notices(checkpoint)
    if recognised.ignored and not fuse:
        notices.append(ignored_notice(recognised))
    if fuse:
        exported, report = deploy_layer_of(arrays, overrides)
        notices += report.notices
    classes = used.get("class_num") or used.get("num_classes")
    usual = CLASSIFIER_SIZE if classes else BACKBONE_SIZE
    return Network(
        name=recognised.name,
        original=original,
        exported=exported,
        input_name=exported.input_name,
        channels=int(used.get("in_channels", 3)),
        default_size=getattr(exported, "default_size", None) or usual,
        source=checkpoint.path,
        source_sha256=checkpoint.sha256,
        source_form=recognised.form,
        settings=used,
        assumed={k: v for k, v in recognised.assumed.items() if k not in overrides},
        epsilon=float(used["epsilon"]),
        blocks=recognised.blocks,
        fused=recognised.blocks if fuse else recognised.deployed,
        notices=tuple(notices),
        any_size=True,
        multiple=getattr(exported, "size_multiple", 1),
        maps=getattr(exported, "maps", None),
        finish=fuse,
        exact=partial(deploy_state_in_float64, original) if fuse else None,
    )


def source_notices(checkpoint: Checkpoint) -> list[str]:
    """Say how the weights were found, and where float32 is not the dtype they are stored in."""
    dtypes = {array.dtype.name for array in checkpoint.arrays.values()}
    said = {
        "float16": "weights of float16 are float32 in the file, with the same values",
        "bfloat16": "weights of bfloat16 are float32 in the file, with the same values",
        "float64": "weights of float64 were rounded to float32",
    }
    return [*checkpoint.layout.notices, *(said[name] for name in said if name in dtypes)]
