"""Running a Layer of the user's own: how it takes an image, and what its blocks get to see."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reparam.adapters.foreign_import import first_line, stdout_as_stderr
from reparam.adapters.foreign_parts import copy_of, sublayer
from reparam.adapters.paddle_models import Array, import_paddle, in_float64
from reparam.conv.bounds import UNIT_ROUNDOFF
from reparam.errors import UnsupportedModelError

_IMAGE = "image"  # what the detectors of PaddleDetection call it, in the dict that they take


class Fed:
    """A Layer that can be run on one array, whatever it wants it wrapped in.

    Behaves as the Layer itself where :mod:`reparam.adapters.paddle_models` looks.

    Args:
        network: the Layer.
        channels: of the image.
        key: under which it wants the image in a dict; None if it takes the tensor itself.
    """

    def __init__(self, network: Any, channels: int, key: str | None = None) -> None:
        self.network = network
        self.channels = channels
        self.key = key

    def __call__(self, x: Any) -> list[Any]:
        """Return every tensor among the outputs, in their order.

        Raises:
            UnsupportedModelError: the network raised.
        """
        try:
            with stdout_as_stderr():
                found = self.network(x if self.key is None else {self.key: x})
        except (Exception, SystemExit) as error:
            raise UnsupportedModelError(
                f"the network {type(self.network).__name__} failed on an image of shape "
                f"{tuple(x.shape)}",
                found=first_line(error),
            ) from error
        return list(_tensors_in(found))

    def around(self, network: Any) -> Fed:
        """Return another Layer, to be run as this one is."""
        return Fed(network, self.channels, self.key)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.network.state_dict())

    def eval(self) -> None:
        self.network.eval()

    def to(self, **options: Any) -> None:
        self.network.to(**options)

    @property
    def input_name(self) -> str:
        """The name of the first parameter of ``forward``, or the key of its dict."""
        if self.key is not None:
            return self.key
        names = [
            name
            for name, parameter in inspect.signature(self.network.forward).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        return names[0] if names else "x"

    def traceable(self) -> Any:
        """Return a copy of the Layer that takes the tensor itself, for tracing."""
        network = copy_of(self.network)
        if self.key is not None:
            _take_tensors(network, self.key)
        return network


def feed(network: Any, shape: tuple[int, ...]) -> Fed:
    """Return the Layer, ready to be run on arrays like one of ``shape``.

    A Layer that does not take a tensor is given a dict with the tensor as ``"image"``.

    Raises:
        UnsupportedModelError: it takes neither, or returns no tensor.
    """
    paddle = import_paddle()
    network.eval()
    problems = []
    for key in (None, _IMAGE):
        fed = Fed(network, shape[1], key)
        try:
            with paddle.no_grad():
                outputs = fed(paddle.to_tensor(np.zeros(shape, np.float32)))
        except UnsupportedModelError as error:
            problems.append(error.found)
            continue
        if not outputs:
            problems.append("it returned no tensor")
            break
        return fed
    size = "x".join(map(str, shape[2:]))
    raise UnsupportedModelError(
        f"the network {type(network).__name__} does not run on an image",
        found=problems[0],
        why=f"it was given zeros of shape {shape}, and then a dict with these as '{_IMAGE}'",
        hint=f"--input-size other than {size}, --input-channels other than {shape[1]}",
    )


@dataclass(frozen=True)
class Call:
    """How a block was called: its arguments, every tensor among them as an array."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def arrays(self) -> list[Array]:
        """Return the arrays among the arguments, in order."""
        return [leaf for leaf in _leaves((self.args, self.kwargs)) if isinstance(leaf, np.ndarray)]

    def with_arrays(self, arrays: Sequence[Array]) -> Call:
        """Return the same call with other arrays, in the same order."""
        rest = iter(arrays)
        args, kwargs = _mapped(
            (self.args, dict(self.kwargs)),
            lambda leaf: next(rest) if isinstance(leaf, np.ndarray) else leaf,
        )
        return Call(args, kwargs)


def calls_of(fed: Fed, paths: Sequence[str], x: Array) -> dict[str, Call]:
    """Return how each sublayer is called first when the network runs on ``x``.

    One that is not called, in evaluation mode, is not in the result.
    """
    paddle = import_paddle()
    seen: dict[str, Call] = {}
    watched = fed.around(copy_of(fed.network))
    for path in paths:
        _watch(sublayer(watched.network, path), path, seen)
    watched.eval()
    with paddle.no_grad():
        watched(paddle.to_tensor(x))
    return seen


