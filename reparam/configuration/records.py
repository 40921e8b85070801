"""What a configuration says of the network, as far as it matters for deploying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    """

    path: Path
    files: tuple[Path, ...]
    network: str
    told: Mapping[str, Any]
    settings: Mapping[str, Any]
    classes: int | None = None
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Document:
    """A configuration file with everything that it includes, as plain data."""

    path: Path
    values: Mapping[str, Any]
    files: tuple[Path, ...] = field(default=())
