"""A Layer of the user's own with the weights of a checkpoint, loaded strictly, in either form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.adapters.foreign_converting import convert
from reparam.adapters.foreign_fusing import Form
from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_parts import is_inside, shapes_of
from reparam.adapters.foreign_trials import Chosen, Judge, Trial, believe
from reparam.adapters.paddle_models import import_paddle, load_arrays

_COLOURS = 3

Shapes = Mapping[str, tuple[int, ...]]


def load_in_its_form(layer: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """Return ``layer``, or a copy of it, with ``arrays`` loaded, each block in the form they have.

    A block whose keys are not those of the arrays is converted first: a checkpoint may be in
    train-time form, in deploy form, or half-fused.

    Raises:
        CheckpointError: a name, a shape or a dtype is not that of the Layer in either form; the
            message speaks of the train-time form if the arrays have anything of it.
        NotFusibleError: a method raised.
    """
    found = {name: array.shape for name, array in arrays.items()}
    plain = shapes_of(layer)
    if plain.keys() != found.keys():
        judge = _judge_of(found)
        fitted = convert(layer, new_judge=lambda: judge).layer
        if shapes_of(fitted).keys() != found.keys():
            kept = [path for path in block_paths(layer) if _fits(plain, found, path)]
            fitted = convert(layer, kept, lambda: judge).layer
        needed = shapes_of(fitted)
        branches = plain.keys() - needed.keys()
        if needed.keys() == found.keys() or not branches & found.keys():
            layer = fitted
    load_arrays(layer, arrays)
    return layer


def input_channels(layer: Any) -> list[int]:
    """Return what the image may have for channels, likeliest first: I of some convolution.

    Layers are in the order in which they were made, which need not be that in which they run.
    """
    kind = import_paddle().nn.Conv2D
    convs = (part for part in layer.sublayers(include_self=True) if isinstance(part, kind))
    found = list(dict.fromkeys(int(conv._in_channels) for conv in convs))
    return sorted(found, key=lambda channels: channels != _COLOURS)


def _judge_of(found: Shapes) -> Judge:
    """Return a judge that takes what has the names of the arrays, where there is a choice."""

    def judge(trial: Trial) -> Chosen:
        prefix = f"{trial.path}." if trial.path else ""
        for made in trial.made:
            if {f"{prefix}{key}" for key in made.state_dict()} <= found.keys():
                return Chosen(Form(made))
        return believe(trial)

    return judge


def _fits(needed: Shapes, found: Shapes, path: str) -> bool:
    return {key for key in needed if is_inside(key, [path])} == {
        key for key in found if is_inside(key, [path])
    }
