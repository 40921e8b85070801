"""What a configuration of PaddleDetection does to an image before the detector sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reparam.configuration.documents import shown
from reparam.configuration.records import Document
from reparam.configuration.values import section
from reparam.detection import Preprocessing
from reparam.detection.records import IMAGENET_MEAN, IMAGENET_STD

_READERS = ("TestReader", "EvalReader")  # the first one is for images without labels
_STEPS = ("Decode", "Resize", "NormalizeImage", "Permute")
# PaddleDetection's own defaults (2.6, ppdet/data/transform/operators.py).
_RESIZE: dict[str, Any] = {"target_size": None, "keep_ratio": None, "interp": 1}
_NORMALIZE: dict[str, Any] = {
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
    "is_scale": True,
    "norm_type": "mean_std",
}
_INTERPOLATIONS = range(5)  # OpenCV: nearest, linear, cubic, area, Lanczos

Size = tuple[int, int]


@dataclass(frozen=True)
class Images:
    """How images reach the detector.

    Attributes:
        size: (H, W) of the input, None where nothing says it.
        preprocessing: None where nothing says it, or it is not understood.
        fold_normalize: the exported file is meant to normalise by itself.
        remarks: what was not understood.
    """

    size: Size | None = None
    preprocessing: Preprocessing | None = None
    fold_normalize: bool = False
    remarks: tuple[str, ...] = ()


class _UnknownError(Exception):
    """Something in a reader is not understood; the text says what."""


def images_of(document: Document, size: Size | None) -> Images:
    """Return what the TestReader says, or the EvalReader where that says nothing.

    What is not understood is left out and said in a remark: it does not change the network.

    Args:
        size: (H, W) that ``inputs_def`` names; as in PaddleDetection it wins over Resize.
    """
    eval_size = _size(document.values.get("eval_size"))
    fold = section(document.values, "TestReader", "fuse_normalize") is True
    for name in _READERS:
        reader = section(document.values, name)
        if not section(document.values, name, "sample_transforms"):
            continue
        try:
            resized, preprocessing = _read(reader)
        except _UnknownError as unknown:
            remark = (
                f"what {name} in {document.path} does to an image is not understood, and is left "
                f"out: {unknown}"
            )
            return Images(size or eval_size, None, fold, (remark,))
        return Images(size or resized or eval_size, preprocessing, fold)
    return Images(size or eval_size, None, fold)


def _read(reader: Mapping[str, Any]) -> tuple[Size | None, Preprocessing]:
    """Return the size that a reader resizes to, where that is one, and the preprocessing.

    Raises:
        _UnknownError: a step, its place or a value of it is not known.
    """
    steps = dict(_steps(reader["sample_transforms"]))
    names = tuple(steps)
    if names != tuple(step for step in _STEPS if step in steps):
        raise _UnknownError(f"{', '.join(names)}; known: {', '.join(_STEPS)}, in this order")
    if reader.get("batch_transforms"):
        raise _UnknownError("batch_transforms, which act on several images at once")
    if "Resize" not in steps or "NormalizeImage" not in steps:
        raise _UnknownError("it needs one Resize and one NormalizeImage")
    if steps.get("Permute"):
        raise _UnknownError(f"Permute with {', '.join(steps['Permute'])}")
    resize = _filled("Resize", steps["Resize"], _RESIZE)
    keep, interpolation = resize["keep_ratio"], resize["interp"]
    size = _size(resize["target_size"])
    if size is None or not isinstance(keep, bool):
        raise _UnknownError("Resize needs a target_size (H, W) and keep_ratio")
    if type(interpolation) is not int or interpolation not in _INTERPOLATIONS:
        raise _UnknownError(f"interp {shown(interpolation)}; known: 0 to 4")
    mean, std, scale = _normalization(
        _filled("NormalizeImage", steps["NormalizeImage"], _NORMALIZE)
    )
    return size, Preprocessing(mean, std, scale, keep, interpolation)


def _steps(transforms: Any) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for one in transforms if isinstance(transforms, list) else [transforms]:
        if not isinstance(one, Mapping) or len(one) != 1:
            raise _UnknownError(f"a step that is {shown(one)}; needed: a name with its settings")
        (name, settings), *_ = one.items()
        if not isinstance(settings or {}, Mapping):
            raise _UnknownError(f"{name} with {shown(settings)}")
        if any(name == other for other, _ in found):
            raise _UnknownError(f"{name} twice")
        found.append((str(name), dict(settings or {})))
    return found


def _filled(name: str, own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [key for key in own if key not in defaults]
    if unknown:
        raise _UnknownError(f"'{unknown[0]}' of {name}; known: {', '.join(defaults)}")
    return {**defaults, **own}


def _normalization(
    values: Mapping[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    scale, kind = values["is_scale"], values["norm_type"]
    if not isinstance(scale, bool):
        raise _UnknownError(f"is_scale {shown(scale)}; needed: true or false")
    if kind == "none":  # mean and std stand there all the same, and are not used
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale
    if kind != "mean_std":
        raise _UnknownError(f"norm_type {shown(kind)}; known: mean_std, none")
    mean, std = (_three(key, values[key]) for key in ("mean", "std"))
    if min(std) <= 0:
        raise _UnknownError(f"std {list(std)}; needed: numbers above 0")
    return mean, std, scale


def _three(key: str, value: Any) -> tuple[float, ...]:
    numbers = isinstance(value, list) and all(type(n) in (int, float) for n in value)
    if not numbers or len(value) != 3 or not all(math.isfinite(n) for n in value):
        raise _UnknownError(f"{key} {shown(value)}; needed: three numbers")
    return tuple(float(n) for n in value)


def _size(value: Any) -> Size | None:
    """Return (H, W) where ``value`` is that, or one number for both."""
    pair = [value, value] if type(value) is int else value
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    height, width = pair
    whole = all(type(n) is int and 0 < n < 1_000_000 for n in pair)
    return (height, width) if whole else None
