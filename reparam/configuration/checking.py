"""What a configuration or a name says of a network, against what the checkpoint tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from reparam.architectures import list_models, recognise
from reparam.configuration.records import Configuration
from reparam.errors import CheckpointError, ConfigurationError, UnsupportedModelError

Shapes = Mapping[str, tuple[int, ...]]

_PREFIX = "backbone."  # where detectors keep it
_CLASSES = re.compile(r"(?:^|\.)pred_cls\.\d+\.weight$")  # of the head of PP-YOLOE
_DETECTOR = "ppyoloe"
# Before the multipliers.
_LAYERS, _CHANNELS = [3, 6, 6, 3], [64, 128, 256, 512, 1024]
_NECK_CHANNELS, _NECK_BLOCKS = [768, 384, 192], 3


def check_configuration(configuration: Configuration, shapes: Shapes) -> Configuration:
    """Refuse a configuration that contradicts what a checkpoint tells of its network.

    Args:
        shapes: of the arrays of the checkpoint; a detector's have its backbone under ``backbone.``.

    Returns:
        The part of the configuration that the checkpoint is of: of a detector's, all or the
        backbone.

    Raises:
        ConfigurationError: names what both say, or that the checkpoint is of no such network; or
            the checkpoint is of a detector, and what is said of that is not understood.
    """
    found = _recognised(shapes)
    what = f"the configuration '{configuration.path}' is not that of the checkpoint"
    detector = found is not None and _is_of(found.name, _DETECTOR)
    if detector and configuration.refusal is not None:
        raise configuration.refusal
    if not detector and configuration.backbone is not None:
        configuration = configuration.backbone
    if found is None or not _is_of(found.name, configuration.network):
        name = "no network that reparam knows" if found is None else f"a {found.name}"
        raise ConfigurationError(
            what, found=f"the configuration is of a {configuration.network}, the checkpoint {name}"
        )
    told = told_by(found)
    wrong = [
        f"{key} {value} in the configuration, {told[key]} in the checkpoint"
        for key, value in configuration.told.items()
        if key in told and told[key] != value
    ]
    if not detector:  # whose classes have been compared
        wrong += _other_classes(configuration, shapes)
    if wrong:
        raise ConfigurationError(
            what, found="; ".join(wrong),
            why="with settings of another network the weights would mean something else",
        )  # fmt: skip
    return configuration


def _other_classes(configuration: Configuration, shapes: Shapes) -> list[str]:
    classes = {shape[0] for key, shape in shapes.items() if _CLASSES.search(key)}
    if configuration.classes is None or not classes - {configuration.classes}:
        return []
    counts = ", ".join(map(str, sorted(classes)))
    said = f"num_classes {configuration.classes} in the configuration"
    return [f"{said}, {counts} in the checkpoint"]


def check_name(name: str, shapes: Shapes) -> None:
    """Refuse a checkpoint that is not, to the last key, of the architecture called ``name``.

    Raises:
        UnsupportedModelError: no architecture has that name, or the checkpoint is of another.
        CheckpointError: it is of that one, but keys are missing, unexpected or misshapen.
    """
    names = list_models()
    if name not in names:
        nearest = get_close_matches(name, names, n=1, cutoff=0.5)
        raise UnsupportedModelError(
            f"there is no architecture named '{name}'",
            hint=f"'{nearest[0]}'"
            if nearest
            else f"one of {', '.join(names)}, or package.module:factory for a network of your own",
        )
    found = recognise(shapes)
    if found is None or not _is_of(found.name, name):
        settings = "" if found is None else ", ".join(f"{k} {v}" for k, v in told_by(found).items())
        raise UnsupportedModelError(
            f"the checkpoint is not a {name}",
            found="no network that reparam knows" if found is None
            else f"a {found.name}: {settings}",
            why=f"--model {name} was given",
            hint="" if found is None else f"--model {found.name}, or leave it out",
        )  # fmt: skip
    problems = {
        "missing": found.missing,
        "unexpected": found.unexpected,
        "of the wrong shape": tuple(key for key, _, _ in found.mismatched),
    }
    for problem, keys in problems.items():
        if keys:
            raise CheckpointError(
                f"the checkpoint is not, to the last key, a {found.name}",
                found=f"{len(keys)} {problem}: {', '.join(keys[:3])}",
                why=f"--model {name} was given",
            )


def told_by(found: Any) -> dict[str, Any]:
    """Return the settings that a checkpoint tells, lists with their multipliers applied."""
    told = dict(found.settings)
    if found.name.startswith(("cspresnet", _DETECTOR)):
        width, depth = told.pop("width_mult", 1.0), told.pop("depth_mult", 1.0)
        layers, channels = told.pop("layers", _LAYERS), told.pop("channels", _CHANNELS)
        told["layers"] = [max(round(n * depth), 1) for n in layers]
        told["channels"] = [max(round(n * width), 1) for n in channels]
        told.pop("return_idx", None)  # chosen to fit, not told
        if found.name.startswith(_DETECTOR):
            neck = told.pop("neck_channels", _NECK_CHANNELS)
            told["neck_channels"] = [max(round(n * width), 1) for n in neck]
            told["neck_blocks"] = max(round(told.pop("neck_blocks", _NECK_BLOCKS) * depth), 1)
    return told


def _recognised(shapes: Shapes) -> Any:
    found = recognise(shapes)
    if found is not None:
        return found
    inner = {
        key.removeprefix(_PREFIX): shape for key, shape in shapes.items() if key.startswith(_PREFIX)
    }
    return recognise(inner) if inner else None


def _is_of(found: str, wanted: str) -> bool:
    """Whether ``found`` is ``wanted``, or a variant of the family that it is the name of."""
    family = wanted in ("cspresnet", "repvgg", _DETECTOR)
    return found == wanted or (family and found.startswith(f"{wanted}_"))
