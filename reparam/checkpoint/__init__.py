"""Checkpoint files, the blocks in them, and fusing from names and arrays alone."""

from reparam.checkpoint.files import Arrays, Checkpoint, load_checkpoint, save_checkpoint
from reparam.checkpoint.fusing import fuse_arrays
from reparam.checkpoint.report import FusedBlock, FusionReport, Left

__all__ = [
    "Arrays",
    "Checkpoint",
    "FusedBlock",
    "FusionReport",
    "Left",
    "fuse_arrays",
    "load_checkpoint",
    "save_checkpoint",
]
