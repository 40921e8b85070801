"""What a detector's maps mean: boxes, scores, and which of them are one object. NumPy only."""

from reparam.detection.certifying import certify
from reparam.detection.decoding import decode
from reparam.detection.records import DECODED, HEADS, NMS, RAW, Maps, Preprocessing, Selection
from reparam.detection.selecting import Detections, select

__all__ = [
    "DECODED",
    "HEADS",
    "NMS",
    "RAW",
    "Detections",
    "Maps",
    "Preprocessing",
    "Selection",
    "certify",
    "decode",
    "select",
]
