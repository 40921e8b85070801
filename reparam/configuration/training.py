"""The network that a configuration of PaddleDetection or PaddleClas describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reparam.architectures import list_models
from reparam.configuration.reading import Opaque, read_yaml
from reparam.configuration.records import Configuration, Document
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
            raise _refusal(
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
    raise _refusal(
        document, "neither 'architecture' (PaddleDetection) nor 'Arch' (PaddleClas) in it"
    )


def _of_detection(document: Document) -> Configuration:
    values = document.values
    norm = values.get("norm_type", "bn")
    if norm not in _NORMS:
        raise _refusal(
            document, f"norm_type {norm!r}; known: {', '.join(_NORMS)}",
            why="another normalisation is not folded into a convolution as BatchNorm is",
        )  # fmt: skip
    section = _backbone(document)
    shared = {key: values[key] for key in _SHARED if values.get(key) is not None}
    own = {key: value for key, value in section.items() if key not in _HARMLESS}
    unknown = [key for key in own if key not in _DEFAULTS]
    if unknown:
        raise _refusal(
            document,
            f"'{unknown[0]}' in the section {_BACKBONE}",
            why="PaddleDetection ignores a setting that it does not know; here it may be a slip",
            hint=f"known are {', '.join(_DEFAULTS)}",
        )
    merged = {**_DEFAULTS, **shared, **own}
    used = {key: _CHECKS[key](document, key, value) for key, value in merged.items()}
    return Configuration(
        path=document.path,
        files=document.files,
        network="cspresnet",
        told={
            "layers": _scaled(used["layers"], used["depth_mult"]),
            "channels": _scaled(used["channels"], used["width_mult"]),
            "use_large_stem": used["use_large_stem"],
            "use_alpha": used["use_alpha"],
            "in_channels": 3,
        },
        settings={key: used[key] for key in ("act", "return_idx", "trt")},
        classes=_classes(document, values.get("num_classes")),
        input_size=_input_size(_section(values, "TestReader", "inputs_def")),
    )


def _backbone(document: Document) -> dict[str, Any]:
    """Return the settings of the backbone, if it is one that is known."""
    values = document.values
    architecture = values["architecture"]
    detector = values.get(architecture) if isinstance(architecture, str) else None
    if not isinstance(detector, Mapping) or "backbone" not in detector:
        raise _refusal(
            document, f"no 'backbone' in the section of its architecture, {architecture}"
        )
    named = detector["backbone"]
    inline = dict(named) if isinstance(named, Mapping) else {"name": named}
    if inline.get("name") != _BACKBONE:
        name = named.tag if isinstance(named, Opaque) else inline.get("name")
        raise _refusal(
            document,
            f"the backbone {name}; known: {_BACKBONE}",
            why="the settings of another backbone mean something else",
            hint="--model package.module:factory runs a network of your own",
        )
    section = values.get(_BACKBONE)
    if isinstance(section, Opaque) or not isinstance(section or {}, Mapping):
        raise _refusal(document, f"the section {_BACKBONE} is not names and values")
    return {**(section or {}), **inline}


def _of_clas(document: Document) -> Configuration:
    arch = document.values["Arch"]
    name = str(arch.get("name"))
    network = name.lower()
    if not network.startswith("repvgg_") or network not in list_models():
        known = ", ".join(model for model in list_models() if model.startswith("repvgg_"))
        raise _refusal(document, f"the network {name}", hint=f"known are {known}")
    unknown = [key for key in arch if key not in _HARMLESS_CLAS]
    if unknown:
        raise _refusal(
            document, f"'{unknown[0]}' in the section Arch",
            hint=f"known are {', '.join(_HARMLESS_CLAS)}",
        )  # fmt: skip
    told = {"class_num": _classes(document, arch.get("class_num", 1000)), "in_channels": 3}
    return Configuration(
        path=document.path,
        files=document.files,
        network=network,
        told=told,
        settings={},
        input_size=_input_size(_section(document.values, "Global")),
    )


def _section(values: Any, *names: str) -> Any:
    """Return the section of a section, None where there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _scaled(values: list[int], multiplier: float) -> list[int]:
    """Return ``values`` times ``multiplier`` as PaddleDetection rounds them, none under 1."""
    return [max(round(value * multiplier), 1) for value in values]


def _input_size(section: Any) -> tuple[int, int] | None:
    """Return (H, W) of the ``image_shape`` in a section, None where it leaves them open."""
    shape = section.get("image_shape") if isinstance(section, Mapping) else None
    if not isinstance(shape, list) or len(shape) != 3:
        return None
    height, width = shape[1:]
    fixed = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in (height, width))
    return (height, width) if fixed else None


def _classes(document: Document, value: Any) -> int | None:
    return None if value is None else int(_number(document, "number of classes", value, whole=True))


def _flag(document: Document, key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _bad(document, key, value, "true or false")


def _number(document: Document, key: str, value: Any, whole: bool = False) -> float:
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < 1e6:
        return value
    raise _bad(document, key, value, "a whole number above 0" if whole else "a number above 0")


def _numbers(document: Document, key: str, value: Any) -> list[int]:
    least = 0 if key == "return_idx" else 1
    whole = isinstance(value, list) and bool(value)
    if whole and all(type(n) is int and least <= n < 1_000_000 for n in value):
        return list(value)
    raise _bad(document, key, value, f"a list of whole numbers from {least}")


def _activation(document: Document, key: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _bad(document, key, value, "the name of an activation")


_CHECKS: dict[str, Callable[[Document, str, Any], Any]] = {
    "layers": _numbers,
    "channels": _numbers,
    "act": _activation,
    "return_idx": _numbers,
    "use_large_stem": _flag,
    "use_alpha": _flag,
    "width_mult": _number,
    "depth_mult": _number,
    "trt": _flag,
}


def _bad(document: Document, key: str, value: Any, needed: str) -> ConfigurationError:
    return _refusal(document, f"'{key}' is {value!r}; needed: {needed}")


def _refusal(
    document: Document, found: str, *, why: str = "", hint: str = ""
) -> ConfigurationError:
    return ConfigurationError(
        f"the configuration '{document.path}' is not understood", found=found, why=why, hint=hint
    )
