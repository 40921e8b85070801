"""Between protobuf and onnx-ir: errors of ours in place of its own, and none of its log.

What it would warn of is either refused before, or no reason to bother a user.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.errors import GraphError

if TYPE_CHECKING:
    import onnx_ir as ir

_INTERFACE = ("input", "output")
_DECLARED, _HIDDEN = "reparam.declared", "reparam.hidden"  # in the notes of a model


@dataclass(frozen=True)
class _Declared:
    """What a file says of an input or output, and what onnx-ir made of it."""

    proto: Any
    type: ir.TypeProtocol | None
    shape: ir.Shape | None

    def is_of(self, value: ir.Value) -> bool:
        """Whether a value is still what was declared."""
        same_type = value.type is self.type or value.type == self.type
        return same_type and value.shape == self.shape and value.name == self.proto.name


def deserialized(proto: Any) -> ir.Model:
    """Return the ``ir.Model`` that an ``onnx.ModelProto`` describes; it refers to the other.

    Types of the main graph's values that onnx-ir does not know, of maps for one, are taken out of
    ``proto``; :func:`serialized` puts them back.

    Raises:
        GraphError: onnx-ir cannot represent it.
    """
    serde = import_onnx_ir().serde  # before the log is quiet: this sets its level
    interface = {kind: [_copy(v) for v in getattr(proto.graph, kind)] for kind in _INTERFACE}
    hidden = [_copy(value) for value in proto.graph.value_info if _has_map(value.type)]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if _has_map(value.type):
            value.ClearField("type")
    with uncollected(), _told("it has parts that cannot be represented", serde.SerdeError):
        model: ir.Model = serde.deserialize_model(proto)
    for value, declared in zip(model.graph.inputs, interface["input"], strict=True):
        # one that is an output too has the type that it was declared with there
        value.type, value.shape = type_and_shape(declared.type)
    model.meta[_HIDDEN] = hidden
    model.meta[_DECLARED] = {
        kind: [
            _Declared(declared, value.type, None if value.shape is None else value.shape.copy())
            for value, declared in zip(values, interface[kind], strict=True)
        ]
        for kind, values in zip(_INTERFACE, (model.graph.inputs, model.graph.outputs), strict=True)
    }
    return model


def serialized(model: ir.Model) -> Any:
    """Return the ``onnx.ModelProto`` of an ``ir.Model``.

    Inputs and outputs that are as they were read are declared by the same words: one value may be
    given out twice, under two shapes.

    Raises:
        GraphError: onnx-ir cannot write it.
    """
    serde = import_onnx_ir().serde
    with _told("the model cannot be written", serde.SerdeError):
        proto = serde.serialize_model(model)
    declared: dict[str, list[_Declared]] = model.meta.get(_DECLARED, {})
    for kind, values in zip(_INTERFACE, (model.graph.inputs, model.graph.outputs), strict=True):
        written = getattr(proto.graph, kind)
        # weights may have become inputs, behind the others
        for at, (value, known) in enumerate(zip(values, declared.get(kind, ()), strict=False)):
            if known.is_of(value):
                written[at].CopyFrom(known.proto)
    hidden = {value.name: value for value in model.meta.get(_HIDDEN, ())}
    proto.graph.value_info.extend(
        hidden[name] for node in proto.graph.node for name in node.output if name in hidden
    )
    return proto


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def type_and_shape(found: Any) -> tuple[ir.TypeProtocol | None, ir.Shape | None]:
    """Return what an ``onnx.TypeProto`` says, None for what it does not, or onnx-ir has not."""
    if found is None or _has_map(found):
        return None, None
    serde = import_onnx_ir().serde
    return serde.deserialize_type_proto_for_type(found), serde.deserialize_type_proto_for_shape(
        found
    )


def _has_map(found: Any) -> bool:
    kind = found.WhichOneof("value")
    while kind in ("sequence_type", "optional_type"):
        found = getattr(found, kind).elem_type
        kind = found.WhichOneof("value")
    return kind not in (None, "tensor_type", "sparse_tensor_type")


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: many objects are made, all of them stay, and looking at them
    again and again takes an eighth of the time of a large graph."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _told(what: str, refusal: type[Exception]) -> Iterator[None]:
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except refusal as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        found = str(cause).strip().splitlines() or [type(cause).__name__]
        raise GraphError(what, found=found[0]) from error
    finally:
        log.setLevel(level)
