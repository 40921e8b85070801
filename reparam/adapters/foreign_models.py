"""A network of the user's own, as asked for: which code, with which arguments, on what images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reparam.adapters.foreign_import import build_foreign
from reparam.adapters.foreign_layers import input_channels, load_in_its_form
from reparam.adapters.foreign_running import Fed, feed
from reparam.adapters.paddle_models import as_float32
from reparam.errors import UnsupportedModelError

_TRIED = 4  # numbers of channels, before giving up


@dataclass(frozen=True)
class ForeignModel:
    """Which code builds the network, and how.

    Args:
        spec: ``package.module:factory``.
        arguments: keyword arguments of the factory.
        input_channels: of the image; those of a convolution that takes it where None.
    """

    spec: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_channels: int | None = None

    def layer_of(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        """Return the Layer with ``arrays`` loaded strictly, each block in the form they have.

        Raises:
            UnsupportedModelError: the code cannot be imported, or builds no Layer.
            CheckpointError: a name, a shape or a dtype is not that of the Layer.
            NotFusibleError: a block that has to be converted to take the arrays cannot be.
        """
        real = {key: array for key, array in arrays.items() if "float" in array.dtype.name}
        layer = build_foreign(self.spec, self.arguments)
        return load_in_its_form(layer, {**arrays, **as_float32(real)})

    def fed(self, layer: Any, size: tuple[int, int]) -> Fed:
        """Return the Layer, ready to be run on images of ``size`` (H, W).

        Raises:
            UnsupportedModelError: it does not run on them, or nothing tells their channels.
        """
        likely = [self.input_channels] if self.input_channels else input_channels(layer)
        problems: list[UnsupportedModelError] = []
        for channels in likely[:_TRIED]:
            try:
                return feed(layer, (1, channels, *size))
            except UnsupportedModelError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        raise UnsupportedModelError(
            f"what '{self.spec}' takes is not known",
            found="no convolution of images (Conv2D) in it",
            hint="--input-channels N, if it takes images",
        )
