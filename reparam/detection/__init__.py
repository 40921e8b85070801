"""What a detector's maps mean: boxes, scores, and which of them are one object. NumPy only."""

from reparam.detection.records import Maps, Preprocessing, Selection

__all__ = ["Maps", "Preprocessing", "Selection"]
