"""Inputs for a whole graph, made from what its interface says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from reparam.adapters.onnx_model import Value
from reparam.graph.evaluation_calls import Array

SIZES = ((64, 96), (65, 97), (96, 64))
"""(H, W) of an image where both are open: deep networks halve them five times."""

LARGER = ((224, 224), (256, 320), (640, 640))  # where a graph takes none of the others
_LENGTHS = (16, 17, 24, 32)  # of any other open axis
_BATCHES = (2, 1)
_KINDS = {"float32", "float16", "float64", "bfloat16", "bool", "string"}
_KINDS |= {"int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"}


@dataclass(frozen=True)
class Plan:
    """Sizes of every open axis, and how many values make up a batch."""

    image: tuple[int, int]
    length: int
    batch: int


def plans(sizes: Sequence[tuple[int, int]]) -> Iterator[Plan]:
    """Yield plans, those with the first of ``sizes`` first."""
    for at, image in enumerate(sizes):
        for batch in _BATCHES:
            yield Plan(image, _LENGTHS[at % len(_LENGTHS)], batch)


def unknown_kind(inputs: Sequence[Value]) -> str:
    """Return what of an input cannot be made, or nothing."""
    for value in inputs:
        if value.dtype not in _KINDS:
            return f"input '{value.name}' is of the dtype {value.dtype}"
    return ""


def shapes(inputs: Sequence[Value], plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return a shape for each input; axes of one name are equally long everywhere."""
    named: dict[str, int] = {}
    found = {}
    for value in inputs:
        sides = iter(plan.image * 2)
        sizes = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int) and size >= 0:
                sizes.append(size)
                continue
            if axis == 0:
                open_size = plan.batch
            else:
                open_size = next(sides) if len(value.shape) == 4 else plan.length
            name = str(size)
            sizes.append(named.setdefault(name, open_size) if name not in ("", "0") else open_size)
        found[value.name] = tuple(sizes)
    return found


PROBES = ("normal", "corner impulses and ones")


def feeds(inputs: Sequence[Value], plan: Plan, probe: str, seed: int) -> dict[str, Array]:
    """Return an array for each input.

    Floats as ``probe`` says; integers from 0 to 3, which indices, lengths and counts mostly allow,
    and such numbers as texts; the sizes that detectors ask for beside an image are what they are.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for value in inputs:
        shape = shapes(inputs, plan)[value.name]
        if value.dtype == "bool":
            made[value.name] = np.asarray(rng.random(shape) < 0.5)
        elif "int" in value.dtype or value.dtype == "string":
            made[value.name] = np.asarray(rng.integers(0, 4, size=shape))
        elif value.name == "scale_factor":
            made[value.name] = np.ones(shape)
        elif value.name == "im_shape":
            made[value.name] = np.broadcast_to(np.array(plan.image, float), shape)
        else:
            made[value.name] = _normal(rng, shape) if probe == PROBES[0] else _corners(rng, shape)
    return {v.name: _as(made[v.name], v.dtype) for v in inputs}


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.standard_normal(shape))


def _corners(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return corner impulses, and ones in every second sample."""
    array = np.zeros(shape)
    for at in product(*((0, n - 1) for n in shape[2:])):
        where: Any = (slice(None), slice(None), *at)[: len(shape)]
        array[where] = 3 * rng.standard_normal(array[where].shape)
    if shape:
        array[1::2] = 1.0
    return array


def _as(array: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    if dtype == "string":
        return array.astype(str).astype(object)
    return array.astype(dtype)