def parts_run(block: Any, call: Call) -> list[str]:
    """Return the paths of the parts of a block that run when it is called, in their order.

    Raises:
        Exception: whatever the block raises.
    """
    seen: dict[str, Call] = {}
    watched = copy_of(block)
    for path, part in watched.named_sublayers():
        _watch(part, path, seen)
    run_block(watched, call, "float32")
    return list(seen)


def run_block(block: Any, call: Call, dtype: str) -> list[Array]:
    """Return the output tensors of a block, with every float array of the call in ``dtype``.

    Raises:
        Exception: whatever the block raises.
    """
    paddle = import_paddle()

    def tensor(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        return paddle.to_tensor(leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf)

    args, kwargs = _mapped((call.args, dict(call.kwargs)), tensor)
    block.eval()
    with paddle.no_grad(), stdout_as_stderr():
        found = block(*args, **kwargs)
    return [np.asarray(t.numpy()) for t in _tensors_in(found)]


def absolute(block: Any) -> Any:
    """Return a float64 copy of a block that bounds it: with the absolute value of every weight.

    On the absolute value of an input it returns the sum of the absolute values of the terms that
    the block adds up, if its linear part is followed by nothing that falls; the means of its
    BatchNorms are taken with a minus, as they are subtracted.
    """
    paddle = import_paddle()
    wide = in_float64(block)
    with paddle.no_grad():
        for key, tensor in wide.state_dict().items():
            sign = -1.0 if key.endswith("_mean") else 1.0
            tensor.set_value(sign * np.abs(np.asarray(tensor.numpy())))
    return wide


def jittered(block: Any, seed: int) -> Any:
    """Return a float64 copy of a block, every weight off by one rounding of float32 up or down.

    What comes of it shows how much the block makes of roundings, a gate behind its sum above all.
    """
    paddle, rng = import_paddle(), np.random.default_rng(seed)
    wide = in_float64(block)
    with paddle.no_grad():
        for tensor in wide.state_dict().values():
            values = np.asarray(tensor.numpy())
            signs = rng.choice([-1.0, 1.0], size=values.shape)
            tensor.set_value(values * (1 + UNIT_ROUNDOFF["float32"] * signs))
    return wide


def randomise(layer: Any, seed: int) -> None:
    """Give a Layer weights and statistics as training leaves them, so that no mistake hides.

    A BatchNorm that was never trained multiplies by 1 and adds 0.
    """
    rng = np.random.default_rng(seed)
    with import_paddle().no_grad():
        for key, tensor in layer.state_dict().items():
            old = np.asarray(tensor.numpy())
            if old.dtype.kind != "f":
                continue
            inputs = np.sqrt(max(1.0, old[0].size)) if old.ndim > 1 else 1.0
            drawn = rng.normal(size=old.shape) / inputs
            if key.endswith("_variance"):
                drawn = rng.uniform(0.2, 3.0, old.shape)
            tensor.set_value(np.asarray(drawn, dtype=old.dtype))


def kernel_of(block: Any) -> tuple[int, ...]:
    """Return the largest kernel window in a block, per spatial axis; empty if it has none."""
    shapes = [tuple(t.shape) for t in block.state_dict().values()]
    windows = [shape[2:] for shape in shapes if len(shape) > 2]
    deepest = max(map(len, windows), default=0)
    return tuple(max(axis) for axis in zip(*(w for w in windows if len(w) == deepest), strict=True))


def _watch(block: Any, path: str, seen: dict[str, Call]) -> None:
    forward = block.forward

    def watching(*args: Any, **kwargs: Any) -> Any:
        if path not in seen:
            seen[path] = Call(*_mapped((args, kwargs), _as_array))
        return forward(*args, **kwargs)

    block.forward = watching


def _as_array(leaf: Any) -> Any:
    return np.asarray(leaf.numpy()) if _is_tensor(leaf) else leaf


def _is_tensor(value: Any) -> bool:
    return isinstance(value, import_paddle().Tensor)


def _tensors_in(value: Any) -> Iterator[Any]:
    return (leaf for leaf in _leaves(value) if _is_tensor(leaf))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(part, change) for part in value])
    return change(value)


def _take_tensors(network: Any, key: str) -> None:
    """Have a Layer take the tensor itself, in place of a dict with it; its keys stay the same."""
    kind = type(network)

    def forward(self: Any, image: Any) -> Any:
        return kind.forward(self, {key: image})

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward})
