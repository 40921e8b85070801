"""The whole detector that a configuration of PaddleDetection describes: neck, head, images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reparam.configuration.documents import shown
from reparam.configuration.images import images_of
from reparam.configuration.records import Configuration, Document
from reparam.configuration.selecting import selection_of
from reparam.configuration.values import (
    Check,
    activation,
    bad,
    checked,
    count,
    flag,
    module_of,
    number,
    numbers,
    refusal,
    scaled,
)
from reparam.errors import ConfigurationError

NETWORK = "ppyoloe"

_NECK, _HEAD = "CustomCSPPAN", "PPYOLOEHead"
# What each architecture takes where its section does not say (PaddleDetection 2.6,
# ppdet/modeling/architectures).
_ARCHITECTURES = {
    "YOLOv3": {"neck": "YOLOv3FPN", "yolo_head": "YOLOv3Head"},
    "PPYOLOE": {"neck": _NECK, "yolo_head": _HEAD},
    "PPYOLOEWithAuxHead": {"neck": _NECK, "yolo_head": _HEAD},
}
_PARTS = ("neck", "yolo_head")
# In the section of the architecture, without a say in what the trained network computes.
_HARMLESS = (
    "aux_head",  # takes part in training alone, as everything for distillation
    "backbone",
    "data_format",
    "detach_epoch",
    "feat_distill_place",
    "for_distill",
    "ssod_loss",
)


def _attention(document: Document, key: str, value: Any) -> str | None:
    """Return what follows the attention; PaddleDetection writes nothing as the text None."""
    if value in (None, "None"):
        return None
    if value in ("convbn", "repvgg"):
        return str(value)
    raise bad(document, key, value, "convbn, repvgg or None")


def _range(document: Document, key: str, value: Any) -> tuple[int, int] | None:
    """Return first and last + 1 of the distances that bins stand for."""
    if value is None or value == []:  # PaddleDetection asks whether there is anything
        return None
    whole = isinstance(value, (list, tuple)) and [type(n) for n in value] == [int, int]
    if whole and -1000 < value[0] < value[1] < 1000:
        return (value[0], value[1])
    raise bad(document, key, value, "two whole numbers, the first one smaller")


def _only(wanted: Any, why: str) -> Check:
    """Return a check that lets one value pass."""

    def check(document: Document, key: str, value: Any) -> Any:
        if value == wanted and isinstance(value, bool) == isinstance(wanted, bool):
            return value
        raise refusal(document, f"'{key}' is {shown(value)}; known: {shown(wanted)}", why=why)

    return check


# Of each section: settings with PaddleDetection's own defaults (2.6, necks/custom_pan.py and
# heads/ppyoloe_head.py), and the checks of their values.
_NECK_DEFAULTS: dict[str, Any] = {
    "out_channels": [1024, 512, 256],
    "act": "leaky",
    "stage_fn": "CSPStage",
    "block_fn": "BasicBlock",
    "stage_num": 1,
    "block_num": 3,
    "spp": False,
    "use_alpha": False,
    "use_trans": False,
    "width_mult": 1.0,
    "depth_mult": 1.0,
    "trt": False,
}
_NECK_CHECKS: dict[str, Check] = {
    "out_channels": numbers,
    "act": activation,
    "stage_fn": _only("CSPStage", "another stage has other weights"),
    "block_fn": _only("BasicBlock", "another block has other weights"),
    "stage_num": count,
    "block_num": count,
    "spp": flag,
    "use_alpha": flag,
    "use_trans": _only(False, "a neck with a transformer (PP-YOLOE-SOD) is not in the zoo"),
    "width_mult": number,
    "depth_mult": number,
    "trt": flag,
}
_NECK_HARMLESS = (
    "act_dropout",  # of the transformer, as far as normalize_before
    "activation",
    "attn_dropout",
    "dim_feedforward",
    "dropout",
    "nhead",
    "num_layers",
    "normalize_before",
    "block_size",  # of DropBlock, which takes part in training alone
    "drop_block",
    "keep_prob",
    "data_format",
    "eval_size",
    "name",
)
_HEAD_DEFAULTS: dict[str, Any] = {
    "act": "swish",
    "fpn_strides": [32, 16, 8],
    "grid_cell_offset": 0.5,
    "reg_max": 16,
    "reg_range": None,
    "attn_conv": "convbn",
    "num_classes": 80,
    "trt": False,
}
_HEAD_CHECKS: dict[str, Check] = {
    "act": activation,
    "fpn_strides": numbers,
    "grid_cell_offset": _only(0.5, "boxes are measured from the middle of a cell"),
    "reg_max": count,
    "reg_range": _range,
    "attn_conv": _attention,
    "num_classes": count,
    "trt": flag,
}
_HEAD_HARMLESS = (
    "assigner",  # of the losses, as everything down to use_varifocal_loss
    "for_distill",
    "grid_cell_scale",
    "loss_weight",
    "static_assigner",
    "static_assigner_epoch",
    "use_shared_conv",
    "use_varifocal_loss",
    "eval_size",
    "exclude_nms",  # of PaddleDetection's export; here --head says it
    "exclude_post_process",
    "name",
    "nms",  # read on its own
)
_NECK_SHARED = ("width_mult", "depth_mult", "trt")  # may stand at the top, for all modules
_HEAD_SHARED = ("num_classes", "trt")


def detector_of(document: Document, backbone: Configuration) -> Configuration:
    """Return the PP-YOLOE that a configuration describes around its ``backbone``.

    Raises:
        ConfigurationError: it is another detector, or says what is not understood.
    """
    neck, head = _parts(document)
    used = _used(document, _NECK, neck, _NECK_DEFAULTS, _NECK_CHECKS, _NECK_HARMLESS, _NECK_SHARED)
    last = _used(document, _HEAD, head, _HEAD_DEFAULTS, _HEAD_CHECKS, _HEAD_HARMLESS, _HEAD_SHARED)
    _check_levels(document, backbone, used, last)
    images = images_of(document, backbone.input_size)
    return replace(
        backbone,
        network=NETWORK,
        told={**backbone.told, **_told(used, last)},
        settings={
            key: _one(document, key, (backbone.settings[key], used[key], last[key]))
            for key in ("act", "trt")
        },
        classes=last["num_classes"],
        input_size=images.size,
        backbone=backbone,
        selection=selection_of(document, head.get("nms", "MultiClassNMS")),
        preprocessing=images.preprocessing,
        fold_normalize=images.fold_normalize,
        remarks=images.remarks,
    )


def _told(neck: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint tells as well, multipliers applied."""
    first, end = head["reg_range"] or (0, head["reg_max"] + 1)
    return {
        "neck_channels": scaled(neck["out_channels"], neck["width_mult"]),
        "neck_blocks": scaled([neck["block_num"]], neck["depth_mult"])[0],
        "neck_stages": neck["stage_num"],
        "neck_alpha": neck["use_alpha"],
        "spp": neck["spp"],
        "attn_conv": head["attn_conv"],
        "num_classes": head["num_classes"],
        "bins": end - first,
        "first_bin": first,
    }


