"""Opening checkpoints that were named by a user, and the names that they have."""

from __future__ import annotations

import mmap
from pathlib import Path

from reparam import inputs
from reparam.errors import CheckpointError

TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".pth.tar", ".pt.tar", ".bin")
ENDINGS = (".pdparams", ".pdema", ".safetensors", *TORCH_ENDINGS)  # of checkpoints


def check_input(path: Path) -> None:
    """Refuse what is no file that can be read, before anything else is done.

    Raises:
        CheckpointError: a URL, a folder, a pipe or a device; missing, or not readable.
    """
    inputs.check(path, CheckpointError, ENDINGS)


def mapped(path: Path) -> mmap.mmap:
    """Return the contents of a file, mapped into memory.

    Raises:
        CheckpointError: as :func:`check_input`, or the file is empty.
    """
    return inputs.mapped(path, CheckpointError, ENDINGS)
