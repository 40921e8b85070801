"""Files that take raw pixels: which normalisation goes into them, and images to check them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.architectures import list_models
from reparam.errors import ExportError
from reparam.exporter.networks import Network
from reparam.exporter.options import Options
from reparam.normalization import PRESETS, Normalization

Array = npt.NDArray[Any]

_SEED = 20210103
_PIXELS = 256  # values of one
_DETECTOR = "ppyoloe"


def taking_raw_pixels(network: Network, options: Options) -> tuple[Network, Options]:
    """Return both as they are, or with the normalisation that the file is to take in.

    Raises:
        ExportError: which one is not said and not known, or it is for other channels.
        GraphError: what was said is no normalisation.
    """
    asked = options.fold_normalize
    if asked is None:
        return network, options
    said: tuple[str, ...] = ()
    if asked == "" and options.preprocessing is not None:
        asked = Normalization.of(options.preprocessing)
        said = ("the file takes raw pixels and normalises them as the configuration says",)
    elif asked == "":
        name = preset_of(network)
        asked = PRESETS[name]
        said = (
            f"the file takes raw pixels and normalises them as the preset '{name}', which "
            f"is assumed: no checkpoint tells. --fold-normalize VALUE says another",
        )
    wanted = Normalization.parse(asked) if isinstance(asked, str) else asked
    if len(wanted.mean) not in (1, network.channels):
        raise ExportError(
            "the normalisation is not for the images of this network",
            found=f"{len(wanted.mean)} means; the image has {network.channels} channel(s)",
            hint="--fold-normalize MEAN,STD with one of each, or one of each for every channel",
        )
    notices = (*network.notices, *said)
    return replace(network, notices=notices), replace(options, fold_normalize=wanted)


def preset_of(network: Network) -> str:
    """Return the name of the normalisation that a network of the zoo is usually trained with.

    Raises:
        ExportError: there is none, or the checkpoint cannot tell which of two.
    """
    used = network.settings
    if network.name.startswith(_DETECTOR):
        if "use_alpha" in network.assumed:
            raise ExportError(
                "cannot tell how the images of this detector are normalised",
                why="PP-YOLOE and PP-YOLOE+ differ in it, and in deploy form no weight tells "
                "the two apart",
                hint=f"--fold-normalize {_DETECTOR} or --fold-normalize {_DETECTOR}+",
            )
        plus = network.name.startswith(f"{_DETECTOR}_plus") or bool(used.get("use_alpha"))
        return f"{_DETECTOR}+" if plus else _DETECTOR
    if network.name in list_models() and (used.get("class_num") or used.get("num_classes")):
        return "imagenet"
    raise ExportError(
        f"it is not known how the images of '{network.name}' are normalised",
        why="only classifiers and detectors of the zoo have a usual way",
        hint=f"--fold-normalize with a preset ({', '.join(PRESETS)}) or MEAN,STD",
    )


def raw_images(shape: Sequence[int]) -> Array:
    """Return seeded images of whole numbers from 0 to 255, float32."""
    pixels = np.random.default_rng(_SEED).integers(0, _PIXELS, size=tuple(shape))
    return pixels.astype(np.float32)
