"""A checked float32 graph as a float16 one: what fits, and what rounding did to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reparam.adapters.onnx_axes import AXES, with_open_axes
from reparam.adapters.onnx_files import write_model
from reparam.adapters.onnx_float16 import (
    LARGEST,
    Rounding,
    rounded_to_float16,
    to_float16,
    with_all_values,
)
from reparam.adapters.onnx_runtime import open_session
from reparam.adapters.paddle_models import Array, state_of
from reparam.errors import ExportError
from reparam.exporter.networks import Network
from reparam.exporter.probing import Probe


@dataclass(frozen=True)
class Narrow:
    """A model in float16.

    Attributes:
        proto: the model; its heavy weights are inputs.
        weights: these, in float16.
        values: what the file has to hold, by key.
        rounding: what rounding did to the weights.
        largest: largest absolute value inside the float32 network on the probes.
        largest_at: what makes it.
    """

    proto: Any
    weights: Mapping[str, Array]
    values: Mapping[str, Array]
    rounding: Rounding
    largest: float
    largest_at: str


def in_float16(
    proto: Any,
    weights: Mapping[str, Array],
    network: Network,
    probes: Sequence[Probe],
    file: Path,
    keep_inputs: bool,
    keep_outputs: bool,
    made: Mapping[str, Array] | None = None,
) -> Narrow:
    """Return a model in float16, each weight rounded once from the exact value.

    Args:
        proto: in float32; inputs in ``weights`` are weights.
        weights: the heavy ones.
        network: they are of.
        probes: images to look for overflow with.
        file: holds the model in float32; a copy may be written beside it.
        keep_inputs: leave inputs float32.
        keep_outputs: leave outputs float32.
        made: weights that are of no layer; float32 is as exact as they are.

    Raises:
        ExportError: a weight or a value inside the network is too large, or an operator is not
            known to compute in float16.
    """
    exact = {**state_of(network.exported), **(network.exact() if network.exact else {})}
    exact.update((name, array) for name, array in (made or {}).items() if array.dtype.kind == "f")
    heavy, done = {}, Rounding()
    for name in weights:
        heavy[name], more = rounded_to_float16(name, exact[name])
        done += more
    narrow, more = to_float16(proto, exact, keep_inputs, keep_outputs)
    largest, where = _largest_value(proto, weights, probes, file)
    if not largest <= LARGEST:
        raise ExportError(
            "a value inside the network does not fit float16",
            found=f"{largest:.6g} from {where} on a made-up image; float16 ends at {LARGEST:g}",
            hint="--precision float32",
        )
    values = {name: array.astype(np.float16) for name, array in exact.items()}
    return Narrow(narrow, heavy, values, done + more, largest, where)


def _largest_value(
    proto: Any, weights: Mapping[str, Array], probes: Sequence[Probe], file: Path
) -> tuple[float, str]:
    """Return the largest absolute value that any operator makes, and which operator that is."""
    model, makers = with_all_values(with_open_axes(proto, AXES, weights), set(weights))
    every = file.with_name("every_value.onnx")
    write_model(model, weights, every, every.with_name("every_value.onnx.data"))
    session = open_session(every)
    names = [output.name for output in session.get_outputs()]
    found: dict[str, float] = {}
    for probe in probes:
        feeds = {session.get_inputs()[0].name: probe.images}
        for name, value in zip(names, session.run(None, feeds), strict=True):
            if name in makers and value.dtype.kind == "f":
                found[name] = max(found.get(name, 0.0), float(np.max(np.abs(value))))
    worst = max(found, key=lambda name: found[name])
    return found[worst], makers[worst]