def _parts(document: Document) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the neck and of the head, if they are those that are known."""
    architecture = document.values["architecture"]
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise refusal(document, f"the architecture {architecture}; known: {known}")
    named = {**_ARCHITECTURES[architecture], **document.values[architecture]}
    parts = _part(document, named["neck"], _NECK), _part(document, named["yolo_head"], _HEAD)
    for key in named:
        if key not in (*_PARTS, *_HARMLESS) and named[key] not in (None, False):
            raise refusal(
                document,
                f"'{key}: {named[key]}' in the section {architecture}",
                why="it may change what the detector gives",
                hint=f"known are {', '.join((*_PARTS, *_HARMLESS))}",
            )
    return parts


def _part(document: Document, named: Any, known: str) -> dict[str, Any]:
    """Return the settings of a neck or head that must be the one that is ``known``."""
    return module_of(
        document,
        named,
        known,
        "{} after the backbone",
        why="the detector as a whole is not in the zoo; its backbone is",
        hint="--prefix backbone takes the backbone; --model package.module:factory runs a "
        "network of your own",
    )


def _used(
    document: Document,
    name: str,
    written: Mapping[str, Any],
    defaults: Mapping[str, Any],
    checks: Mapping[str, Check],
    harmless: tuple[str, ...],
    shared: tuple[str, ...],
) -> dict[str, Any]:
    """Return the settings of a section: its own, else those at the top, else the defaults."""
    values = document.values
    top = {key: values[key] for key in shared if values.get(key) is not None}
    own = {key: value for key, value in written.items() if key not in harmless}
    return checked(document, name, own, {**defaults, **top}, checks)


def _check_levels(
    document: Document, backbone: Configuration, neck: Mapping[str, Any], head: Mapping[str, Any]
) -> None:
    """Refuse levels that are not the last stages of the backbone, each with its own stride."""
    stages, levels = len(backbone.told["layers"]), len(neck["out_channels"])
    read = backbone.settings["return_idx"]
    if read != list(range(stages - levels, stages)):
        raise refusal(
            document,
            f"return_idx {read} of {stages} stages, and {levels} out_channels of the neck",
            why="the neck reads the last stages of the backbone, one for each of its outputs",
        )
    strides = [4 * 2**stage for stage in reversed(read)]
    if head["fpn_strides"] != strides:
        raise refusal(
            document,
            f"fpn_strides {head['fpn_strides']}; needed: {strides}, those of the stages {read}",
            why="boxes are measured in strides",
        )


def _one(document: Document, key: str, values: tuple[Any, ...]) -> Any:
    """Return what backbone, neck and head all say."""
    same = {"swish" if value == "silu" else value for value in values}
    if len(same) > 1:
        said = ", ".join(
            f"{value} in the {part}"
            for part, value in zip(("backbone", "neck", "head"), values, strict=True)
        )
        raise ConfigurationError(
            f"the configuration '{document.path}' is not understood",
            found=f"'{key}' is {said}",
            why="a PP-YOLOE of the zoo has one for all of its parts",
        )
    return values[0]
