"""Loading what is compared with an original."""

from __future__ import annotations

from pathlib import Path

from reparam.checkpoint import Checkpoint, load_checkpoint
from reparam.errors import PartError


def candidate_of(path: str | Path, prefix: str | None) -> Checkpoint:
    """Load what is compared: a deploy form has lost the prefix that its source is chosen by."""
    try:
        return load_checkpoint(path, prefix=prefix)
    except PartError:
        return load_checkpoint(path)
