"""The architectures in train-time form (imported as reparam.models).

Recognising a checkpoint and listing the models need no paddle; everything that builds a Layer is
imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reparam.models.recognition import Recognised, recognise
from reparam.models.registry import create_model, list_models, register

_LATE = {
    "BasicBlock": "layers",
    "CSPResNet": "cspresnet",
    "CSPResStage": "cspresnet",
    "ConvBNLayer": "layers",
    "EffectiveSELayer": "layers",
    "FeatureMap": "cspresnet",
    "LearnableRepLayer": "pplcnetv3",
    "MobileOne": "mobileone",
    "MobileOneBlock": "mobileone",
    "PPLCNetV2": "pplcnetv2",
    "PPLCNetV3": "pplcnetv3",
    "PPYOLOE": "ppyoloe",
    "RepDepthwiseSeparable": "pplcnetv2",
    "RepVGG": "repvgg",
    "RepVGGBlock": "repvgg",
    "RepVggBlock": "layers",
    "ReparamBlock": "blocks",
    "SqueezeExcite": "repvgg",
    "convert_to_deploy": "blocks",
    "fold_batch_norms": "layers",
}

__all__ = [
    "PPYOLOE",
    "BasicBlock",
    "CSPResNet",
    "CSPResStage",
    "ConvBNLayer",
    "EffectiveSELayer",
    "FeatureMap",
    "LearnableRepLayer",
    "MobileOne",
    "MobileOneBlock",
    "PPLCNetV2",
    "PPLCNetV3",
    "Recognised",
    "RepDepthwiseSeparable",
    "RepVGG",
    "RepVGGBlock",
    "RepVggBlock",
    "ReparamBlock",
    "SqueezeExcite",
    "convert_to_deploy",
    "create_model",
    "fold_batch_norms",
    "list_models",
    "recognise",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
