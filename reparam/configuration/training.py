"""The network that a configuration of PaddleDetection or PaddleClas describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reparam.architectures import list_models
from reparam.configuration.detectors import detector_of
from reparam.configuration.documents import shown
from reparam.configuration.reading import read_yaml
from reparam.configuration.records import Configuration, Document
from reparam.configuration.values import (
    Check,
    activation,
    checked,
    classes,
    flag,
    module_of,
    number,
    numbers,
    refusal,
    scaled,
    section,
)
from reparam.errors import ConfigurationError

_BACKBONE = "CSPResNet"
# PaddleDetection's own defaults (2.6, ppdet/modeling/backbones/cspresnet.py).
_DEFAULTS: dict[str, Any] = {
    "layers": [3, 6, 6, 3],
    "channels": [64, 128, 256, 512, 1024],
    "act": "swish",
    "return_idx": [1, 2, 3],
    "use_large_stem": False,
    "use_alpha": False,
    "width_mult": 1.0,
    "depth_mult": 1.0,
    "trt": False,
}
_CHECKS: dict[str, Check] = {
    "layers": numbers,
    "channels": numbers,
    "act": activation,
    "return_idx": numbers,
    "use_large_stem": flag,
    "use_alpha": flag,
    "width_mult": number,
    "depth_mult": number,
    "trt": flag,
}
_SHARED = ("width_mult", "depth_mult", "trt")  # may stand at the top, for all modules at once
# In the section of the backbone, without a say in what a trained network computes.
_HARMLESS = (
    "depth_wise",  # taken by PaddleDetection's CSPResNet and used nowhere
    "freeze_at",
    "freeze_norm",
    "freeze_stem_only",
    "name",
    "pretrained",
    "use_checkpoint",  # recomputes activations in training
)
_HARMLESS_CLAS = ("class_num", "name", "pretrained", "use_ssld", "use_sync_bn")
_NORMS = ("bn", "sync_bn")  # the same function in evaluation


def read_configuration(path: str | Path) -> Configuration:
    """Return the network that the configuration at ``path`` describes.

    Raises:
        ConfigurationError: it cannot be read, or describes what is not understood.
    """
    return configuration_of(read_yaml(path))


def configuration_of(document: Document) -> Configuration:
    """Return the network that a configuration describes.

    Raises:
        ConfigurationError: it describes another network, or what is not understood.
    """
    values = document.values
    for key in ("slim", "Slim"):
        if values.get(key):
            kind = values[key] if isinstance(values[key], str) else ", ".join(values[key])
            raise refusal(
                document,
                f"'{key}: {kind}'",
                why="compression changes the network: a quantized one has other arithmetic, a "
                "pruned one other widths",
                hint="-c with the configuration that the network was trained with before",
            )
    if "architecture" in values:
        return _of_detection(document)
    if isinstance(values.get("Arch"), Mapping):
        return _of_clas(document)
    raise refusal(
        document, "neither 'architecture' (PaddleDetection) nor 'Arch' (PaddleClas) in it"
    )


def _of_detection(document: Document) -> Configuration:
    """Return the detector, or its backbone alone with the reason why no more of it is known."""
    backbone = _of_backbone(document)
    try:
        return detector_of(document, backbone)
    except ConfigurationError as error:
        return replace(backbone, refusal=error)


def _of_backbone(document: Document) -> Configuration:
    values = document.values
    norm = values.get("norm_type", "bn")
    if norm not in _NORMS:
        raise refusal(
            document, f"norm_type {shown(norm)}; known: {', '.join(_NORMS)}",
            why="another normalisation is not folded into a convolution as BatchNorm is",
        )  # fmt: skip
    written = _backbone(document)
    shared = {key: values[key] for key in _SHARED if values.get(key) is not None}
    own = {key: value for key, value in written.items() if key not in _HARMLESS}
    used = checked(document, _BACKBONE, own, {**_DEFAULTS, **shared}, _CHECKS)
    return Configuration(
        path=document.path,
        files=document.files,
        network="cspresnet",
        told={
            "layers": scaled(used["layers"], used["depth_mult"]),
            "channels": scaled(used["channels"], used["width_mult"]),
            "use_large_stem": used["use_large_stem"],
            "use_alpha": used["use_alpha"],
            "in_channels": 3,
        },
        settings={key: used[key] for key in ("act", "return_idx", "trt")},
        classes=classes(document, values.get("num_classes")),
        input_size=_input_size(section(values, "TestReader", "inputs_def")),
    )


def _backbone(document: Document) -> dict[str, Any]:
    """Return the settings of the backbone, if it is one that is known."""
    values = document.values
    architecture = values["architecture"]
    detector = values.get(architecture) if isinstance(architecture, str) else None
    if not isinstance(detector, Mapping) or "backbone" not in detector:
        raise refusal(document, f"no 'backbone' in the section of its architecture, {architecture}")
    return module_of(
        document,
        detector["backbone"],
        _BACKBONE,
        "the backbone {}",
        why="the settings of another backbone mean something else",
        hint="--model package.module:factory runs a network of your own",
    )


def _of_clas(document: Document) -> Configuration:
    arch = document.values["Arch"]
    name = str(arch.get("name"))
    network = name.lower()
    if not network.startswith("repvgg_") or network not in list_models():
        known = ", ".join(model for model in list_models() if model.startswith("repvgg_"))
        raise refusal(document, f"the network {name}", hint=f"known are {known}")
    unknown = [key for key in arch if key not in _HARMLESS_CLAS]
    if unknown:
        raise refusal(
            document, f"'{unknown[0]}' in the section Arch",
            hint=f"known are {', '.join(_HARMLESS_CLAS)}",
        )  # fmt: skip
    told = {"class_num": classes(document, arch.get("class_num", 1000)), "in_channels": 3}
    return Configuration(
        path=document.path,
        files=document.files,
        network=network,
        told=told,
        settings={},
        input_size=_input_size(section(document.values, "Global")),
    )


def _input_size(section: Any) -> tuple[int, int] | None:
    """Return (H, W) of the ``image_shape`` in a section, None where it leaves them open."""
    shape = section.get("image_shape") if isinstance(section, Mapping) else None
    if not isinstance(shape, list) or len(shape) != 3:
        return None
    height, width = shape[1:]
    fixed = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in (height, width))
    return (height, width) if fixed else None
