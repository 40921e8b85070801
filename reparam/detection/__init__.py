"""What a detector's maps mean: boxes, scores, and which of them are one object. NumPy only."""

from reparam.detection.certifying import certify
from reparam.detection.decoding import decode
from reparam.detection.records import Maps, Preprocessing, Selection
from reparam.detection.selecting import Detections, select

__all__ = ["Detections", "Maps", "Preprocessing", "Selection", "certify", "decode", "select"]
