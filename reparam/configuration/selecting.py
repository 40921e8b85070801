"""Which boxes a configuration of PaddleDetection keeps: its section of MultiClassNMS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reparam.configuration.reading import Opaque
from reparam.configuration.records import Document
from reparam.configuration.values import bad, checked, count, refusal, section, share
from reparam.detection import Selection

_KNOWN = "MultiClassNMS"
_HARMLESS = ("cpu", "name", "return_index", "return_rois_num", "trt")


def _candidates(document: Document, key: str, value: Any) -> int | None:
    return None if value == -1 and not isinstance(value, bool) else count(document, key, value)


def _normalized(document: Document, key: str, value: Any) -> bool:
    if value is True:
        return True
    raise bad(document, key, value, "true: boxes are not one pixel wider than their corners say")


def _eta(document: Document, key: str, value: Any) -> float:
    if value == 1 and not isinstance(value, bool):
        return 1.0
    raise bad(document, key, value, "1.0: the threshold is the same for every box")


# PaddleDetection's own (2.6, ppdet/modeling/layers.py).
_DEFAULTS = {
    "score_threshold": 0.05,
    "nms_threshold": 0.5,
    "keep_top_k": 100,
    "nms_top_k": -1,
    "normalized": True,
    "nms_eta": 1.0,
}
_CHECKS = {
    "score_threshold": share,
    "nms_threshold": share,
    "keep_top_k": count,
    "nms_top_k": _candidates,
    "normalized": _normalized,
    "nms_eta": _eta,
}


def selection_of(document: Document, named: Any) -> Selection:
    """Return how boxes become detections.

    Args:
        named: what the head says of it: a name, or names and values.

    Raises:
        ConfigurationError: it is another method, or a setting is not understood.
    """
    inline = dict(named) if isinstance(named, Mapping) else {"name": named}
    name = named.tag if isinstance(named, Opaque) else inline.get("name")
    if name != _KNOWN:
        raise refusal(
            document,
            f"boxes are selected by {name}; known: {_KNOWN}",
            why="another method keeps other boxes",
        )
    written = section(document.values, _KNOWN)
    own = {**(written if isinstance(written, Mapping) else {}), **inline}
    own = {key: value for key, value in own.items() if key not in _HARMLESS}
    used = checked(document, _KNOWN, own, _DEFAULTS, _CHECKS)
    return Selection(
        score_threshold=used["score_threshold"],
        iou_threshold=used["nms_threshold"],
        top_k=used["keep_top_k"],
        candidates=used["nms_top_k"],
    )
