"""Networks recorded from paddleclas and paddledet, as checkpoints to export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reparam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recorded:
    """A train-time state dict, an input, and what the peer computed in float64 and float32."""

    state: Arrays
    input: np.ndarray
    truth: list[np.ndarray]
    reference: list[np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        return self.input.shape[2:]


def recorded(case: str) -> Recorded:
    with np.load(GOLDEN / f"{case}.npz") as entries:
        state = {
            key.removeprefix("state/"): entries[key] for key in entries if key.startswith("state/")
        }
        outputs = sum(key.startswith("output/") for key in entries)
        return Recorded(
            state,
            entries["input"],
            [entries[f"output/{i}"] for i in range(outputs)],
            [entries[f"output32/{i}"] for i in range(outputs)],
        )


def checkpoint(folder: Path, state: Arrays, name: str = "net.pdparams") -> Checkpoint:
    """Save a state dict and load it again."""
    path = folder / name
    save_checkpoint(path, state, force=True)
    return load_checkpoint(path)
