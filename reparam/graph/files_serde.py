"""Between protobuf and onnx-ir: errors of ours in place of its own, and none of its log.

What it would warn of is either refused before, or no reason to bother a user.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reparam.adapters.onnx_cleaning import import_onnx_ir
from reparam.errors import GraphError

if TYPE_CHECKING:
    import onnx_ir as ir


def deserialized(proto: Any) -> ir.Model:
    """Return the ``ir.Model`` that an ``onnx.ModelProto`` describes; it refers to the other.

    Raises:
        GraphError: onnx-ir cannot represent it.
    """
    serde = import_onnx_ir().serde  # before the log is quiet: this sets its level
    with _told("it has parts that cannot be represented", serde.SerdeError):
        model: ir.Model = serde.deserialize_model(proto)
    return model


def serialized(model: ir.Model) -> Any:
    """Return the ``onnx.ModelProto`` of an ``ir.Model``.

    Raises:
        GraphError: onnx-ir cannot write it.
    """
    serde = import_onnx_ir().serde
    with _told("the model cannot be written", serde.SerdeError):
        return serde.serialize_model(model)


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
