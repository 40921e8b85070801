"""What an ONNX file must pass before it is handed over."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reparam.adapters.onnx_model import import_onnx, parse_model
from reparam.adapters.onnx_runtime import open_session
from reparam.errors import ExportError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def check_model(model: bytes | Path) -> None:
    """Refuse a model that breaks the ONNX specification, types and shapes included.

    Args:
        model: the bytes of the file, or its path, where weights may be in a file beside it.

    Raises:
        ExportError: with the checker's first line.
    """
    onnx = import_onnx()
    if isinstance(model, bytes):
        parse_model(model)
    source = model if isinstance(model, bytes) else str(model)
    try:
        onnx.checker.check_model(source, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            "the ONNX model is not valid", found=str(error).strip().splitlines()[0]
        ) from error


def load_strictly(model: bytes | Path, threads: int = 1) -> Any:
    """Return an onnxruntime session for a model that loads without one warning.

    Raises:
        ExportError: onnxruntime refuses the model, or loads it and warns.
    """
    session, warnings = load_listening(model, threads)
    if warnings:
        raise ExportError(
            "onnxruntime warns about the model",
            found=warnings[0] + (f" (and {len(warnings) - 1} more)" if warnings[1:] else ""),
        )
    return session


def load_listening(model: bytes | Path, threads: int = 1) -> tuple[Any, list[str]]:
    """Return an onnxruntime session, and the lines that onnxruntime wrote as it loaded the model.

    Raises:
        ExportError: onnxruntime refuses the model.
    """
    open_session(_smallest_model())  # warnings about this machine come with the first session
    with captured_stderr() as lines:
        session = open_session(model, threads)
    return session, [_COLOUR.sub("", line) for line in lines if "onnxruntime:" in line]


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Yield a list that holds, after the block, the lines written to file descriptor 2 in it.

    C++ libraries write there, past ``sys.stderr``. For one thread at a time.
    """
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            stream.seek(0)
            lines += stream.read().decode(errors="replace").splitlines()


def _smallest_model() -> bytes:
    onnx = import_onnx()
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "smallest",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())
