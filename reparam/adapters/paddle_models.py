"""Paddle Layers: building, loading strictly, running in the precision asked for."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reparam.detection import RAW
from reparam.drafts import signals_held
from reparam.errors import CheckpointError, MissingDependencyError, UnsupportedModelError

Array = npt.NDArray[Any]

_NAMED = 3  # names that an error message lists before it only counts


def import_paddle() -> Any:
    """Return the ``paddle`` module, imported quietly and set to the CPU.

    Its advice about ccache and the warnings of its C++ part are silenced, and the signal handlers
    it installs are taken out again: they turn a signal into a C++ stack trace.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")  # read once, when its library is loaded
    try:
        # What an interrupt raises in the middle of its import, it turns into an error of its own.
        with signals_held(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            import paddle

            paddle.disable_signal_handler()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "paddle":
            raise
        raise MissingDependencyError.of("paddlepaddle", "running a network", "export") from error
    paddle.set_device("cpu")
    return paddle


def build_layer(
    recognised: Any, *, deploy: bool, overrides: Mapping[str, Any] | None = None
) -> Any:
    """Return the recognised network as a Layer in evaluation mode, its weights 0 or 1 as yet.

    A detector answers with its maps: what comes after them has no weights, and a sigmoid or a
    softmax would hide what is wrong in them.

    Args:
        recognised: what :func:`reparam.architectures.recognise` found.
        deploy: build the deploy form, else the train-time form, whatever form was recognised.
        overrides: settings that replace what was recognised or assumed.

    Raises:
        UnsupportedModelError: the settings do not describe a network.
    """
    paddle = import_paddle()
    from reparam.architectures import create_model

    settings = {**recognised.settings, **recognised.assumed, **(overrides or {})}
    zeros = paddle.nn.initializer.Constant(0.0)  # random ones take as long as the rest
    try:
        paddle.nn.initializer.set_global_initializer(zeros, zeros)
        layer = create_model(recognised.name, deploy=deploy, **settings)
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"cannot build '{recognised.name}'", found=f"{error}", why=f"settings {settings}"
        ) from error
    finally:
        paddle.nn.initializer.set_global_initializer(None, None)
    if hasattr(type(layer), "maps"):
        layer.head = RAW
    layer.eval()
    return layer


def as_float32(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays in float32; one that is float32 already is the same object."""
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}


def load_arrays(layer: Any, arrays: Mapping[str, Array]) -> None:
    """Load arrays into a Layer: every name on both sides, every shape and dtype equal.

    Raises:
        CheckpointError: they are not; the Layer is as it was, and the message names the first few.
    """
    paddle = import_paddle()
    state = layer.state_dict()
    network = type(layer).__name__
    refuse_keys("missing", [name for name in state if name not in arrays], network)
    refuse_keys("unexpected", [name for name in arrays if name not in state], network)
    different = [
        f"{name} is {_kind(array)}, needs {_kind_of_tensor(state[name])}"
        for name, array in arrays.items()
        if _kind(array) != _kind_of_tensor(state[name])
    ]
    refuse_keys("of another shape or dtype", different, network)
    with paddle.no_grad():
        for name, array in arrays.items():
            state[name].set_value(np.ascontiguousarray(array).reshape(array.shape))


def in_float64(layer: Any) -> Any:
    """Return a copy of a Layer whose parameters and buffers are float64, and so its arithmetic.

    The values are those of the Layer, widened without rounding. One constant stays what it was:
    Paddle keeps the epsilon of a BatchNorm as float32 (1e-5 is 9.99999975e-06).
    """
    wide = copy.deepcopy(layer)
    wide.to(dtype="float64")
    wide.eval()
    return wide


def run_layer(layer: Any, x: Array, *, threads: int = 1) -> list[Array]:
    """Return the outputs of a Layer in evaluation mode, in its order.

    Args:
        layer: returns a tensor, or a list, tuple or dict of tensors.
        x: the input, float32 or float64, of the dtype of the Layer's parameters.
        threads: that Paddle computes on; with one the result does not depend on the machine's load.

    Raises:
        TypeError: the dtypes of ``x`` and of the Layer differ (a mixture would be neither).
    """
    paddle = import_paddle()
    held = {_dtype_name(t) for t in layer.state_dict().values()} & {"float32", "float64"}
    if held - {x.dtype.name}:
        raise TypeError(f"a {x.dtype.name} input for a layer of {', '.join(sorted(held))}")
    paddle.base.core.set_num_threads(threads)
    layer.eval()
    with paddle.no_grad():
        found = layer(paddle.to_tensor(x))
    return [np.asarray(tensor.numpy()) for tensor in _tensors(found)]


class State(Mapping[str, Array]):
    """The state dict of a Layer as arrays, each made when it is asked for."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors

    def __getitem__(self, key: str) -> Array:
        return np.asarray(self._tensors[key].numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def only(self, keys: Iterable[str]) -> State:
        """Return the part with these keys, in their order."""
        return State({key: self._tensors[key] for key in keys})


def state_of(layer: Any) -> State:
    """Return the state dict of a Layer as arrays."""
    return State(layer.state_dict())


def keys_of(layer: Any, kind: str, parameter: str) -> list[str]:
    """Return the key of one parameter of every sublayer of one class, by the class's name."""
    parts = layer.named_sublayers(include_self=True)
    return [
        f"{prefix}.{parameter}".lstrip(".") for prefix, part in parts if type(part).__name__ == kind
    ]


def _tensors(found: Any) -> Iterable[Any]:
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        for part in found:
            yield from _tensors(part)
    else:
        yield found


def _dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _kind(array: Array) -> str:
    return f"{array.dtype.name} {tuple(array.shape)}"


def _kind_of_tensor(tensor: Any) -> str:
    return f"{_dtype_name(tensor)} {tuple(tensor.shape)}"


def refuse_keys(problem: str, names: Sequence[str], network: str) -> None:
    """Refuse names of arrays, if there are any, under one description of what is wrong.

    Raises:
        CheckpointError: names the first few.
    """
    if not names:
        return
    listed = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise CheckpointError(
        f"the arrays are not those of a {network}",
        found=f"{len(names)} {problem}: {listed}{more}",
        why="a network with a weight left out, renamed or at random would run, and be wrong",
    )
