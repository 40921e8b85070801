"""onnxruntime on the CPU: opening a model and running it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.errors import ExportError, MissingDependencyError

Array = npt.NDArray[Any]

PROVIDER = "CPUExecutionProvider"
_REFUSALS = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)


def import_onnxruntime() -> Any:
    """Return the ``onnxruntime`` module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnxruntime":
            raise
        raise MissingDependencyError.of("onnxruntime", "running an ONNX file", "export") from error
    return onnxruntime


def open_session(model: str | Path | bytes, threads: int = 1) -> Any:
    """Return an onnxruntime session on the CPU, with all of the runtime's own optimisations.

    Its threads do not spin while they wait: two sessions in one process would steal each other's
    cores.

    Args:
        model: a path, or the bytes of the file.
        threads: in one operator; operators run one after the other.

    Raises:
        ExportError: onnxruntime refuses the model, or runs it elsewhere than asked.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[PROVIDER])
    except runtime_errors() as error:
        raise ExportError(
            "onnxruntime cannot load the model", found=str(error).splitlines()[0]
        ) from error
    if session.get_providers() != [PROVIDER]:
        raise ExportError(
            "onnxruntime does not run the model where it was asked to",
            found=f"execution providers {session.get_providers()}; needed {PROVIDER}",
        )
    return session


def run_onnx(session: Any, x: Array) -> list[Array]:
    """Return the outputs of a model with one input, in the file's order.

    Raises:
        ExportError: the input does not fit the model, or an operator failed on it.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ExportError(
            "the model does not take one image",
            found=f"inputs {', '.join(repr(i.name) for i in inputs)}",
        )
    try:
        found = session.run(None, {inputs[0].name: x})
    except runtime_errors() as error:
        raise ExportError(
            f"onnxruntime cannot run the model on an input of shape {x.shape}",
            found=str(error).splitlines()[0],
        ) from error
    return [np.asarray(value) for value in found]


def run_all(session: Any, feeds: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of a model with any inputs, in the file's order.

    Args:
        feeds: arrays by the names of the inputs.

    Raises:
        ExportError: an input is missing or does not fit, an operator failed, or an output is no
            tensor.
    """
    try:
        found = session.run(None, dict(feeds))
    except _unfit_errors() as error:
        shapes = ", ".join(f"'{name}' {array.shape}" for name, array in feeds.items())
        raise ExportError(
            f"onnxruntime cannot run the model on {shapes}", found=str(error).splitlines()[0]
        ) from error
    if not all(isinstance(value, np.ndarray | np.generic) for value in found):
        raise ExportError("onnxruntime made an output that is no tensor")
    bits = next((value for value in session.get_outputs() if "(float8" in value.type), None)
    if bits is not None:  # what its binding hands over are the bits, as numbers of uint8
        raise ExportError("onnxruntime made an output that NumPy has no dtype for", found=bits.type)
    return [np.asarray(value) for value in found]


def fixed_size(session: Any) -> tuple[int, int] | None:
    """Return the (H, W) that a model's image must have, None where it takes any."""
    shape = session.get_inputs()[0].shape
    height, width = shape[-2:] if len(shape) == 4 else (None, None)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _unfit_errors() -> tuple[type[Exception], ...]:
    # a RuntimeError is how its binding refuses the dtypes that NumPy lacks: bfloat16, float8, int4
    return (*runtime_errors(), ValueError, RuntimeError)


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions with which onnxruntime refuses a model or an input."""
    import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(getattr(state, name) for name in _REFUSALS)
