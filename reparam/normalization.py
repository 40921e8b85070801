"""What is done to raw pixels in front of a network, as a value, and what it is usually."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.detection.records import Preprocessing
from reparam.errors import GraphError

Array = npt.NDArray[Any]

METADATA = "reparam.normalize"
"""Where a model says that its file takes raw pixels."""


@dataclass(frozen=True)
class Normalization:
    """What is done to raw pixels before a network sees them: (pixel * scale - mean) / std.

    Attributes:
        mean: one number, or one for each channel of the network.
        std: the same.
        scale: what pixels are multiplied by first, often 1/255.
        bgr: the file takes channels in the reverse of the order that the network was trained with.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    bgr: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std, self.scale)
        if len(self.mean) != len(self.std) or not self.mean:
            raise GraphError(
                "a normalisation needs as many standard deviations as means",
                found=f"{len(self.mean)} and {len(self.std)}",
            )
        if not np.isfinite(numbers).all() or min(self.std) <= 0 or self.scale <= 0:
            raise GraphError(
                "a normalisation needs standard deviations and a scale above zero",
                found=f"std {self.std}, scale {self.scale:g}",
            )

    @classmethod
    def of(cls, known: Preprocessing) -> Normalization:
        """Return what a detector's preprocessing does to pixels."""
        return cls(tuple(known.mean), tuple(known.std), 1 / 255 if known.scale else 1.0)

    @classmethod
    def parse(cls, text: str) -> Normalization:
        """Return what a text names: a preset, or numbers, and ``bgr`` after a comma.

        Numbers are as many means as standard deviations; ``1/255`` among them is the scale.

        Raises:
            GraphError: it is neither.
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        bgr = "bgr" in words
        words = [word for word in words if word != "bgr"]
        if len(words) == 1 and words[0] in PRESETS:
            preset = PRESETS[words[0]]
            return cls(preset.mean, preset.std, preset.scale, bgr)
        scale = 1 / 255 if "1/255" in words else 1.0
        try:
            numbers = [float(word) for word in words if word != "1/255"]
        except ValueError:
            numbers = []
        if not numbers or len(numbers) % 2:
            raise GraphError(
                f"'{text}' is no normalisation",
                found=f"{len(numbers)} numbers; needed: as many means as standard deviations",
                hint=f"a preset ({', '.join(PRESETS)}), or for example 127.5,127.5 for all "
                "channels; ',1/255' after it scales first, ',bgr' turns the channels",
            )
        half = len(numbers) // 2
        return cls(tuple(numbers[:half]), tuple(numbers[half:]), scale, bgr)

    def apply(self, image: Array) -> Array:
        """Return what a network sees of raw pixels (N, C, H, W), in float64."""
        turned = image.astype(np.float64)
        if self.bgr:
            turned = turned[:, ::-1]
        mean, std = (np.asarray(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        found: Array = (turned * self.scale - mean) / std
        return found

    def apply_in_float32(self, image: Array) -> Array:
        """Return the same as code that feeds a network computes it."""
        turned = image[:, ::-1] if self.bgr else image
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        found: Array = (turned.astype(np.float32) * np.float32(self.scale) - mean) / std
        return found

    def as_text(self, name: str) -> str:
        """Return what a model says of it, for the input ``name``."""
        return json.dumps({"input": name, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Normalization:
        """Return what a model says that it does to raw pixels.

        Raises:
            GraphError: it says no normalisation.
        """
        try:
            said = {**json.loads(text)}
            said.pop("input")
            return cls(mean=tuple(said.pop("mean")), std=tuple(said.pop("std")), **said)
        except (ValueError, TypeError, KeyError) as error:
            raise GraphError(
                "what the file says of its pixels cannot be read", found=f"{METADATA}: {text[:80]}"
            ) from error


_IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
_ONLY_SCALED = Normalization((0.0,), (1.0,), 1 / 255)

PRESETS: Mapping[str, Normalization] = MappingProxyType(
    {
        "imagenet": _IMAGENET,
        "inception": Normalization((0.5,), (0.5,), 1 / 255),
        "ppyoloe": _IMAGENET,
        "ppyoloe+": _ONLY_SCALED,
        "rtdetr": _ONLY_SCALED,
    }
)
"""By name. Sources: PaddleClas ``ppcls/configs/ImageNet`` (``imagenet``; the RepVGG, MobileOne and
PP-LCNet configurations all have it), PaddleDetection ``ppyoloe_reader.yml``,
``ppyoloe_plus_reader.yml`` and ``rtdetr_reader.yml``, all of which decode to RGB; torchvision has
``imagenet`` too, and the Inception networks of timm have 0.5 and 0.5."""
