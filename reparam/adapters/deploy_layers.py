"""The paddle Layer of a checkpoint, brought to deploy form whatever form it is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reparam.adapters.checkpoint_layers import architecture_of, as_layers_name_them, layer_of
from reparam.adapters.paddle_models import (
    Array,
    as_float32,
    in_float64,
    refuse_keys,
    state_of,
)
from reparam.checkpoint import FusionReport, fuse_arrays

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def recognised_in(arrays: Mapping[str, Array]) -> Any:
    """Return the architecture of a whole network's arrays, every key of them accounted for.

    Raises:
        UnsupportedModelError: no architecture that this package knows has such arrays.
        CheckpointError: keys are missing, unexpected or of the wrong shape, or a dtype is not one
            that a network is run in.
    """
    found = architecture_of(arrays)
    wrong = [f"{name} is {old}, needs {new}" for name, old, new in found.mismatched]
    refuse_keys("missing", found.missing, found.name)
    refuse_keys("of the wrong shape", wrong, found.name)
    refuse_keys("unexpected", found.unexpected, found.name)
    used = as_layers_name_them(arrays)
    odd = [f"{name} is {a.dtype.name}" for name, a in used.items() if a.dtype.name not in _FLOATS]
    refuse_keys("of a dtype that does not run on a CPU", odd, found.name)
    return found


def deploy_layer_of(
    arrays: Mapping[str, Array], overrides: Mapping[str, Any] | None = None
) -> tuple[Any, FusionReport]:
    """Return the float32 Layer in deploy form, no BatchNorm left in it, and what was fused.

    Half-fused arrays are finished. Arrays that lie beside the branches of a block as if it were
    fused are replaced: the branches decide.

    Raises:
        UnsupportedModelError: as :func:`recognised_in`, or the settings do not describe a network.
        CheckpointError: as :func:`recognised_in`, or a block cannot be fused.
    """
    recognised_in(arrays)
    arrays = as_float32(as_layers_name_them(arrays))
    fused, report = fuse_arrays(arrays, epsilon=(overrides or {}).get("epsilon"))
    layer = layer_of(fused, overrides or {})
    for part in layer.sublayers():
        if hasattr(part, "fold_batch_norm"):
            part.fold_batch_norm()
    return layer, report


def deploy_state_in_float64(layer: Any) -> Mapping[str, Array]:
    """Return the state dict of the deploy form of a Layer, fused and folded without rounding.

    Args:
        layer: as :func:`reparam.adapters.checkpoint_layers.layer_of` builds it; not changed.
    """
    wide = in_float64(layer)
    for method in ("convert_to_deploy", "fold_batch_norm"):  # rounded twice the other way round
        for part in wide.sublayers():
            if hasattr(part, method):
                getattr(part, method)()
    return state_of(wide)
