"""What code that feeds and reads an exported file has to know, as data: the contract of the file.

It is in the metadata of every ONNX file, and for a detector in a small file beside it too, in the
form of the ``infer_cfg.yml`` that PaddleDetection writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reparam.adapters.head_model import OWN
from reparam.detection import NMS, Maps, Preprocessing, Selection
from reparam.exporter.contract_outputs import boxes_of, meanings_of
from reparam.exporter.report import Tensor
from reparam.normalization import Normalization

METADATA = "reparam.contract"
"""The key in an ONNX file."""

SCHEMA = "reparam.contract/1"
ENDING = ".infer_cfg.json"

_INTERPOLATIONS = ("nearest", "linear", "cubic", "area", "lanczos4")  # OpenCV's 0 to 4
_FORMULA = "x = (pixel * scale - mean) / std"


@dataclass(frozen=True)
class Described:
    """What is known of a file; the fields of a detector are None for another network.

    Attributes:
        architecture: as recognised, or whatever names the network.
        source_sha256: of the checkpoint.
        size: (H, W) of the image; where an axis is open, only a size that it was checked with.
        inputs: the image first.
        outputs: in order.
        normalization: what the file does to raw pixels; None if it takes normalised ones.
        preprocessing: what is done to an image in front of a detector, raw pixels or not.
        usual: what is done to raw pixels in front of another network, where that is known.
        assumed: no checkpoint and no configuration told it: it is what such networks are usually
            trained with.
        labels: classes of a classifier.
        maps: of a detector.
        head: form of its answer, one of :data:`reparam.detection.records.HEADS`.
        layout: of that answer, ``OWN`` or ``PADDLEDETECTION``.
        selection: how its boxes become detections, in the file or behind it.
        classes: names, in order.
    """

    architecture: str
    source_sha256: str
    size: tuple[int, int]
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    normalization: Normalization | None = None
    preprocessing: Preprocessing | None = None
    usual: Normalization | None = None
    assumed: bool = True
    labels: int | None = None
    maps: Maps | None = None
    head: str | None = None
    layout: str = OWN
    selection: Selection | None = None
    classes: Sequence[str] | None = None

    @property
    def has_infer_cfg(self) -> bool:
        """Whether there is enough to say in a file for PaddleDetection's programs.

        Not of what is no detector, nor where it is not known how its images are normalised and
        the file does not do it.
        """
        known = self.preprocessing is not None or self.normalization is not None
        return self.maps is not None and known

    @property
    def normalised(self) -> Normalization | None:
        """What is done to raw pixels in front of the network, in the file or not."""
        known = self.preprocessing
        if known is None:
            return None if self.maps is not None else self.usual
        return Normalization.of(known)


def contract(about: Described) -> dict[str, Any]:
    """Return what code in front of a file and behind it has to know, as values of JSON.

    What is not known is null. A text in a shape names an axis of any size.
    """
    number = about.maps.classes if about.maps is not None else about.labels
    names = None if about.classes is None else list(about.classes)
    return {
        "schema": SCHEMA,
        "architecture": about.architecture,
        "source_sha256": about.source_sha256,
        "inputs": _inputs(about),
        "outputs": _outputs(about),
        "boxes": boxes_of(about.maps, about.head, about.layout),
        "strides": None if about.maps is None else list(about.maps.strides),
        "classes": None if number is None else {"number": number, "first": 0, "names": names},
        "thresholds": _thresholds(about),
    }


def as_metadata(about: Described) -> dict[str, str]:
    """Return the entry in the metadata of an ONNX file."""
    return {METADATA: json.dumps(contract(about), separators=(",", ":"))}


def infer_cfg(about: Described) -> dict[str, Any] | None:
    """Return what PaddleDetection's programs read of a detector, and the contract in it.

    None where there is too little to say (:attr:`Described.has_infer_cfg`).

    Source: PaddleDetection ``ppdet/engine/export_utils.py`` and ``deploy/python/infer.py`` (keys
    and what is done with them).
    """
    if about.maps is None or not about.has_infer_cfg:
        return None
    numbers = map(str, range(about.maps.classes))
    return {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": "COCO",
        "use_dynamic_shape": any(isinstance(n, str) for n in about.inputs[0].shape[2:]),
        "arch": "YOLO",
        "min_subgraph_size": 3,
        "Preprocess": _steps(about),
        "label_list": list(about.classes if about.classes is not None else numbers),
        **({} if about.selection is None else {"NMS": _suppression(about.selection)}),
        "reparam": contract(about),
    }


def infer_cfg_of(output: Path) -> Path:
    """Return the file beside an ONNX file: ``model.infer_cfg.json`` for ``model.onnx``."""
    return output.with_name(f"{output.name.removesuffix('.onnx')}{ENDING}")


def infer_cfg_text(said: Mapping[str, Any]) -> str:
    """Return values as JSON that is YAML 1.1 too, with the same values.

    PyYAML takes ``1e-05`` for a text, and characters outside ASCII for those of the locale.
    """
    return f"{_text(said, '')}\n"


def _text(value: Any, indent: str) -> str:
    inner = f"{indent}  "
    if isinstance(value, Mapping) and value:
        rows = [f"{inner}{_text(str(k), '')}: {_text(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)):
        if not any(isinstance(one, Mapping) for one in value):
            return f"[{', '.join(_text(one, '') for one in value)}]"
        return "[\n" + ",\n".join(f"{inner}{_text(one, inner)}" for one in value) + f"\n{indent}]"
    if isinstance(value, float):
        whole, _, power = json.dumps(value, allow_nan=False).partition("e")
        return f"{whole if '.' in whole else f'{whole}.0'}{f'e{power}' if power else ''}"
    return json.dumps(value).replace("\x7f", "\\u007f")


def _inputs(about: Described) -> list[dict[str, Any]]:
    image, *others = about.inputs
    said = [{**_tensor(image), "meaning": "images", "layout": "NCHW", **_image(about)}]
    for tensor in others:
        said.append(
            {
                **_tensor(tensor),
                "meaning": "(N, 2): height and width of the input over those of the original image",
            }
        )
    return said


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {**asdict(tensor), "shape": list(tensor.shape)}


def _image(about: Described) -> dict[str, Any]:
    """Return what has to be done to an image; null stands for what is not known."""
    inside, known, resize = about.normalization, about.normalised, about.preprocessing
    turned = inside is not None and inside.bgr
    pixels: dict[str, Any] | None = None
    if inside is not None:
        pixels = {"raw": True, **_numbers(Normalization((0.0,), (1.0,)))}
    elif known is not None:
        pixels = {"raw": False, **_numbers(known)}
    coloured = known is not None and about.inputs[0].shape[1] == len("RGB")
    return {
        "channels": ("BGR" if turned else "RGB") if coloured else None,
        "pixels": pixels,
        "in_the_file": None if inside is None else {**_numbers(inside), "turns_channels": turned},
        "resize": None if resize is None else _resize(about, resize),
        "assumed": about.assumed and known is not None,
    }


def _numbers(wanted: Normalization) -> dict[str, Any]:
    numbers = {"scale": wanted.scale, "mean": list(wanted.mean), "std": list(wanted.std)}
    return {"formula": _FORMULA, **numbers}


def _resize(about: Described, known: Preprocessing) -> dict[str, Any]:
    named = 0 <= known.interpolation < len(_INTERPOLATIONS)
    return {
        "size": list(about.size),
        "keep_ratio": known.keep_ratio,
        "interpolation": _INTERPOLATIONS[known.interpolation] if named else None,
        "opencv": known.interpolation,
        "multiple_of": None if about.maps is None else max(about.maps.strides),
    }


def _outputs(about: Described) -> list[dict[str, Any]]:
    plain = [_tensor(tensor) for tensor in about.outputs]
    if about.maps is None:
        last = about.outputs[0].shape[-1:] if len(plain) == 1 else ()
        scores = about.labels is not None and last == (about.labels,)
        meaning = "(N, classes): class logits, before softmax" if scores else None
        return [{**tensor, "meaning": meaning} for tensor in plain]
    meanings = meanings_of(about.maps, about.head, about.layout)
    return [{**tensor, "meaning": what} for tensor, what in zip(plain, meanings, strict=True)]


def _thresholds(about: Described) -> dict[str, Any] | None:
    """Return how boxes become detections, and whether the file has done it."""
    if about.selection is None:
        return None
    return {**asdict(about.selection), "in_the_file": about.head == NMS}


def _suppression(selection: Selection) -> dict[str, Any]:
    return {
        "name": "MultiClassNMS",
        "score_threshold": selection.score_threshold,
        "nms_threshold": selection.iou_threshold,
        "keep_top_k": selection.top_k,
        "nms_top_k": -1 if selection.candidates is None else selection.candidates,
    }


def _steps(about: Described) -> list[dict[str, Any]]:
    """Return the steps from a decoded RGB image to the input, as PaddleDetection names them."""
    known, inside = about.preprocessing or Preprocessing(), about.normalization
    steps: list[dict[str, Any]] = [
        {
            "type": "Resize",
            "target_size": list(about.size),
            "keep_ratio": known.keep_ratio,
            "interp": known.interpolation,
        }
    ]
    done = known if inside is None else Preprocessing(scale=False)
    plain = not any(done.mean) and set(done.std) == {1.0}
    steps.append(  # of raw pixels, too: it is what makes floats of them
        {
            "type": "NormalizeImage",
            "mean": list(done.mean),
            "std": list(done.std),
            "is_scale": done.scale,
            "norm_type": "none" if plain else "mean_std",
        }
    )
    if (
        inside is not None and inside.bgr
    ):  # PaddleDetection has no such step: better that it stops than RGB fed as BGR
        steps.append({"type": "RGBToBGR"})
    return [*steps, {"type": "Permute"}]
