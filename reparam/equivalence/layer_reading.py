"""A checkpoint in deploy form, read as what it stands for and not as wrong code would run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reparam.adapters.foreign_import import build_foreign
from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.foreign_parts import is_inside, shapes_of
from reparam.adapters.foreign_running import randomise
from reparam.adapters.paddle_models import load_arrays, state_of
from reparam.equivalence.layer_proving import Proved, prove
from reparam.equivalence.probes import probes

_SEED = 20260101


def layer_as_meant(
    arrays: Mapping[str, np.ndarray[Any, Any]], model: ForeignModel, size: tuple[int, int]
) -> tuple[Any, tuple[str, ...]]:
    """Return the user's Layer with a checkpoint loaded, and what there is to say of its blocks.

    A block that the checkpoint has in deploy form runs the user's own code for that form. Whether
    this is what the train-time form was is found out on a network with random weights; where it
    is not, the block is one that is: what it was, with the convolution in place of its branches.

    Args:
        arrays: in any form.
        model: which network.
        size: (H, W) of an image that it runs on.

    Raises:
        UnsupportedModelError, CheckpointError, NotFusibleError: as ``model.layer_of``.
    """
    layer = model.layer_of(arrays)
    fresh = build_foreign(model.spec, model.arguments)
    before, after = shapes_of(fresh), shapes_of(layer)
    if before.keys() == after.keys():
        return layer, ()
    randomise(fresh, _SEED)
    fed = model.fed(fresh, size)
    x: np.ndarray[Any, Any] = probes(fed.channels, size)["normal"].astype(np.float32)
    proved = prove(fed, x)
    if proved.conversion.arrays.keys() != after.keys():
        kept = [p for p in block_paths(fresh) if _under(before, p) == _under(after, p)]
        proved = prove(fed, x, kept)
    notices = tuple(_notices(proved))
    meant = proved.conversion.layer
    broken = any(not done.runs for done in proved.conversion.converted)
    if not broken or proved.conversion.arrays.keys() != after.keys():
        return layer, notices
    loaded = state_of(layer)
    load_arrays(meant, {key: loaded[key] for key in meant.state_dict()})
    return meant, notices


def _notices(proved: Proved) -> list[str]:
    """Say which methods are wrong, as far as it concerns a checkpoint in deploy form."""
    converted = proved.conversion.converted
    broken = [done for done in converted if not done.runs]
    notices = []
    if broken:
        more = f" ({len(broken)} blocks like it)" if len(broken) > 1 else ""
        notices.append(
            f"'{broken[0].where}'{more}: {broken[0].problem}; so it is not run by the deploy form "
            f"of {broken[0].kind}, but as it was, with the convolution in place of its branches"
        )
    wrong = [(done.kind, done.method) for done in converted if done.problem and done.runs]
    wrong += [(one.trial.kind, one.trial.method) for one in proved.wrong]
    for kind, method in dict.fromkeys(wrong):
        notices.append(
            f"{method}() of {kind} is wrong: weights in deploy form that were made by it are those "
            "of another function, which they do not tell"
        )
    return notices


def _under(shapes: Mapping[str, Any], path: str) -> set[str]:
    return {key for key in shapes if is_inside(key, [path])}
