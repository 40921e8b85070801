"""What a configuration says of the network, as far as it matters for deploying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reparam.detection import Preprocessing, Selection
from reparam.errors import ConfigurationError


@dataclass(frozen=True)
class Configuration:
    """The network that a configuration describes.

    Attributes:
        path: of the file that was named.
        files: all that were read, that one last.
        network: ``"cspresnet"``, or the registered name of a variant, as ``"repvgg_a0"``.
        told: settings that a checkpoint tells as well, so that the two can be compared; lists
            have their multipliers applied.
        settings: settings that no checkpoint tells.
        classes: of the detector, if said.
        input_size: (H, W) that it is tested with, if said.
        backbone: of a detector, the network that a checkpoint of its backbone alone is of.
        refusal: why the detector around this backbone is not understood.
        selection: how the boxes of a detector become detections, if said.
        preprocessing: of the images that a detector is tested with, if said.
        fold_normalize: the exported file is meant to take raw pixels (``fuse_normalize``).
        remarks: what is said but not understood, and left out, in sentences.
    """

    path: Path
    files: tuple[Path, ...]
    network: str
    told: Mapping[str, Any]
    settings: Mapping[str, Any]
    classes: int | None = None
    input_size: tuple[int, int] | None = None
    backbone: Configuration | None = None
    refusal: ConfigurationError | None = field(default=None, compare=False)
    selection: Selection | None = None
    preprocessing: Preprocessing | None = None
    fold_normalize: bool = False
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A configuration file with everything that it includes, as plain data."""

    path: Path
    values: Mapping[str, Any]
    files: tuple[Path, ...] = field(default=())
