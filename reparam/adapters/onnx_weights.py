"""A model whose heavy weights are kept apart from it, as inputs, and one in memory that has them.

apart:      ModelProto, inputs "x", "w"       weights {"w": array}
together:   ir.Model, input "x", initializer "w"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reparam.adapters.light_program import LIGHT
from reparam.adapters.onnx_cleaning import import_onnx_ir

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]


def with_weights(proto: Any, weights: Mapping[str, Array]) -> ir.Model:
    """Return a model with its weights in the places of the inputs of their names.

    Args:
        proto: an ``onnx.ModelProto``; it is not changed.
        weights: by name; they are not copied.
    """
    onnx_ir: Any = import_onnx_ir()
    model: ir.Model = onnx_ir.serde.deserialize_model(proto)
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in weights]:
        graph.inputs.remove(value)
        name = str(value.name)
        value.const_value = onnx_ir.tensor(weights[name], name=name)
        graph.register_initializer(value)
    return model


def without_weights(
    model: ir.Model, as_it_came: Any, weights: Mapping[str, Array], light: int = LIGHT
) -> tuple[Any, dict[str, Array]]:
    """Return a model as an ``onnx.ModelProto`` whose heavy weights are inputs, and these weights.

    It says no more of the shapes inside than before: those that were inferred on the way are for
    the sizes of this file, and as many bytes as a small network has weights.

    Args:
        model: it is not of use afterwards.
        as_it_came: what :func:`with_weights` was given.
        weights: the same; they are taken out whatever their size.
        light: bytes of any other weight that stays.
    """
    graph = model.graph
    heavy: dict[str, Array] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and (name in weights or tensor.nbytes > light):
            heavy[name] = tensor.numpy()
            del graph.initializers[name]
            graph.inputs.append(value)
    proto = import_onnx_ir().serde.serialize_model(model)
    told = {value.name for value in as_it_came.graph.value_info}
    kept = [value for value in proto.graph.value_info if value.name in told]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    return proto, heavy


def initializers_of(model: ir.Model) -> dict[str, Array]:
    """Return the initializers of the main graph by name; they are not copied."""
    found = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            found[name] = np.asarray(value.const_value.numpy())
    return found
