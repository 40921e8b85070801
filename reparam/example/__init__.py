"""Two small trained networks and real images for them, packaged for the demonstration.

Provenance and licences are in README.md beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FOLDER = Path(__file__).parent
_CHECKPOINTS = {"cspresnet": "fashion_cspresnet.pdparams", "repvgg": "fashion_repvgg.pdparams"}
_IMAGES = "fashion_test_1000.npz"

# Of all pixels of the 60,000 training images, as a share of 255.
MEAN, STD = 0.2860, 0.3530
_BORDER = 2  # 28 x 28 to 32 x 32, which five halvings divide evenly

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def example_checkpoints() -> dict[str, Path]:
    """Return the checkpoint of each network, in train-time form, by family name."""
    return {family: _FOLDER / name for family, name in _CHECKPOINTS.items()}


def example_images() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the first 1,000 test images of Fashion-MNIST, ready for the networks, and labels.

    Returns:
        Images float32 (1000, 1, 32, 32) as :func:`normalise` makes them, and labels int64 (1000,),
        which index :data:`CLASSES`.
    """
    with np.load(_FOLDER / _IMAGES) as stored:
        return normalise(stored["images"]), stored["labels"].astype(np.int64)


def normalise(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return uint8 images (N, 28, 28) as float32 (N, 1, 32, 32): black border, mean 0, deviation 1.

    The same steps were used in training.
    """
    border = ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER))
    pixels = np.pad(images, border).astype(np.float32) / np.float32(255)
    scaled: npt.NDArray[np.float32] = (pixels - np.float32(MEAN)) / np.float32(STD)
    return scaled[:, None]
