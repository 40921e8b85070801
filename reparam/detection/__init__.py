"""What a detector's maps mean: boxes, scores, and which of them are one object. NumPy only."""

from reparam.detection.records import DECODED, HEADS, NMS, RAW, Maps, Preprocessing, Selection

__all__ = ["DECODED", "HEADS", "NMS", "RAW", "Maps", "Preprocessing", "Selection"]
