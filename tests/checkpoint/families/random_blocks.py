"""A random block of any family, drawn from its record alone: every optional part is there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reparam.checkpoint.families import Family
from reparam.checkpoint.families.terms import (
    COLUMN,
    COUNTER,
    NEVER,
    ODD,
    POINT,
    ROW,
    SAME,
    SMALLER,
    STATISTICS,
    TORCH,
    WIDE,
    Chain,
    Each,
    Either,
    Kernel,
    Leaf,
    Maybe,
    Norm,
    Scale,
    Sum,
    Term,
    leaves,
)

Arrays = dict[str, np.ndarray]

CHANNELS, WINDOW = 4, (5, 5)
NUMBERS = {"k": "3", "r": "1", "n": "0"}  # in names; the branches that {i} counts are two


def random_block(family: Family, spelling: str, seed: int = 0) -> Arrays:
    """Return float32 arrays of a block of four channels, as training leaves them."""
    rng = np.random.default_rng(seed)
    kernels = [leaf for leaf in leaves(family.term) if isinstance(leaf, Kernel)]
    prefix = f"{family.within or 'b'}."
    depthwise = any(kernel.depthwise for kernel in kernels) and not family.dense
    groups = CHANNELS if depthwise else 2 if any(kernel.grouped for kernel in kernels) else 1
    arrays: Arrays = {}
    for number, (leaf, values) in enumerate(_leaves(family.term, {})):
        for name, shape in _arrays_of(leaf, groups, spelling, first=not number):
            for brace, value in {**NUMBERS, **values}.items():
                name = name.replace(f"{{{brace}}}", value)
            arrays[prefix + name] = _values(name, shape, rng)
    for name in family.beside:
        arrays[prefix + name] = np.ones((1, 1), np.float32)
    return arrays


def _leaves(term: Term, values: dict[str, str]) -> Iterator[tuple[Leaf, dict[str, str]]]:
    if isinstance(term, Chain | Sum):
        for part in term.parts if isinstance(term, Chain) else term.branches:
            yield from _leaves(part, values)
    elif isinstance(term, Maybe | Either):
        yield from _leaves(term.term if isinstance(term, Maybe) else term.terms[0], values)
    elif isinstance(term, Each):
        counts = any("{i}" in _names(leaf) for leaf in leaves(term.term))
        for number in ("0", "1") if counts else ("0",):
            yield from _leaves(term.term, {**values, "i": number})
    else:
        yield term, values


def _names(leaf: Leaf) -> str:
    return " ".join(str(getattr(leaf, name, "")) for name in ("name", "factor", "weight_key"))


def _arrays_of(
    leaf: Leaf, groups: int, spelling: str, *, first: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if isinstance(leaf, Kernel):
        inputs = 1 if leaf.depthwise else CHANNELS // groups
        shape: tuple[int, ...] = (CHANNELS, inputs, *_window(leaf, first))
        shape = shape[:2] if leaf.linear else (shape[0], *shape[2:]) if leaf.planes else shape
        yield leaf.weight, shape
        if leaf.bias != NEVER:
            yield leaf.shift, (CHANNELS,)
    elif isinstance(leaf, Norm):
        stem = f"{leaf.name}." if leaf.name else ""
        yield from ((stem + key, (CHANNELS,)) for key in ("weight", "bias", *STATISTICS[spelling]))
        if spelling == TORCH:
            yield stem + COUNTER, ()
    elif isinstance(leaf, Scale):
        shape = (1,) if leaf.scalar else (CHANNELS,)
        shape = shape if leaf.row is None else (leaf.rows[0], CHANNELS)
        yield from ((key, shape) for key in (leaf.factor, leaf.shift) if key)


def _window(kernel: Kernel, first: bool) -> tuple[int, ...]:
    if isinstance(kernel.size, tuple):
        return kernel.size
    sizes = {
        WIDE: WINDOW,
        ODD: WINDOW,
        POINT: (1, 1),
        SAME: WINDOW,
        SMALLER: WINDOW if first else (3, 3),
        COLUMN: (5, 1),
        ROW: (1, 5),
    }
    return sizes.get(kernel.size) or (int(NUMBERS["k"]),) * 2


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    last = name.rpartition(".")[2]
    if last == COUNTER:
        return np.array(1000)
    if last in {pair[1] for pair in STATISTICS.values()}:
        return rng.uniform(0.2, 3.0, shape).astype(np.float32)
    if last == "weight" and len(shape) == 1:
        signs = rng.choice([-1.0, 1.0], shape)
        return (rng.uniform(0.5, 1.5, shape) * signs).astype(np.float32)
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1.0
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)
