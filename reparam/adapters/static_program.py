"""Layers as static Paddle programs on disk."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reparam.adapters.paddle_models import import_paddle
from reparam.errors import ExportError


def save_static(
    layer: Any,
    input_name: str,
    shape: Sequence[int | None],
    folder: Path,
    *,
    straight: bool = False,
) -> tuple[Path, Path]:
    """Trace a Layer in evaluation mode; return its program (``model.json``) and parameters.

    Parameters have their keys in the state dict as names, whatever Paddle called them.

    Args:
        layer: takes one float32 tensor.
        input_name: of that tensor, in the program and in every file made from it.
        shape: of that tensor; None where any size is taken.
        folder: exists; the two files are written into it.
        straight: no branch or loop of the Layer depends on a tensor, so that running it once shows
            everything; Paddle rewrites its Python code otherwise, which takes four times as long.

    Raises:
        ExportError: the Layer cannot be traced, or it wrote no program or no parameters.
    """
    paddle = import_paddle()
    layer.eval()
    spec = paddle.static.InputSpec(list(shape), "float32", input_name)
    traced = _as_written(layer) if straight else layer
    noise = io.StringIO()
    try:
        with _named_by_keys(layer), contextlib.redirect_stdout(noise), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paddle.jit.save(traced, str(folder / "model"), input_spec=[spec])
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ExportError(
            f"cannot trace {type(layer).__name__} into a static program",
            found=_gist(error),
            why=f"with an input '{input_name}' of shape {tuple(shape)}",
        ) from error
    program, parameters = folder / "model.json", folder / "model.pdiparams"
    for path in (program, parameters):
        if not path.is_file():
            raise ExportError(
                f"tracing {type(layer).__name__} wrote no '{path.name}'",
                why="a layer without parameters leaves none, and cannot be converted",
            )
    return program, parameters


@contextlib.contextmanager
def _named_by_keys(layer: Any) -> Iterator[None]:
    """Give every parameter and buffer its key as its name; afterwards each has its own again."""
    state = layer.state_dict()
    names = {key: tensor.name for key, tensor in state.items()}
    try:
        for key, tensor in state.items():
            tensor.name = key
        yield
    finally:
        for key, tensor in state.items():
            tensor.name = names[key]


def _as_written(layer: Any) -> Any:
    """Return a Layer that calls another one, whose code Paddle leaves alone."""
    paddle = import_paddle()

    class AsWritten(paddle.nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Any) -> Any:
            return self.layer(x)

    paddle.jit.not_to_static(AsWritten.forward)  # marks it
    whole = AsWritten()
    whole.eval()
    return whole


def _gist(error: Exception) -> str:
    """Return the line of a message of Paddle's tracer that says what happened.

    It shows the code first, then the error as Python prints it, then sometimes advice.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"\w*(?:Error|Exception): ", line)]
    return (said or lines or [type(error).__name__])[-1]
